"""Who hears of a step, and when its logs become numbers.

Reading a metric waits for the device. Keras 3 reads every metric after every step, whether or not anyone looks. Here a
callback with a batch hook sees every step, through the real `CallbackList` and with the arguments that `fit` gives.
Where there is none, steps come in blocks, and their logs stay tensors unless somebody is due to see them: the progress
bar about ten times a second, `LogEvery` at its interval.
"""

from __future__ import annotations

import time
from typing import Any, Callable

from customfit import compat
from customfit.arguments import listed
from customfit.callbacks import LogEvery, Throughput
from customfit.compat import keras
from customfit.data import Block
from customfit.execution import Pace

REFRESH_SECONDS = 0.1


class BatchHooks:
    """`on_train_batch_begin` and `on_train_batch_end`, or those of a test, for those who listen.

    Args:
        callbacks: The `CallbackList`.
        phase: "train" or "test".
        progress: Whether the progress bar shows these steps.
        clock: Seconds, rising; only their differences count.

    Attributes:
        every_step: Whether a callback listens to each step, so that `steps_per_execution` says how long a block is.
    """

    def __init__(
        self,
        callbacks: keras.callbacks.CallbackList,
        phase: str,
        *,
        progress: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        hooks = [f"on_{phase}_batch_begin", f"on_{phase}_batch_end"]
        names = hooks + (["on_batch_begin", "on_batch_end"] if phase == "train" else [])
        self._begin, self._end = (getattr(callbacks, hook) for hook in hooks)
        self._clock = clock
        progress_bars: list = []
        ours: list = []
        others: list = []
        for callback in callbacks.callbacks:  # exactly these: a subclass may do anything in its hooks
            exactly = type(callback)
            kind = progress_bars if exactly is keras.callbacks.ProgbarLogger else others
            (ours if exactly in (LogEvery, Throughput) else kind).append(callback)
        self._progress = [getattr(bar, hooks[1]) for bar in progress_bars] if progress else []
        self._log_every = [callback for callback in ours if isinstance(callback, LogEvery) and phase == "train"]
        self._throughput = [callback for callback in ours if isinstance(callback, Throughput) and phase == "train"]
        listening = [callback for callback in others if listens(callback, names)]
        self.every_step = any(not compat.has_idle_batch_hooks(callback, phase) for callback in listening)
        # Keras's own that have a hook but, as they are set, nothing to do in it after a single step.
        idle = [] if self.every_step else listening
        self._once_a_block = [tuple(getattr(callback, hook) for hook in hooks) for callback in idle]
        self._refreshed = -REFRESH_SECONDS
        self._unseen: tuple[int, dict] | None = None

    def block_size(self, step: int, steps_per_execution: int, pace: Pace) -> int:
        """How many steps may run from this one on before somebody is to hear of them."""
        if self.every_step:
            return steps_per_execution
        return min([pace.steps, *(callback.until_due(step) for callback in self._log_every)])

    def begin(self, block: Block) -> None:
        """Before a block of steps."""
        if self.every_step:
            self._begin(block.begin)
        for begin, _ in self._once_a_block:
            begin(block.begin)
        for throughput in self._throughput:
            throughput.before_block(block)

    def end(self, block: Block, logs: dict) -> None:
        """After a block of steps."""
        for throughput in self._throughput:
            throughput.after_block(block)
        if self.every_step:
            step = compat.batch_end_step(block.begin, block.planned, block.done)
            self._end(step, compat.batch_logs(logs))
        else:
            self._end_of_block(block.begin + block.done - 1, logs)
        for throughput in self._throughput:
            throughput.after_callbacks()

    def _end_of_block(self, step: int, logs: dict) -> None:
        for _, end in self._once_a_block:
            end(step)
        for log_every in self._log_every:
            if log_every.advance(step):
                log_every.show(compat.pythonify_logs(logs))
        self._unseen = step, logs
        if self._progress and self._clock() - self._refreshed >= REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Shows the progress bar the last step that it has not seen; before an epoch's end it must have seen all."""
        if self._unseen is not None:
            step, logs = self._unseen
            for show in self._progress:
                show(step, compat.pythonify_logs(logs))
            self._refreshed, self._unseen = self._clock(), None


def listens(callback: keras.callbacks.Callback, hooks: list[str]) -> bool:
    """Whether a callback has one of these hooks of its own, on its class or on itself."""
    base = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(base, hook, None) for hook in hooks
    )


def make_callback_list(
    model: keras.Model, callbacks: Any, own: list, verbose: int | str, epochs: int, steps: int | None
) -> keras.callbacks.CallbackList:
    """The `CallbackList` of a training: what the user gave, then ours, History and the progress bar.

    Args:
        model: The model.
        callbacks: Callbacks as in `fit`, or a `CallbackList`, which is taken as it is.
        own: Callbacks of ours.
        verbose: As in `fit`, and no longer "auto" in Keras 2.
        epochs: The epoch at which training ends.
        steps: Steps in an epoch, or `None`.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if not any(isinstance(callback, keras.callbacks.History) for callback in callbacks.callbacks):
            own = [*own, keras.callbacks.History()]
        for callback in own:
            callback.set_params(callbacks.params)
            callback.set_model(model)
            callbacks.callbacks.append(callback)
        return callbacks
    return keras.callbacks.CallbackList(
        [*listed(callbacks), *own],
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
    )


def end_callbacks(callbacks: keras.callbacks.CallbackList, logs: dict | None, ended_well: bool) -> None:
    """Fires `on_train_end`, also after an exception, where `fit` does not.

    Args:
        callbacks: The callbacks.
        logs: The logs of the last epoch.
        ended_well: Whether training ended without an exception.
    """
    if ended_well:
        callbacks.on_train_end(logs)
        return
    for callback in callbacks.callbacks:
        # At the end of training this one deletes its backup, which is for training that was cut off.
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            callback.on_train_end(logs)
