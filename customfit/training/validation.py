"""Validation: after epochs, within them, and before the first one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Union

from customfit import compat
from customfit.arguments import as_count, is_count
from customfit.checkpoint import changed_by_validation
from customfit.compat import keras
from customfit.data import FirstBatches, Source, make_validation_source
from customfit.every import Every
from customfit.execution import VariableSnapshot, check_resources, compiled_steps, replicas
from customfit.training.checks import check_labels, check_targets
from customfit.training.evaluation import Evaluation
from customfit.training.progress import Logs, Progress

Frequency = Union[int, Collection[int], Every]


class Validation:
    """Passes over the validation data. No weight moves.

    Args:
        model: The model.
        callbacks: The `CallbackList`.
        data: The sources, by the prefix of their logs.
        arguments: What `fit` would call `evaluate` with, by the same prefix. A class that overrides `evaluate` is
            called with it.
        freq: After which epochs: every so many, a list of epochs counted from 1, or an `Every`. With
            `Every(steps=)` and `Every(seconds=)` passes are made within epochs instead.
        progress: How far the run is. Each pass is recorded there.
        clock: A clock in seconds that never goes back; only differences count.

    Raises:
        ValueError: If `freq` is wrong, or is given without data.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: keras.callbacks.CallbackList,
        data: Mapping[str, Source],
        arguments: Mapping[str, Mapping[str, Any]],
        freq: Frequency,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ):
        _check(freq, bool(data))
        for source in data.values():
            check_targets(model, source, "test_step", "validation_data")
        self.data = data
        self.freq = freq
        self._model = model
        self._callbacks = callbacks
        self._arguments = arguments
        self._evaluation = Evaluation(model, callbacks, progress=False)
        self._progress = progress
        self._steps = freq.steps if isinstance(freq, Every) else None
        self._seconds = freq.in_seconds if isinstance(freq, Every) else None
        self._epochs = freq.epochs if isinstance(freq, Every) else freq
        self._clock = clock
        self._last = clock()

    @property
    def steps(self) -> int | None:
        """After how many training steps a pass is due within epochs, or `None`."""
        return self._steps

    @property
    def is_within_epochs(self) -> bool:
        """Whether passes are made within epochs, by steps or by time."""
        return self._epochs is None

    def begin(self) -> None:
        """Starts to count the time."""
        self._last = self._clock()

    def due_after_epoch(self, epoch: int) -> bool:
        """Whether a pass is due after this epoch."""
        if not self.data or self._epochs is None:
            return False
        if is_count(self._epochs, 1):
            return (epoch + 1) % as_count("validation_freq", self._epochs) == 0
        return epoch + 1 in self._epochs  # type: ignore[operator]

    def due_within_epoch(self) -> bool:
        """Whether a pass is due at this step and has not been made."""
        if self._seconds is not None:
            return self._clock() - self._last >= self._seconds
        step, done = self._progress.total_steps, self._progress.validations
        if self._steps is None or step == 0 or step % self._steps:
            return False
        return not done or done[-1]["step"] != step

    def steps_until_due(self) -> float:
        """How many steps from here until a pass is due within the epoch."""
        return math.inf if self._steps is None else self._steps - self._progress.total_steps % self._steps

    def logs_within(self, epoch: int) -> Logs:
        """The logs of the last pass within an epoch."""
        done = self._progress.validations
        if not done or done[-1]["epoch"] != epoch:
            return {}
        return {name: value for name, value in done[-1].items() if name not in ("step", "epoch")}

    def run(self, between_blocks: Callable[[], None]) -> Logs:
        """Makes a pass over all the data.

        Args:
            between_blocks: Called after each block of steps. If it raises, metrics and random states are as before.

        Returns:
            The logs, as numbers, by their names with prefix.
        """
        if not self.data:
            raise ValueError("`validation_data` must be given to validate. Received: validation_data=None")
        before = VariableSnapshot([*metric_variables(self._model), *changed_by_validation(self._model)])
        try:
            logs = {
                f"{prefix}{name}": value
                for prefix, source in self.data.items()
                for name, value in self._evaluate(prefix, source, between_blocks).items()
            }
        except (KeyboardInterrupt, SystemExit):
            before.restore()  # a checkpoint made now is of the moment before this pass, which is still due
            raise
        self._progress.validation_passes += 1
        self._last = self._clock()
        return logs

    def _evaluate(self, prefix: str, source: Source, between_blocks: Callable[[], None]) -> Logs:
        """Makes a pass over one set, below the class's own `evaluate` if it has one."""
        arguments = {**self._arguments[prefix], "callbacks": self._callbacks}
        if not getattr(source, "continues", False) or self._progress.validation_passes == 0:
            source.restart()
        return self._model.through_evaluate(arguments, lambda: self._evaluation.run(source, between_blocks))

    def run_within_epoch(self, between_blocks: Callable[[], None]) -> Logs:
        """Makes a pass within an epoch: the training metrics continue afterwards where they were.

        Callbacks that have `on_validation_end(step, logs)` are told.
        """
        training_metrics = VariableSnapshot(metric_variables(self._model))
        logs = self.run(between_blocks)
        training_metrics.restore()
        progress = self._progress
        progress.validations.append({"step": progress.total_steps, "epoch": progress.epoch, **logs})
        for callback in self._callbacks.callbacks:
            if hasattr(callback, "on_validation_end"):
                callback.on_validation_end(progress.total_steps, logs)
        return logs

    def run_before_training(self, batches: int, between_blocks: Callable[[], None]) -> None:
        """Validates a few batches of each set, so that a mistake there shows before the first epoch.

        It leaves no trace, except that data which shuffles itself has done so once.
        """
        silent = keras.callbacks.CallbackList(model=self._model)
        for source in self.data.values():
            before = self._state_before(source)
            source.restart()
            Evaluation(self._model, silent, progress=False).run(FirstBatches(source, batches), between_blocks)
            before.restore()
        self._progress.sanity_batches = batches

    def _state_before(self, source: Source) -> VariableSnapshot:
        """The state that `test_step` may change, wherever it is kept, as it is now."""
        step, spec, tables = compiled_steps(self._model).test, getattr(source, "element_spec", None), {}
        if spec is not None and step.needs_trace:
            step.trace(spec)
        if step.captures is not None:
            tables = check_resources(step.captures, self._model, "`sanity_validation` cannot undo")
        return VariableSnapshot(changed_by_validation(self._model), tables)


def make_sources(
    model: keras.Model, sets: Mapping[str, Mapping[str, Any]], workers: Mapping[str, Any]
) -> dict[str, Source]:
    """Returns the sources of validation sets, by the prefix of their logs.

    Args:
        model: The model, whose own `evaluate` may preprocess data.
        sets: What `validation_arguments` returned.
        workers: Options of `keras.utils.Sequence` data.
    """
    arrived = {prefix: model.evaluate_arguments(arguments) for prefix, arguments in sets.items()}
    sources = {prefix: make_validation_source(**given, model=model, **workers) for prefix, given in arrived.items()}
    for arguments in arrived.values():
        check_labels(model, arguments["y"], "validation_data")
    return sources


def metric_variables(model: keras.Model) -> list:
    """The variables of all the model's metrics, including those of gradients; each replica's own."""
    variables: list[Any] = compat.variables_in(weight for metric in model.metrics for weight in metric.variables)
    variables += model.gradient_pipeline.metrics.epoch_variables
    strategy = model.distribute_strategy
    return [copy for variable in variables for copy in replicas.copies(strategy, compat.tf_variable(variable))]


def _check(freq: object, has_data: bool) -> None:
    if isinstance(freq, Every):
        if freq.epochs is None and not has_data:
            raise ValueError(f"`validation_freq={freq}` needs validation data. Received: validation_data=None")
        return
    is_one = isinstance(freq, (str, int, float)) or getattr(freq, "shape", None) == ()
    if not is_count(freq, 1) and (is_one or not hasattr(freq, "__contains__")):
        raise ValueError(
            "`validation_freq` must be a positive integer, a list of epochs counted from 1, or an `Every`. Received: "
            f"validation_freq={freq!r}"
        )
