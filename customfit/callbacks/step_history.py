"""The values of every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from customfit import compat
from customfit.arguments import as_count
from customfit.callbacks.figures import Axes, new_axes
from customfit.compat import keras, tf

ROWS = 1024


class StepHistory(keras.callbacks.Callback):
    """Records the values of every step, or of every n-th: the batch's own loss, the logs, and the learning rate.

    `History` has one value an epoch. This has one a step, under `fit()` and `custom_fit()`. Values are written in the
    graph of the step and are read when an epoch ends, so no step waits for the device, and `custom_fit()` still runs
    steps in blocks. With `checkpoint=` a resumed run ends with the values of one that was left alone.

    The logs are what callbacks get: for the loss and for metrics that average, the mean over the epoch so far.
    `"batch_loss"` is the loss of that batch alone, regularization included: on several replicas, the mean over the rows
    of all. A `train_step` of your own has it if it calls `self.track_loss`. A log that is no number, such as a tensor
    with axes, is left out.

    Args:
        every: Of how many steps the last is recorded, counted over all epochs. Defaults to 1: all of them.

    Attributes:
        steps: The steps that were recorded, counted from 1 over all epochs.
        history: The values at these steps, by name: `"batch_loss"`, the logs, and `"learning_rate"`, or for groups of
            optimizers `"learning_rate/<group>"`.

    Raises:
        TypeError: If the model is not a `CustomTrainModel`.
        ValueError: If `every` is not a positive integer.

    Example:

    >>> steps = customfit.callbacks.StepHistory()
    >>> model.custom_fit(x, y, epochs=5, callbacks=[steps])
    >>> steps.history["batch_loss"][:3]
    array([1.1386, 1.0972, 1.1254])
    >>> axes = steps.plot()
    """

    def __init__(self, every: int = 1):
        super().__init__()
        self.every = as_count("every", every)
        self.steps = np.zeros(0, np.int64)
        self.history: dict[str, np.ndarray] = {}
        self._recorder: Any = None
        self._unread = 0  # steps since the buffer was read, at most
        self._read: list[tuple[tf.Tensor, tf.Tensor | None]] = []  # copies of the buffer that are not on the host yet

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "gradient_pipeline", None) is None:
            raise TypeError(f"`StepHistory` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}")
        self._record()

    def _record(self) -> None:
        """Has the steps of the model recorded. `compile()` within training begins a new recording."""
        rows = max(ROWS, 2 * compat.steps_per_execution(self.model))
        recorder = self.model.gradient_pipeline.observers.record_steps(self.model, self.every, rows)
        if self._recorder is not recorder:
            if self._recorder is not None:
                self._take()
                recorder.seek(self._recorder.read()[0])
            self._recorder = recorder

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._start(0)

    def _start(self, step: int) -> None:
        self.steps, self.history = np.zeros(0, np.int64), {}
        self._read, self._unread = [], 0
        self._recorder.seek(step)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._record()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        self.advance(compat.steps_per_execution(self.model))

    def advance(self, steps: int) -> None:
        """Counts steps, and copies the buffer before it is full.

        Args:
            steps: How many more steps there were, at most.
        """
        self._unread += steps
        if self.steps_until_full() < steps:
            self._copy()

    def steps_until_full(self) -> int:
        """Returns how many more steps there is room for."""
        return (self._recorder.rows - 1) * self.every - self._unread

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._take()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._take()

    def _copy(self) -> None:
        self._read.append(self._recorder.read())
        self._unread = 0

    def _take(self) -> None:
        """Adds what was recorded since the last time to `steps` and `history`. It waits for the device."""
        self._copy()
        recorder = self._recorder
        for step, buffer in self._read:
            if buffer is None:
                continue
            begin, end = (int(self.steps[-1]) if len(self.steps) else 0) // self.every, int(step) // self.every
            places = np.arange(begin, end)
            rows = buffer.numpy()[places % recorder.rows]
            earlier = len(self.steps)
            self.steps = np.append(self.steps, (places + 1) * self.every)
            columns = dict(zip(recorder.names, rows.T))
            for name in {**self.history, **columns}:
                before = self.history.get(name, np.full(earlier, np.nan))
                self.history[name] = np.append(before, columns.get(name, np.full(len(places), np.nan)))
        self._read = []

    def get_state(self) -> dict[str, Any]:
        """Returns the values, for a checkpoint of `custom_fit`."""
        self._take()
        return {"step": int(self._recorder.read()[0]), "steps": self.steps, "history": self.history}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the values.

        Args:
            state: What `get_state` returned.
        """
        self._start(state["step"])
        self.steps = np.asarray(state["steps"], np.int64)
        self.history = {name: np.asarray(values, np.float64) for name, values in state["history"].items()}

    def plot(self, name: str = "loss", axes: Axes | None = None) -> Axes:
        """Plots values over the steps; for the loss, each batch's own beside the running mean.

        Args:
            name: The name of a log. Defaults to the loss.
            axes: Matplotlib axes to draw on. Defaults to those of a new figure.

        Returns:
            The axes: `axes.figure.savefig("steps.png")` saves them.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If no step was recorded, or there is no such log.
        """
        if name not in self.history:
            known = ", ".join(self.history) or "none: train with this callback first"
            raise ValueError(f"`name` must be a log that was recorded. Recorded: {known}. Received: name={name!r}")
        axes = new_axes("StepHistory.plot") if axes is None else axes
        if name == "loss" and "batch_loss" in self.history:
            axes.plot(self.steps, self.history["batch_loss"], alpha=0.4, linewidth=0.8, label="batch_loss")
        axes.plot(self.steps, self.history[name], label=name)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
        return axes
