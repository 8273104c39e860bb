"""A line of metrics every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable

from customfit.arguments import as_count
from customfit.callbacks.printing import print_line, shows_progress_bar
from customfit.compat import keras


class LogEvery(keras.callbacks.Callback):
    """Prints "Epoch 2, step 100: loss = 0.1234" every `steps` steps.

    Epochs are counted from 1, and steps over all epochs, as by `Every(steps=)` and `max_steps`. The values are the logs
    that callbacks get: for the loss and for metrics that average, the mean over the steps of the epoch so far, not the
    value of that step. A metric of your own shows its `result()`, and a log of your own `train_step` what it returned.

    Under `custom_fit()` the steps between two lines cost nothing: their logs are not read from the device.

    Args:
        steps: A positive number of steps.
        print_fn: Prints the line. Defaults to `print`.

    Raises:
        ValueError: If `steps` is not a positive integer.

    Example:

    >>> history = model.custom_fit(x, y, epochs=2, verbose=2, log_every=100)  # the same as callbacks=[LogEvery(100)]
    """

    def __init__(self, steps: int, print_fn: Callable[[str], object] = print):
        super().__init__()
        self.steps = as_count("log_every", steps)
        self.print_fn = print_fn
        self._epoch = 0
        self._earlier = 0  # steps of the epochs before this one
        self._seen = 0  # steps of this epoch

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._earlier = self._seen = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch
        self._earlier, self._seen = self._earlier + self._seen, 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        after_bar = self._seen > 0 and shows_progress_bar(self)
        if self.advance(batch):
            self.show(logs or {}, after_bar)

    def get_state(self) -> dict[str, int]:
        """Returns the counts, for a checkpoint of `custom_fit`."""
        return {"earlier": self._earlier, "seen": self._seen}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Restores the counts.

        Args:
            state: What `get_state` returned.
        """
        self._earlier, self._seen = state["earlier"], state["seen"]

    def advance(self, batch: int) -> bool:
        """Counts the steps up to one of this epoch. Returns whether a line is due.

        Args:
            batch: The step of the epoch that was trained last, counted from 0.
        """
        before, self._seen = self._earlier + self._seen, batch + 1
        return (self._earlier + self._seen) // self.steps > before // self.steps

    def until_due(self, batch: int) -> int:
        """Returns how many more steps there are until a line is due.

        Args:
            batch: The step of the epoch that comes next, counted from 0.
        """
        return self.steps - (self._earlier + batch) % self.steps

    def show(self, logs: Mapping[str, float], after_bar: bool = False) -> None:
        """Prints the line of the last step.

        Args:
            logs: Its logs.
            after_bar: Whether the cursor stands behind a progress bar.
        """
        metrics = " - ".join(f"{name} = {float(value):.4f}" for name, value in logs.items())
        line = f"Epoch {self._epoch + 1}, step {self._earlier + self._seen}: {metrics}"
        print_line(line, self.print_fn, after_bar)
