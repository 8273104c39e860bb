"""What a session has to do with checkpoints: it may have none."""

from __future__ import annotations

import math
from typing import Any

from customfit.callbacks import score_of
from customfit.checkpoint import Checkpointer, Progress, TrainingState, fingerprint, learning_rates
from customfit.compat import keras
from customfit.data import Block, Source
from customfit.training.validation import Validation


class Resumption:
    """Makes a session's checkpoints, and has it go on from the newest.

    Args:
        model: The model.
        callbacks: The callbacks.
        validation: When and on what the session validates.
        stopping: The early stopping, or `None`.
        checkpoints: A `Checkpointer`, the directory of one, or `None`: then nothing is kept.
        identity: Options that a checkpoint must agree with, by name.

    Raises:
        ValueError: If there is a callback that would do the same, and undo it.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: list,
        validation: Validation,
        stopping: keras.callbacks.Callback | None,
        checkpoints: Any,
        identity: dict | None,
    ):
        self._checkpointer = checkpoints
        if checkpoints is not None and not isinstance(checkpoints, Checkpointer):
            self._checkpointer = Checkpointer(checkpoints)
        for callback in callbacks:
            if self._checkpointer is not None and isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ValueError(
                    "`callbacks` must not have a `BackupAndRestore` beside `checkpoint_dir`, which restores more. "
                    f"Received: callbacks with a {type(callback).__name__}"
                )
        self._model = model
        self._callbacks = callbacks
        self._validation = validation
        self._stopping = stopping
        self._identity = identity or {}
        self._state: TrainingState | None = None

    def open(self) -> None:
        """Locks the directory."""
        if self._checkpointer is not None:
            self._checkpointer.open()

    def close(self) -> None:
        """Gives the directory back."""
        self._state = None
        if self._checkpointer is not None:
            self._checkpointer.close()

    def begin(self, data: Source | None) -> Progress | None:
        """Takes up the training of the newest checkpoint, where there is one, its position in the data as well."""
        if self._checkpointer is None:
            return None
        self._state = TrainingState(self._model, self._callbacks, data, self._validation.data)
        return self._checkpointer.begin(self._state, self._fingerprint(data))

    def peek(self, data: Source) -> tuple[dict | None, str | None]:
        """What `Checkpointer.look` sees: how far the training is that `begin` would take up, or why it would not."""
        return (None, None) if self._checkpointer is None else self._checkpointer.peek(self._fingerprint(data))

    def _fingerprint(self, data: Source | None) -> dict:
        sources = self._validation.data
        validation = {
            "sets": {
                name: source.describe() if hasattr(source, "describe") else None for name, source in sources.items()
            },
            "freq": self._validation.freq,
            "interval": self._validation.interval,
        }
        return fingerprint(self._model, data, {"validation": validation, **self._identity})

    def again(self) -> Progress:
        """Gives back what the begin of an epoch has changed that has been begun before."""
        progress = self._checkpointer.restore()
        assert progress is not None
        return progress

    def note_batch(self, block: Block) -> None:
        """Notes what batches are like where no source can tell: a later process makes variables by that."""
        if self._state is not None and self._state.batch_spec is None:
            self._state.batch_spec = block.fetch.element_spec(block.feed)

    def steps_until_due(self, total_steps: int) -> float:
        """How many steps, from this one on, until a checkpoint is due."""
        return math.inf if self._checkpointer is None else self._checkpointer.steps_until_due(total_steps)

    def heartbeat(self) -> None:
        """Shows other processes that this one lives."""
        if self._checkpointer is not None:
            self._checkpointer.heartbeat()

    def after_block(self, total_steps: int) -> bool:
        """Whether a checkpoint is due within an epoch."""
        self.heartbeat()
        return self._checkpointer is not None and self._checkpointer.due_after_block(total_steps)

    def after_epoch(self) -> bool:
        """Whether one is due after an epoch."""
        return self._checkpointer is not None and self._checkpointer.due_after_epoch()

    @property
    def saves(self) -> bool:
        """Whether checkpoints are made."""
        return self._checkpointer is not None

    def rate(self, logs: dict) -> None:
        """Notes what an epoch or a validation has found: by that the checkpoints that follow may be the best."""
        if self._checkpointer is not None:
            self._checkpointer.rate(score_of(logs, self._stopping, list(self._validation.data)))

    def save(self, progress: Progress) -> None:
        """Makes a checkpoint."""
        if self._checkpointer is not None:
            self._checkpointer.save(progress, learning_rates(self._model))
