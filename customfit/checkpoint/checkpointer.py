"""Checkpoints of a training: when they are made, and how a later call goes on from the newest."""

from __future__ import annotations

import datetime
import logging
import math
import os
import random
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

from customfit import compat
from customfit.arguments import is_count
from customfit.checkpoint.fingerprint import differences
from customfit.checkpoint.store import CheckpointError, CheckpointStore
from customfit.checkpoint.training_state import Progress, TrainingState
from customfit.compat import tf
from customfit.every import as_seconds

HEARTBEAT_SECONDS = 60.0
_logger = logging.getLogger("customfit")


class Checkpointer:
    """Makes checkpoints of a training in a directory, and takes it up from the newest.

    One directory is for one training: what went on there is gone on with. Pass it to a `TrainingSession`, or its
    arguments to `custom_fit` as `checkpoint_dir`, `checkpoint_interval`, `checkpoint_keep`, `resume` and
    `on_checkpoint_error`.

    Args:
        directory: Where the checkpoints are; it is made if it does not exist.
        interval: When to make one: after each "epoch", after so many steps (an integer), after so many seconds (a
            float, a `datetime.timedelta` or "HH:MM:SS"). One is made besides when training ends, by whatever.
        keep: How many of the newest to keep, besides the best.
        resume: "auto" goes on from the newest checkpoint if there is one, `True` insists on one, `False` begins anew.
        on_error: "raise" or "warn" where a checkpoint cannot be written, because the disk is full say.
        clock: Seconds, rising; only their differences count.

    Raises:
        ValueError: If an option is wrong.
    """

    def __init__(
        self,
        directory: Any,
        *,
        interval: Any = "epoch",
        keep: Any = 3,
        resume: Any = "auto",
        on_error: str = "raise",
        clock: Callable[[], float] = time.monotonic,
    ):
        if not isinstance(directory, (str, os.PathLike)) or not os.fspath(directory):
            raise ValueError(f"`checkpoint_dir` must be a path. Received: checkpoint_dir={directory!r}")
        if not is_count(keep, 1):
            raise ValueError(f"`checkpoint_keep` must be a positive integer. Received: checkpoint_keep={keep!r}")
        if not (resume == "auto" or isinstance(resume, bool)):
            raise ValueError(f'`resume` must be "auto", True or False. Received: resume={resume!r}')
        if on_error not in ("raise", "warn"):
            raise ValueError(
                f'`on_checkpoint_error` must be "raise" or "warn". Received: on_checkpoint_error={on_error!r}'
            )
        self._steps, self._seconds = _interval(interval)
        self._store = CheckpointStore(directory, int(keep))
        self._resume = resume
        self._on_error = on_error
        self._clock = clock
        self._saved_at = self._heartbeat_at = clock()
        self._saved: tuple | None = None  # the progress of the last checkpoint
        self._score: float | None = None  # how good training was found last
        self._state: TrainingState | None = None
        self._from: tuple[Path, dict] | None = None
        self._header: dict = {}
        self._drew_seed = False

    def open(self) -> None:
        """Locks the directory.

        Raises:
            CheckpointError: If it cannot be made or written, whatever `on_error`: nothing has been trained yet.
        """
        try:
            self._store.open()
        except OSError as error:
            raise CheckpointError(
                f"`checkpoint_dir` must be a directory that can be written. Received: {self._store.directory} ({error})"
            ) from error

    def close(self) -> None:
        """Gives the directory back."""
        try:
            if self._drew_seed:
                tf.random.set_seed(None)
        finally:
            self._drew_seed = False
            self._state = self._from = self._saved = self._score = None
            try:
                self._store.close()
            except OSError as error:  # nothing is lost by that, and it must not hide what has ended training
                warnings.warn(f"The lock could not be given back in {self._store.directory}: {error}", stacklevel=2)

    # -------------------------------------------------------------------------------------------------- to resume

    def begin(self, state: TrainingState, fingerprint: dict) -> Progress | None:
        """Takes up the training of the newest checkpoint, if there is one and `resume` lets it.

        Args:
            state: What is saved from here on.
            fingerprint: What the checkpoint must agree with.

        Returns:
            How far that training was, or `None` where a new one begins.

        Raises:
            CheckpointError: If there is none and `resume=True`, or there are some and all are damaged.
            ValueError: If it is one of another model or other options.
        """
        self._state = state
        self._from = self._store.newest() if self._resume else None
        if self._from is None:
            if self._resume is True:
                raise CheckpointError(
                    f"With `resume=True` there must be a checkpoint. Received: {self._store.directory}"
                )
            self._header = {"run": str(uuid.uuid4()), "seed": self._begin_seed(), "fingerprint": fingerprint}
            self._saved_at = self._clock()
            return None
        path, record = self._from
        self._header = {name: record[name] for name in ("run", "seed", "fingerprint")}
        self._check(fingerprint, path, record)
        progress = state.restore(path, record)
        state.seek(path, record, progress)
        state.set_generators()
        self._saved, self._score = (progress.epoch, progress.step), record["score"]
        self._saved_at = self._clock()
        _logger.info("Training goes on from %s: epoch %d, step %d.", path, progress.epoch + 1, progress.step)
        return progress

    def peek(self, fingerprint: dict) -> tuple[dict | None, str | None]:
        """How far the training is that `begin` would take up: `epoch`, `step`, `total_steps` and `stopped`.

        Nothing is locked, moved or made, and the model stays as it is.

        Returns:
            That, or `None` where a new one would begin; and what is wrong with it, in words, or `None`.
        """
        record = self._store.peek() if self._resume else None
        if record is None:
            missing = self._resume is True or (self._resume and self._store.has_any())
            return None, f"there is no checkpoint to go on from in {self._store.directory}" if missing else None
        found = differences(record["fingerprint"], fingerprint, record["learning rates"])
        return record["at"], f"the checkpoint is refused, for {'; '.join(found)}" if found else None

    def restore(self) -> Progress | None:
        """Gives back the state of the checkpoint that this training came from, but the positions in the data."""
        if self._from is None or self._state is None:
            return None
        progress = self._state.restore(*self._from)
        self._state.set_generators()
        return progress

    def _check(self, fingerprint: dict, path: Path, record: dict) -> None:
        found = differences(record["fingerprint"], fingerprint, record["learning rates"])
        seed, saved = compat.global_seed(), record["seed"]
        if seed is None and saved["drawn"]:
            tf.random.set_seed(saved["value"])
            self._drew_seed = True
        elif seed != saved["value"]:
            found.append(f"the global seed {seed}, which was {'drawn' if saved['drawn'] else saved['value']}")
        if found:
            raise ValueError(
                "`checkpoint_dir` must hold checkpoints of a training with the same options; another directory or "
                f"`resume=False` begins a new one. Received: {path} and {'; '.join(found)}"
            )

    def _begin_seed(self) -> dict:
        """The global seed, on which the order of rows and the random ops depend. Without one, draws one."""
        seed = compat.global_seed()
        if seed is not None:
            return {"value": seed, "drawn": False}
        seed = random.SystemRandom().randrange(2**31)
        tf.random.set_seed(seed)
        self._drew_seed = True
        return {"value": seed, "drawn": True}

    # ---------------------------------------------------------------------------------------------------- to save

    def steps_until_due(self, total_steps: int) -> float:
        """How many steps, from this one on, until a checkpoint is due."""
        return math.inf if self._steps is None else self._steps - total_steps % self._steps

    def due_after_block(self, total_steps: int) -> bool:
        """Whether one is due within an epoch."""
        if self._seconds is not None:
            return self._clock() - self._saved_at >= self._seconds
        return self._steps is not None and total_steps % self._steps == 0

    def due_after_epoch(self) -> bool:
        """Whether one is due after an epoch."""
        return self._steps is None and (self._seconds is None or self._clock() - self._saved_at >= self._seconds)

    def rate(self, score: float | None) -> None:
        """Notes how good training is, the lower the better, for the checkpoints from here on.

        Args:
            score: Of the epoch or validation that has just ended; `None`, which tells nothing new.
        """
        self._score = self._score if score is None else score

    def save(self, progress: Progress, rates: list | None = None) -> None:
        """Makes a checkpoint, unless the last one was made at the same place.

        Args:
            progress: How far training is.
            rates: The learning rates.

        Raises:
            CheckpointError: If it cannot be written and `on_error="raise"`.
        """
        state, place = self._state, (progress.epoch, progress.step)
        if state is None or place == self._saved:
            return
        callbacks = state.callback_states()

        def fill(folder: Path) -> dict:
            score = None if self._score == math.inf else self._score
            record = {**self._header, "score": score, "learning rates": rates or []}
            return {**record, **state.save(folder, progress, callbacks)}

        with self._errors("A checkpoint could not be written to {}: {}. Training goes on."):
            self._store.lock.keep()
            self._store.write(fill)
            self._saved = place
        self._saved_at = self._clock()
        if self._saved == place:
            with self._errors("Older checkpoints could not be removed from {}: {}. Training goes on."):
                self._store.prune(self._header["run"])

    def heartbeat(self) -> None:
        """Shows other hosts now and then that this process lives."""
        if self._clock() - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat_at = self._clock()
            with self._errors("The lock could not be kept in {}: {}. Training goes on."):
                self._store.lock.keep()

    @contextmanager
    def _errors(self, words: str) -> Iterator[None]:
        """Has a failure to write be one of ours, or a warning, as `on_error` says."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            words = words.format(self._store.directory, error)
            if self._on_error == "raise":
                raise CheckpointError(words) from error
            warnings.warn(words, stacklevel=2)


def _interval(interval: Any) -> tuple[int | None, float | None]:
    """An interval in steps, and one in seconds; both are `None` for "epoch"."""
    if interval == "epoch":
        return None, None
    if is_count(interval, 1):
        return int(interval), None
    if isinstance(interval, (float, datetime.timedelta)) or (isinstance(interval, str) and ":" in interval):
        return None, as_seconds("checkpoint_interval", interval)
    raise ValueError(
        '`checkpoint_interval` must be "epoch", a positive integer of steps, or seconds as a float, a `timedelta` or '
        f'"HH:MM:SS". Received: checkpoint_interval={interval!r}'
    )
