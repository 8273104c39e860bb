"""One cycle of the learning rate: up, and down to almost nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from customfit.arguments import as_count
from customfit.compat import keras, tf


class OneCycle(keras.callbacks.Callback):
    """Raises the learning rate to its maximum and lowers it to almost nothing, in one cycle over the training run.

    Smith 2018, https://arxiv.org/abs/1803.09820, with the two cosines of torch's `OneCycleLR` and of fastai. While the
    rate rises, momentum falls (`momentum` of SGD, `beta_1` of Adam and its kin), and rises again.

    The rate is set in the graph of each step, by how many updates the optimizer has made. So steps still run in blocks
    under `custom_fit()`, the cycle is resumed where it was, and gradient accumulation counts updates. It works under
    `fit()` too. For several groups of optimizers, the rate is that of the first one, and the others keep their
    proportion. When training ends, the rate stays where it is, and momentum is what it was.

    Args:
        max_rate: The highest learning rate: see `customfit.find_learning_rate`.
        updates: Updates of the weights in the cycle. Defaults to those of the training run.
        warmup: The share of the updates in which the rate rises. Defaults to 0.3.
        start_factor: The first rate is `max_rate` divided by this. Defaults to 25.
        end_factor: The last rate is the first one divided by this. Defaults to 1e4.
        momentum: The lowest and the highest momentum, or `None` to leave it. Defaults to `(0.85, 0.95)`.

    Raises:
        TypeError: If the model is not a `CustomTrainModel`.
        ValueError: If an option is wrong, the optimizer has a schedule of its own, or `updates` must be given because
            the length of the data is not known.

    Example:

    >>> rate = customfit.find_learning_rate(model, x, y).suggestion
    >>> model.custom_fit(x, y, epochs=10, callbacks=[customfit.callbacks.OneCycle(rate)])
    """

    def __init__(
        self,
        max_rate: float,
        updates: int | None = None,
        *,
        warmup: float = 0.3,
        start_factor: float = 25.0,
        end_factor: float = 1e4,
        momentum: tuple[float, float] | None = (0.85, 0.95),
    ):
        super().__init__()
        for name, value in {"max_rate": max_rate, "start_factor": start_factor, "end_factor": end_factor}.items():
            if not value > 0 or not math.isfinite(value):
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")
        if not 0 < warmup < 1:
            raise ValueError(f"`warmup` must be between 0 and 1. Received: warmup={warmup!r}")
        if momentum is not None and not 0 <= momentum[0] <= momentum[1] < 1:
            raise ValueError(f"`momentum` must be `(lowest, highest)`, from 0 to 1. Received: momentum={momentum!r}")
        self.max_rate = max_rate
        self.updates = None if updates is None else as_count("updates", updates)
        self.warmup = warmup
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.momentum = momentum
        self._cycle: tuple[int, int] | None = None  # the update with which it begins, and how many it has

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "gradient_pipeline", None) is None:
            raise TypeError(f"`OneCycle` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}")
        first = self.max_rate / self.start_factor
        rate = (first, self.max_rate, first / self.end_factor)
        momentum = None if self.momentum is None else (self.momentum[1], *self.momentum)
        model.gradient_pipeline.observers.set_schedule(
            model, lambda share: self._at(share, rate), momentum and (lambda share: self._at(share, momentum))
        )

    def _at(self, share: tf.Tensor, values: tuple[float, float, float]) -> tf.Tensor:
        """Returns the value at a share of the cycle: from the first along a cosine to the second, then to the third."""
        begin, peak, end = values
        rising = _cosine(begin, peak, share / self.warmup)
        return tf.where(share < self.warmup, rising, _cosine(peak, end, (share - self.warmup) / (1.0 - self.warmup)))

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._cycle = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        schedule = self.model.gradient_pipeline.observers.schedule
        if schedule is None:  # `compile()` in a callback has made another pipeline
            self.set_model(self.model)
            schedule = self.model.gradient_pipeline.observers.schedule
        if self._cycle is None:
            self._cycle = schedule.updates_done, self.updates or self._updates_from(epoch)
        schedule.start(*self._cycle)

    def _updates_from(self, epoch: int) -> int:
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if not epochs or not steps:
            raise ValueError(
                "`OneCycle(updates=)` must be given where the length of the data is not known. Received: updates=None"
            )
        return (epochs - epoch) * math.ceil(steps / (self.model.gradient_pipeline.accumulation_steps or 1))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self.model.gradient_pipeline.observers.set_schedule(self.model, None)

    def get_state(self) -> dict[str, Any]:
        """Returns where the cycle began and how long it is, for a checkpoint of `custom_fit`."""
        return {"cycle": None if self._cycle is None else list(self._cycle)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the cycle.

        Args:
            state: What `get_state` returned.
        """
        self._cycle = None if state["cycle"] is None else tuple(state["cycle"])


def _cosine(begin: float, end: float, share: tf.Tensor) -> tf.Tensor:
    return end + (begin - end) / 2.0 * (1.0 + tf.cos(math.pi * share))
