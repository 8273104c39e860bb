"""What a session needs of checkpoints, and checkpoints of a session. There may be none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from customfit import compat
from customfit.callbacks import print_line, score_of
from customfit.checkpoint import (
    Checkpointer,
    Checkpoints,
    TrainingState,
    check_alike,
    fingerprint,
    learning_rates,
    part_name,
)
from customfit.compat import keras, tf
from customfit.data import Block, Source, check_resumable
from customfit.serialization import JSON
from customfit.training.observers import Moment, session_observers
from customfit.training.progress import Logs, Progress
from customfit.training.stop import Stop
from customfit.training.validation import Validation
from customfit.workers import Workers


class SessionCheckpoints:
    """Saves a session's run, and resumes it.

    Args:
        model: The model.
        callbacks: The callbacks.
        progress: How far the run is: it is saved, and restored.
        stop: Whether and why it stops, likewise.
        validation: When and on what the session validates.
        early_stopping: The early stopping, or `None`.
        checkpoints: The options, or `None`: then nothing is saved.
        identity: Options that a checkpoint must agree with, by name.
        verbose: 0 to say nothing.
        clock: A clock in seconds, the same on all workers; only differences count.

    Raises:
        ValueError: If there is a callback that would do the same, and undo it.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: keras.callbacks.CallbackList,
        progress: Progress,
        stop: Stop,
        validation: Validation,
        early_stopping: keras.callbacks.Callback | None,
        checkpoints: Checkpoints | None,
        identity: Mapping[str, Any] | None,
        verbose: int | str,
        clock: Callable[[], float],
    ):
        self.options = checkpoints
        self._workers = Workers.of(model.distribute_strategy)
        self._drew_seed = False
        self._part = ""
        self._checkpointer: Checkpointer | None = None
        if checkpoints is not None:
            self._checkpointer = Checkpointer(checkpoints, self._workers, on_moment=self._tell_observers, clock=clock)
            self._part = "" if checkpoints.per_worker else part_name(self._workers.index)
        for callback in callbacks.callbacks:
            if checkpoints is not None and isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ValueError(
                    "`callbacks` must not have a `BackupAndRestore` beside `checkpoint`, which restores more. "
                    f"Received: callbacks with a {type(callback).__name__}"
                )
            if self._workers.count > 1 and isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ValueError(
                    "With several workers `callbacks` must not have a `BackupAndRestore`: each would write and restore "
                    "the same files on its own. Use `checkpoint`, which all of them share. Received: callbacks with a "
                    f"{type(callback).__name__} on {self._workers.count} workers"
                )
        for source in validation.data.values() if checkpoints is not None else ():
            check_resumable("validation_data", source, ("skip_passes",))
        self._model = model
        self._callbacks = callbacks.callbacks
        self._progress = progress
        self._stop = stop
        self._validation = validation
        self._early_stopping = early_stopping
        self._identity = identity or {}
        self._verbose = verbose
        self._state: TrainingState | None = None

    def open(self) -> None:
        """Locks the directory."""
        if self._checkpointer is not None:
            self._checkpointer.open()

    def close(self) -> None:
        """Releases the directory."""
        self._state = None
        if self._drew_seed:
            self._drew_seed = False
            tf.random.set_seed(None)
        if self._checkpointer is not None:
            self._checkpointer.close()

    def resume(self, data: Source | None) -> bool:
        """Restores the newest checkpoint, if there is one, including the position in the data. Returns whether."""
        if self._workers.count > 1:
            check_alike(self._workers, self._model, self._fingerprint(data))
        if self._checkpointer is None:
            self._agree_on_seed()
            return False
        if data is not None:
            check_resumable("data", data)
        self._state = TrainingState(
            self._model, self._callbacks, self._progress, self._stop, data, self._validation.data, self._part
        )
        return self._checkpointer.resume(self._state, self._fingerprint(data))

    def announce(self, epochs: int, limit: str | None) -> None:
        """Says in one line where the run resumes, or that nothing is left of it, unless `verbose=0`.

        Args:
            epochs: The epoch at which training ends.
            limit: The limit that the run has reached already, in words, or `None`.
        """
        if self.options is None or self._verbose == 0:
            return
        directory, epoch, step = self.options.directory, self._progress.epoch, self._progress.step
        place = f"epoch {epoch + 1} of {epochs}{f', after step {step}' if step else ''}"
        if limit or self._stop.is_final or epoch >= epochs:
            place = place if step else f"the end of epoch {epoch} of {max(epoch, epochs)}"
            reason = limit or self._stop.reason
            line = f"Nothing left to train: the run in {directory} is at {place}{f' ({reason})' if reason else ''}."
        else:
            line = f"Resuming from {directory}: {place}."
        print_line(line, print, after_bar=False)

    def restore_again(self) -> None:
        """Restores what the begin of an epoch has changed that had begun before the run was cut off."""
        if self._checkpointer is not None:
            self._checkpointer.restore_again()

    def peek(self, data: Source) -> tuple[dict[str, JSON] | None, str | None]:
        """How far the run is that `resume` would restore, and why it would be refused: see `Checkpointer.peek`."""
        return (None, None) if self._checkpointer is None else self._checkpointer.peek(self._fingerprint(data))

    def before_block(self, block: Block) -> None:
        """Finds what the step uses, by the first block if it was not known before what batches are like."""
        if self._state is not None:
            self._state.trace(block)

    def steps_until_due(self) -> float:
        """How many steps from here until a checkpoint is due."""
        if self._checkpointer is None:
            return math.inf
        return self._checkpointer.steps_until_due(self._progress.total_steps)

    def due_after_block(self) -> bool:
        """Whether a checkpoint is due within an epoch."""
        return self._checkpointer is not None and self._checkpointer.due_after_block(self._progress.total_steps)

    def due_after_epoch(self) -> bool:
        """Whether a checkpoint is due after an epoch, which has just ended."""
        return self._checkpointer is not None and self._checkpointer.due_after_epoch(self._progress.epoch)

    def heartbeat(self) -> None:
        """Shows other processes that this one is alive."""
        if self._checkpointer is not None:
            self._checkpointer.heartbeat()

    def record_score(self, logs: Logs) -> None:
        """Records what an epoch or a validation has found, by which the next checkpoints may be the best."""
        if self._checkpointer is not None:
            self._checkpointer.record_score(score_of(logs, self._early_stopping, list(self._validation.data)))

    def save(self) -> None:
        """Makes a checkpoint."""
        if self._checkpointer is not None:
            self._checkpointer.save(learning_rates(self._model))

    def _agree_on_seed(self) -> None:
        """Gives all workers one global seed, where the user has set none: they must draw the rows in one order."""
        if self._workers.count > 1 and compat.global_seed() is None:
            tf.random.set_seed(self._workers.draw_seed())
            self._drew_seed = True

    def _tell_observers(self, moment: Moment) -> None:
        for observer in session_observers:
            observer.on_moment(moment, self._progress.total_steps)

    def _fingerprint(self, data: Source | None) -> dict[str, JSON]:
        sets = {
            name: source.describe() if hasattr(source, "describe") else None
            for name, source in self._validation.data.items()
        }
        freq = self._validation.freq
        validation = {"sets": sets, "freq": freq if isinstance(freq, (int, list, tuple)) else str(freq)}
        disks = {"per_worker": True} if self.options is not None and self.options.per_worker else {}
        return fingerprint(self._model, data, {"validation": validation, **disks, **self._identity})
