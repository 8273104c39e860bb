"""A line of metrics every so many steps."""

from __future__ import annotations

from typing import Any, Callable

from customfit.arguments import as_count
from customfit.compat import keras


class LogEvery(keras.callbacks.Callback):
    """Prints "Step 100: loss = 0.1234" every `steps` steps, counted over all epochs.

    Under `custom_fit()` the steps between cost nothing: their logs are not read from the device.

    Args:
        steps: A positive number of steps.
        print_fn: What to print with. Defaults to `print`.

    Example:

    >>> history = model.custom_fit(x, y, epochs=2, verbose=2, log_every=100)  # the same as callbacks=[LogEvery(100)]
    """

    def __init__(self, steps: int, print_fn: Callable[[str], Any] = print):
        super().__init__()
        self.steps = as_count("log_every", steps)
        self.print_fn = print_fn
        self._earlier = 0  # steps of the epochs before this one
        self._seen = 0  # steps of this epoch

    def on_train_begin(self, logs=None):
        self._earlier = self._seen = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._earlier, self._seen = self._earlier + self._seen, 0

    def on_train_batch_end(self, batch, logs=None):
        if self.advance(batch):
            self.show(logs)

    def get_state(self) -> dict:
        """Where the count is: what a checkpoint of `custom_fit` keeps."""
        return {"earlier": self._earlier, "seen": self._seen}

    def set_state(self, state: dict) -> None:
        """Counts on from where `get_state` was."""
        self._earlier, self._seen = state["earlier"], state["seen"]

    def advance(self, batch: int) -> bool:
        """Notes that step `batch` of this epoch is done. Returns whether a line is due."""
        before, self._seen = self._earlier + self._seen, batch + 1
        return (self._earlier + self._seen) // self.steps > before // self.steps

    def until_due(self, batch: int) -> int:
        """How many steps of this epoch, from `batch` on, until a line is due."""
        return self.steps - (self._earlier + batch) % self.steps

    def show(self, logs: dict) -> None:
        """Prints the line of the last step."""
        metrics = " - ".join(f"{name} = {float(value):.4f}" for name, value in (logs or {}).items())
        self.print_fn(f"Step {self._earlier + self._seen}: {metrics}")
