"""When a session validates, and on what."""

from __future__ import annotations

import math
from typing import Any, Callable

from customfit import compat
from customfit.arguments import is_count
from customfit.compat import keras
from customfit.data import Source
from customfit.execution import replicas
from customfit.training.evaluation import Evaluation


class Validation:
    """Passes over the validation data: after epochs, or every so many steps.

    Args:
        evaluation: Makes the passes.
        data: The sources, by the prefix of their logs.
        freq: After which epochs: every so many, or a list of epochs counted from 1.
        interval: After how many steps, counted over all epochs, instead; or `None`.

    Attributes:
        done: What each pass within an epoch has found: its logs, with the step and the epoch.
        passes: How many there were: within epochs, after them, and one before the first where that was asked for.

    Raises:
        ValueError: If an option is wrong.
    """

    def __init__(self, evaluation: Evaluation, data: dict[str, Source], freq: Any = 1, interval: Any = None):
        _check_freq(freq)
        _check_interval(interval, freq, bool(data))
        self.data = data
        self.interval = None if interval is None else int(interval)
        self.done: list[dict] = []
        self.passes = 0
        self.freq = freq
        self._evaluation = evaluation

    def due_after_epoch(self, epoch: int) -> bool:
        """Whether `validation_freq` has this epoch validated."""
        if not self.data or self.interval is not None:
            return False
        if isinstance(self.freq, int):
            return (epoch + 1) % self.freq == 0
        return epoch + 1 in self.freq

    def due_at(self, step: int) -> bool:
        """Whether `validation_interval` asks for a pass after so many steps, and there was none yet."""
        if self.interval is None or step == 0 or step % self.interval:
            return False
        return not self.done or self.done[-1]["step"] != step

    def steps_until_due(self, step: int) -> float:
        """How many steps, from this one on, until `validation_interval` asks for a pass."""
        return math.inf if self.interval is None else self.interval - step % self.interval

    def logs_within(self, epoch: int) -> dict:
        """The logs of the last pass within an epoch."""
        last = self.done[-1] if self.done else {"epoch": None}
        if last["epoch"] != epoch:
            return {}
        return {name: value for name, value in last.items() if name not in ("step", "epoch")}

    def run(self, after_block: Callable[[], None]) -> dict:
        """Runs `test_step` over all the data; no weight moves.

        Args:
            after_block: Called after each block of steps; what it raises ends the pass.

        Returns:
            The logs, as numbers, by their names with prefix.
        """
        if not self.data:
            raise ValueError("`validation_data` must be given to validate. Received: validation_data=None")
        logs = {
            f"{prefix}{name}": value
            for prefix, source in self.data.items()
            for name, value in self._evaluation.run(source, after_block).items()
        }
        self.passes += 1
        return logs


def metric_variables(model: keras.Model) -> list:
    """The variables of all the model's metrics, those of gradients among them; of each replica."""
    variables = [variable for metric in model.metrics for variable in metric.variables]
    variables += model.gradient_pipeline.metrics.of_epoch
    strategy = model.distribute_strategy
    return [copy for variable in variables for copy in replicas.copies(strategy, compat.tf_variable(variable))]


def _check_freq(freq: Any) -> None:
    positive = isinstance(freq, int) and not isinstance(freq, bool) and freq >= 1
    if not positive and (isinstance(freq, (str, int, float)) or not hasattr(freq, "__contains__")):
        raise ValueError(
            f"`validation_freq` must be a positive integer or a list of epochs. Received: validation_freq={freq!r}"
        )


def _check_interval(interval: Any, freq: Any, has_data: bool) -> None:
    if interval is None:
        return
    if not is_count(interval, 1):
        raise ValueError(
            f"`validation_interval` must be a positive number of steps. Received: validation_interval={interval!r}"
        )
    if not has_data:
        raise ValueError(
            "`validation_interval` must come with validation data. Received: "
            f"validation_interval={interval}, validation_data=None"
        )
    if freq != 1:
        raise ValueError(
            "At most one of `validation_interval` and `validation_freq` may be set. Received: "
            f"validation_interval={interval}, validation_freq={freq!r}"
        )
