"""Calls the batch hooks of callbacks, and decides when logs become numbers.

Reading a metric waits for the device. Keras 3 reads every metric after every step, whether or not a callback needs it.
Here, while a callback has a batch hook, each step (or execution of `steps_per_execution` steps) calls the hooks through
the real `CallbackList`, with the arguments that `fit` passes. Otherwise steps run in blocks, and their logs stay
tensors until one of our own needs them: the progress bar about ten times a second, `LogEvery` at its interval.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Union

from customfit import compat
from customfit.arguments import listed
from customfit.callbacks import History, LogEvery, StepHistory, Throughput
from customfit.compat import keras
from customfit.data import Block
from customfit.execution import Logs, Pace
from customfit.training.checks import check_callbacks

REFRESH_SECONDS = 0.1

UserCallbacks = Union[keras.callbacks.Callback, Sequence[keras.callbacks.Callback], keras.callbacks.CallbackList, None]


class BatchHooks:
    """Calls `on_train_batch_begin` and `on_train_batch_end`, or those of a test or of predictions, where there are any.

    Which callbacks have a batch hook is decided for each block. Callbacks may bind one to themselves while they train,
    as `tqdm.keras.TqdmCallback` does in `on_epoch_begin`, and `fit` calls it from then on.

    Args:
        callbacks: The `CallbackList`.
        phase: "train", "test" or "predict".
        progress: Whether the progress bar shows these steps.
        clock: Returns seconds. Only their differences are used.
    """

    def __init__(
        self,
        callbacks: keras.callbacks.CallbackList,
        phase: str,
        *,
        progress: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._callbacks = callbacks
        self._phase = phase
        self._shows_progress = progress
        self._clock = clock
        self._begin_hook, self._end_hook = f"on_{phase}_batch_begin", f"on_{phase}_batch_end"
        older_names = {"on_batch_begin", "on_batch_end"} if phase == "train" else set()
        self._names = frozenset({self._begin_hook, self._end_hook, *older_names})
        self._refreshed = -REFRESH_SECONDS
        self._unseen: tuple[int, Logs] | None = None  # the last step that the progress bar has not shown
        self._bar_on_line = False  # whether the cursor stands behind the progress bar
        self._bound: list[tuple[int, set[str]]] = []
        self._find_listeners()

    def block_size(self, step: int, steps_per_execution: int, pace: Pace) -> int:
        """Returns how many steps the next block may have.

        Args:
            step: The step of the epoch with which it begins.
            steps_per_execution: What to return while a callback has a batch hook.
            pace: How many steps to run otherwise, unless `LogEvery` prints a line or a `StepHistory` is full before.
        """
        self._update_listeners(step)
        if self._every_step:
            return steps_per_execution
        dues = [callback.until_due(step) for callback in self._log_every]
        return min([pace.steps, *dues, *(callback.steps_until_full() for callback in self._step_histories)])

    @property
    def calls_every_step(self) -> bool:
        """Whether the hooks are called for this block with its logs, because a callback has one."""
        return self._every_step

    def begin(self, block: Block) -> None:
        """Calls the hooks before a block of steps."""
        self._update_listeners(block.begin)
        if self._every_step:
            getattr(self._callbacks, self._begin_hook)(block.begin)
        for callback in self._idle:
            getattr(callback, self._begin_hook)(block.begin)
        for throughput in self._throughput:
            throughput.before_block(block)

    def end(self, block: Block, logs: Logs) -> None:
        """Calls the hooks after a block of steps.

        Args:
            block: The block.
            logs: The logs of its last step.
        """
        for throughput in self._throughput:
            throughput.after_block(block)
        if self._every_step:
            step = compat.batch_end_step(block.begin, block.planned, block.done)
            logs = logs if self._phase == "predict" else compat.batch_logs(logs)
            getattr(self._callbacks, self._end_hook)(step, logs)
            self._unseen = None  # the progress bar is in the list
        else:
            for history in self._step_histories:
                history.advance(block.done)
            self._end_of_block(block.begin + block.done - 1, logs)
        for throughput in self._throughput:
            throughput.after_callbacks()

    def _end_of_block(self, step: int, logs: Logs) -> None:
        for callback in self._idle:
            getattr(callback, self._end_hook)(step)
        for log_every in self._log_every:
            if log_every.advance(step):
                log_every.show(compat.pythonify_logs(logs), after_bar=self._bar_on_line)
                self._bar_on_line = False
        self._unseen = step, logs
        if self._progress_bars and self._clock() - self._refreshed >= REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        """Updates the progress bar, if it has not shown the last step. Before an epoch ends it must have."""
        if self._unseen is not None:
            step, logs = self._unseen
            for bar in self._progress_bars:
                getattr(bar, self._end_hook)(step, compat.pythonify_logs(logs))
                self._bar_on_line = bar.verbose == 1  # with 2 it only writes a line when an epoch ends
            self._refreshed, self._unseen = self._clock(), None

    def _update_listeners(self, step: int) -> None:
        """Finds the listeners again if an epoch begins, or if a callback was added or has bound a hook since."""
        bound = [(id(callback), self._names & vars(callback).keys()) for callback in self._callbacks.callbacks]
        if step == 0:
            self._bar_on_line = False
        if step == 0 or bound != self._bound:
            self._bound = bound
            self._find_listeners()

    def _find_listeners(self) -> None:
        """Sorts the callbacks into the progress bar, our own, those with batch hooks, and those with idle ones."""
        by_kind: dict[type, list[Any]] = {
            keras.callbacks.ProgbarLogger: [],
            LogEvery: [],
            StepHistory: [],
            Throughput: [],
        }
        others: list[keras.callbacks.Callback] = []
        for callback in self._callbacks.callbacks:  # exactly these classes: a subclass may do anything in its hooks
            by_kind.get(type(callback), others).append(callback)
        training = self._phase == "train"
        self._progress_bars = by_kind[keras.callbacks.ProgbarLogger] if self._shows_progress else []
        self._log_every: list[LogEvery] = by_kind[LogEvery] if training else []
        self._step_histories: list[StepHistory] = by_kind[StepHistory] if training else []
        self._throughput: list[Throughput] = by_kind[Throughput] if training else []
        listeners: list[keras.callbacks.Callback] = []
        # Keras's own that have a batch hook but, as they are set, nothing to do in it after a single step.
        self._idle: list[keras.callbacks.Callback] = []
        for callback in others:
            if has_hook(callback, self._names):
                bound = not self._names.isdisjoint(vars(callback))
                idle = not bound and compat.has_idle_batch_hooks(callback, self._phase)
                (self._idle if idle else listeners).append(callback)
        called = compat.calls_batch_hooks(self._callbacks, self._phase)
        self._every_step = bool(listeners) and called
        if self._every_step or not called:
            self._idle = []  # the list calls them, or nobody does


def has_hook(callback: keras.callbacks.Callback, hooks: Iterable[str]) -> bool:
    """Whether a callback has one of these hooks, on its class or on itself.

    Args:
        callback: The callback.
        hooks: Names of hooks.
    """
    base = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, hook, None), "__func__", None) is not getattr(base, hook, None) for hook in hooks
    )


def callback_objects(callbacks: UserCallbacks) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that a user has given, one by one."""
    return callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else listed(callbacks)


def make_callback_list(
    model: keras.Model,
    callbacks: UserCallbacks,
    own: Sequence[keras.callbacks.Callback],
    verbose: int | str,
    epochs: int,
    steps: int | None,
) -> keras.callbacks.CallbackList:
    """Returns the `CallbackList` of a run: the user's callbacks, then ours, History and the progress bar.

    Args:
        model: The model.
        callbacks: Callbacks as in `fit`. A `CallbackList` is used as it is, with ours added.
        own: Our callbacks.
        verbose: As in `fit`; in Keras 2 no longer "auto".
        epochs: The epoch at which training ends.
        steps: Steps in an epoch, or `None` if that is not known.
    """
    given = callback_objects(callbacks)
    check_callbacks(given)
    has_history = any(isinstance(callback, keras.callbacks.History) for callback in given)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if not has_history:
            own = [*own, History()]
        for callback in own:
            callback.set_params(callbacks.params)
            callback.set_model(model)
            callbacks.callbacks.append(callback)
        return callbacks
    return keras.callbacks.CallbackList(
        [*listed(callbacks), *own, *([] if has_history else [History()])],
        add_history=True,  # which finds the one that is there
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
    )


def end_callbacks(callbacks: keras.callbacks.CallbackList, logs: Logs | None, ended_well: bool) -> None:
    """Calls `on_train_end`, also after an exception, where `fit` does not.

    Args:
        callbacks: The callbacks.
        logs: The logs of the last epoch.
        ended_well: Whether training ended without an exception.
    """
    if ended_well:
        callbacks.on_train_end(logs)
        return
    for callback in callbacks.callbacks:
        # This one deletes its backup in `on_train_end`, and an interrupted run needs it.
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            callback.on_train_end(logs)
