"""Who hears of a step, and when its logs become numbers.

Reading a metric waits for the device. Keras 3 reads every metric after every step, whether or not anyone looks. Here a
step's logs stay tensors unless somebody is due to see them: a callback with a batch hook sees every step, through the
real `CallbackList` and with the arguments that `fit` gives; the progress bar looks about ten times a second, `LogEvery`
at its interval.
"""

from __future__ import annotations

import time
from typing import Callable

from customfit import compat
from customfit.callbacks.log_every import LogEvery
from customfit.compat import keras

REFRESH_SECONDS = 0.1
_TRAIN_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_TEST_HOOKS = ("on_test_batch_begin", "on_test_batch_end")


class TrainHooks:
    """`on_train_batch_begin` and `on_train_batch_end`, for those who listen.

    Args:
        callbacks: The `CallbackList`.
        clock: Seconds, rising; only their differences count.
    """

    def __init__(self, callbacks: keras.callbacks.CallbackList, clock: Callable[[], float] = time.perf_counter):
        self._callbacks = callbacks
        self._clock = clock
        self._progress = [
            callback for callback in callbacks.callbacks if _is_exactly(callback, keras.callbacks.ProgbarLogger)
        ]
        self._log_every = [callback for callback in callbacks.callbacks if _is_exactly(callback, LogEvery)]
        others = [c for c in callbacks.callbacks if c not in self._progress and c not in self._log_every]
        self._every_step = listens(others, _TRAIN_HOOKS)
        self._refreshed = -REFRESH_SECONDS
        self._unseen: tuple[int, dict] | None = None

    def begin(self, step: int) -> None:
        """Before a block of steps."""
        if self._every_step:
            self._callbacks.on_train_batch_begin(step)

    def end(self, step: int, logs: dict) -> None:
        """After a block of steps, of which `step` was the last."""
        if self._every_step:
            self._callbacks.on_train_batch_end(step, compat.batch_logs(logs))
            return
        for callback in self._log_every:
            if callback.hear(step):
                callback.show(compat.to_host(logs))
        self._unseen = step, logs
        if self._progress and self._clock() - self._refreshed >= REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Shows the progress bar the last step that it has not seen; before an epoch's end it must have seen all."""
        if self._unseen is not None:
            step, logs = self._unseen
            for progress in self._progress:
                progress.on_train_batch_end(step, compat.to_host(logs))
            self._refreshed, self._unseen = self._clock(), None


class TestHooks:
    """`on_test_batch_begin` and `on_test_batch_end`, for those who listen; in training the progress bar does not."""

    __test__ = False  # not a test, whatever pytest makes of its name

    def __init__(self, callbacks: keras.callbacks.CallbackList):
        self._callbacks = callbacks
        others = [c for c in callbacks.callbacks if not _is_exactly(c, keras.callbacks.ProgbarLogger)]
        self._every_step = listens(others, _TEST_HOOKS)

    def begin(self, step: int) -> None:
        """Before a block of validation steps."""
        if self._every_step:
            self._callbacks.on_test_batch_begin(step)

    def end(self, step: int, logs: dict) -> None:
        """After a block of validation steps, of which `step` was the last."""
        if self._every_step:
            self._callbacks.on_test_batch_end(step, compat.batch_logs(logs))


def listens(callbacks: list, hooks: tuple[str, ...]) -> bool:
    """Whether any of the callbacks has one of these hooks of its own, on its class or on itself."""
    base = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(base, hook)
        for callback in callbacks
        for hook in hooks
    )


def _is_exactly(callback, cls: type) -> bool:
    return type(callback) is cls  # a subclass may do anything in its hooks
