"""The learning-rate finder: the loss while the rate rises from tiny to far too large."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from customfit.arguments import as_count
from customfit.callbacks import Axes, StepHistory, new_axes
from customfit.compat import keras, tf
from customfit.gradients import NonFiniteError
from customfit.tools.restoring import restored, unread


@dataclasses.dataclass(frozen=True)
class LearningRateSearch:
    """What `find_learning_rate` has found.

    Attributes:
        rates: The learning rate of each step, rising; for groups of optimizers, that of the first.
        losses: The loss of each step's batch.
        smoothed: The moving average of the losses.
        suggestion: A rate in the middle of the longest fall of the smoothed loss, or `None` if there is none. It is a
            good rate to train with, and a good `max_rate` of `callbacks.OneCycle`.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None

    def plot(self, axes: Axes | None = None) -> Axes:
        """Plots the loss over the learning rate, with the suggestion.

        Args:
            axes: Matplotlib axes to draw on. Defaults to those of a new figure.

        Returns:
            The axes: `axes.figure.savefig("rates.png")` saves them.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        axes = new_axes("LearningRateSearch.plot") if axes is None else axes
        axes.plot(self.rates, self.losses, alpha=0.3, linewidth=0.8, label="loss of the batch")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="black", linestyle=":", label=f"suggestion: {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        return axes


def find_learning_rate(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    batch_size: int | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
) -> LearningRateSearch:
    """Trains for a few steps while the learning rate rises, and suggests a rate (Smith 2017).

    https://arxiv.org/abs/1506.01186. Afterwards the model, its optimizer and metrics, the data and the random states
    are what they were before, to the bit. (A model that had no weights has been built.)

    Args:
        model: A compiled `CustomTrainModel`.
        x: Arrays or a `tf.data.Dataset`, as in `custom_fit`; or a function that makes the data: `x`, or `(x, y)`.
        y: Targets, if `x` is inputs only.
        batch_size: Rows in a batch. Use that of your training run: the best rate depends on it.
        sample_weight: As in `custom_fit`.
        class_weight: As in `custom_fit`.
        lowest: The rate of the first step. Defaults to 1e-6.
        highest: The rate of the last step. Defaults to 10.
        steps: How many steps. Defaults to 100.
        smoothing: The weight of the past in the moving average of the losses. Defaults to 0.9.

    Returns:
        A `LearningRateSearch`. Its curve ends where the loss has grown to four times its lowest.

    Raises:
        ValueError: If an argument is wrong, reading the data would change it, or the optimizer has a schedule.

    Example:

    >>> search = customfit.find_learning_rate(model, x, y, batch_size=64)
    >>> search.suggestion
    0.0031
    >>> search.plot().figure.savefig("rates.png")
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(
            f"`lowest` and `highest` must be rates, the first one lower. Received: lowest={lowest!r}, "
            f"highest={highest!r}"
        )
    if not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must be from 0 to 1, and not 1. Received: smoothing={smoothing!r}")
    steps = as_count("steps", steps, 5)
    x, y = unread(x, y)
    each = model.gradient_pipeline.accumulation_steps or 1
    recorded = StepHistory(every=each)
    # With `compile(nonfinite="raise")`, the steps before the error tell enough.
    with restored(model, x, y, batch_size), contextlib.suppress(NonFiniteError):
        model.custom_fit(
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
            epochs=steps * each,  # of one step at least
            max_steps=steps * each,
            verbose=0,
            callbacks=[_Ramp(lowest, highest, steps), recorded],
        )
    values = recorded.history
    if "batch_loss" not in values:
        raise ValueError(
            "`train_step` must call `self.track_loss(loss, x)`: the loss of each batch is needed. Received: a "
            f"`{type(model).__name__}` whose step does not."
        )
    rates = next(column for name, column in values.items() if name.startswith("learning_rate"))
    rising = np.diff(rates, prepend=0.0) > 0  # not where accumulated batches have made no update between
    return _search(rates[rising], values["batch_loss"][rising], smoothing)


def _search(rates: np.ndarray, losses: np.ndarray, smoothing: float) -> LearningRateSearch:
    """Returns the search of these losses, up to where they diverge."""
    bad = np.flatnonzero(~np.isfinite(losses))
    losses = losses[: bad[0]] if len(bad) else losses
    smoothed, mean = np.zeros(len(losses)), 0.0
    for step, loss in enumerate(losses):
        mean = smoothing * mean + (1 - smoothing) * loss
        smoothed[step] = mean / (1 - smoothing ** (step + 1))
    far = np.flatnonzero(smoothed > 4 * np.minimum.accumulate(np.abs(smoothed)))
    end = int(far[0]) + 1 if len(far) else len(losses)
    rates, losses, smoothed = rates[:end], losses[:end], smoothed[:end]
    return LearningRateSearch(rates, losses, smoothed, _in_valley(rates, smoothed))


def _in_valley(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    """Returns the rate in the middle of the longest fall of the loss, as fastai's "valley" does.

    The fall is the longest falling subsequence. So the noise of single batches does not decide.
    """
    length, before = np.ones(len(smoothed), int), np.full(len(smoothed), -1)
    for step in range(1, len(smoothed)):
        higher = np.flatnonzero(smoothed[:step] > smoothed[step])
        if len(higher):
            before[step] = higher[np.argmax(length[higher])]
            length[step] = length[before[step]] + 1
    if not len(smoothed) or length.max() < max(5, len(smoothed) // 5):
        return None
    fall = [int(np.argmax(length))]
    while before[fall[-1]] >= 0:
        fall.append(int(before[fall[-1]]))
    return float(rates[fall[::-1][len(fall) // 2]])


class _Ramp(keras.callbacks.Callback):
    """Raises the learning rate exponentially, in the graph of each step."""

    def __init__(self, lowest: float, highest: float, steps: int):
        super().__init__()
        self._lowest, self._ratio, self._steps = lowest, math.log(highest / lowest), steps

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        model.gradient_pipeline.observers.set_schedule(model, lambda share: self._lowest * tf.exp(self._ratio * share))

    def on_train_begin(self, logs: Any = None) -> None:
        schedule = self.model.gradient_pipeline.observers.schedule
        schedule.start(schedule.updates_done, self._steps)
