"""`Checkpointer`: when a checkpoint is made, and how a later call resumes from the newest."""

from __future__ import annotations

import logging
import math
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Literal

from customfit import compat
from customfit.checkpoint.checkpoints import Checkpoints
from customfit.checkpoint.differences import differences, in_words, releases
from customfit.checkpoint.job_store import make_store
from customfit.checkpoint.lock import CheckpointError
from customfit.checkpoint.regrouping import counts_of
from customfit.checkpoint.training_state import TrainingState
from customfit.compat import tf
from customfit.serialization import JSON
from customfit.workers import Workers

HEARTBEAT_SECONDS = 60.0
_logger = logging.getLogger("customfit")


class Checkpointer:
    """Makes the checkpoints of a training run in a directory, and resumes the run from the newest.

    Args:
        checkpoints: Where, how often, and whether to resume.
        workers: All workers of the job.
        on_moment: Called with `"writing"` before a checkpoint gets its name, and with `"pruning"` before older ones are
            removed.
        clock: A clock in seconds that never goes back; only differences count.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        workers: Workers,
        *,
        on_moment: Callable[[Literal["writing", "pruning"]], None] = lambda moment: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.every = checkpoints.every
        self._seconds = checkpoints.every.in_seconds
        self._resume = checkpoints.resume
        self._on_error = checkpoints.on_error
        self._workers = workers
        self._store = make_store(checkpoints.directory, checkpoints.keep, workers, checkpoints.per_worker)
        self._on_moment = on_moment
        self._clock = clock
        self._saved_at = self._heartbeat_at = clock()
        self._saved: tuple[int, int] | None = None  # the epoch and step of the last checkpoint
        self._score: float | None = None  # of the last epoch or validation
        self._state: TrainingState | None = None
        self._from: tuple[Path, dict[str, JSON]] | None = None
        self._header: dict[str, JSON] = {}
        self._drew_seed = False

    def open(self) -> None:
        """Locks the directory.

        Raises:
            CheckpointError: If it cannot be created or written, whatever `on_error`: nothing has been trained yet.
        """
        try:
            self._store.open()
        except OSError as error:
            raise CheckpointError(
                f"`checkpoint` must be a directory that can be written. Received: {self._store.directory} ({error})"
            ) from error

    def close(self) -> None:
        """Releases the directory."""
        try:
            if self._drew_seed:
                tf.random.set_seed(None)
        finally:
            self._drew_seed = False
            self._state = self._from = self._saved = self._score = None
            try:
                self._store.close()
            except OSError as error:  # nothing is lost by that, and it must not hide what has ended training
                warnings.warn(f"The lock in {self._store.directory} could not be released: {error}", stacklevel=2)

    # -------------------------------------------------------------------------------------------------- to resume

    def resume(self, state: TrainingState, fingerprint: dict[str, JSON]) -> bool:
        """Restores the newest checkpoint, if there is one and the options allow it.

        Args:
            state: What is restored, and saved from now on.
            fingerprint: What the checkpoint must agree with.

        Returns:
            Whether a run was resumed; if not, a new one starts.

        Raises:
            CheckpointError: If there is none and `resume=True`, or if all of them are damaged.
            ValueError: If it is one of another model or of other options.
        """
        self._state = state
        self._from = self._store.newest() if self._resume else None
        if self._from is None:
            if self._resume is True:
                raise CheckpointError(
                    f"With `resume=True` there must be a checkpoint. Received: {self._store.directory}, which has none"
                )
            self._header = {"run": str(uuid.uuid4()), "seed": self._global_seed(), "fingerprint": fingerprint}
            state.trace()
            self._saved_at = self._clock()
            return False
        path, record = self._from
        self._check(fingerprint, path, record)
        resumed_as = {**record["fingerprint"], **counts_of(fingerprint)}
        self._header = {"run": record["run"], "seed": record["seed"], "fingerprint": resumed_as}
        state.restore(path, record)
        state.seek(path, record)
        state.restore_generators()
        self._saved, self._score = (state.progress.epoch, state.progress.step), record["score"]
        self._saved_at = self._clock()
        _logger.info("Resuming from %s: epoch %d, step %d.", path, state.progress.epoch + 1, state.progress.step)
        return True

    def peek(self, fingerprint: dict[str, JSON]) -> tuple[dict[str, JSON] | None, str | None]:
        """How far the run is that `resume` would restore: `epoch`, `step`, `total_steps` and `stopped`.

        Nothing is locked, moved or created, and the model stays as it is.

        Returns:
            That, or `None` where a new run would start; and a sentence that says why the call would be refused, or
            `None`.
        """
        record = self._store.peek() if self._resume else None
        if record is None:
            missing = self._resume is True or (self._resume and self._store.has_any())
            return None, f"there is no checkpoint to resume from in {self._store.directory}" if missing else None
        found = _differences(record, fingerprint)
        return record["at"], f"the checkpoint is refused: {in_words(found)}" if found else None

    def restore_again(self) -> None:
        """Restores the checkpoint once more, except for positions in the data."""
        if self._from is not None and self._state is not None:
            self._state.restore(*self._from)
            self._state.restore_generators()

    def _check(self, fingerprint: dict[str, JSON], path: Path, record: dict) -> None:
        found = _differences(record, fingerprint)
        seed, saved = compat.global_seed(), record["seed"]
        if seed is None and saved["drawn"]:
            tf.random.set_seed(saved["value"])
            self._drew_seed = True
        elif seed != saved["value"]:
            found.append(f"the global seed is {seed}, was {'drawn' if saved['drawn'] else saved['value']}")
        if found:
            raise ValueError(
                "The checkpoint was written with different options. Resume with the options of before, use another "
                f"directory, or start over with `Checkpoints(..., resume=False)`. Received: {path}, "
                f"{releases(record['fingerprint'], fingerprint)}: {in_words(found)}"
            )

    def _global_seed(self) -> dict[str, JSON]:
        """The global seed, which the order of rows and the random ops depend on. Draws one where there is none."""
        seed = compat.global_seed()
        if seed is not None:
            return {"value": seed, "drawn": False}
        seed = self._workers.draw_seed()
        tf.random.set_seed(seed)
        self._drew_seed = True
        return {"value": seed, "drawn": True}

    # ---------------------------------------------------------------------------------------------------- to save

    def steps_until_due(self, total_steps: int) -> float:
        """How many steps from here until a checkpoint is due."""
        steps = self.every.steps
        return math.inf if steps is None else steps - total_steps % steps

    def due_after_block(self, total_steps: int) -> bool:
        """Whether a checkpoint is due within an epoch."""
        if self._seconds is not None:
            return self._clock() - self._saved_at >= self._seconds
        return self.every.steps is not None and total_steps % self.every.steps == 0

    def due_after_epoch(self, epochs: int) -> bool:
        """Whether a checkpoint is due after so many epochs."""
        if self.every.epochs is not None:
            return epochs % self.every.epochs == 0
        return self._seconds is not None and self._clock() - self._saved_at >= self._seconds

    def record_score(self, score: float | None) -> None:
        """Records how good the model is, by which the checkpoints from now on may be the best.

        Args:
            score: Of the epoch or validation that has just ended, the lower the better; `None` leaves the last one.
        """
        self._score = self._score if score is None else score

    def save(self, rates: list[float]) -> None:
        """Makes a checkpoint, unless the last one was made at the same place.

        Args:
            rates: The learning rates.

        Raises:
            CheckpointError: If it cannot be written and `on_error="raise"`.
        """
        state = self._state
        place = None if state is None else (state.progress.epoch, state.progress.step)
        if state is None or place == self._saved:
            return
        callbacks = state.callback_states()

        def fill(folder: Path) -> dict[str, JSON]:
            score = None if self._score == math.inf else self._score
            record = {**self._header, "score": score, "learning rates": rates, **state.save(folder, callbacks)}
            self._on_moment("writing")
            return record

        with self._errors("A checkpoint could not be written to {}: {}."):
            self._store.lock.keep()
            self._store.write(fill)
            self._saved = place
        self._saved_at = self._clock()
        if self._saved == place:
            with self._errors("Older checkpoints could not be removed from {}: {}."):
                self._on_moment("pruning")
                self._store.prune(str(self._header["run"]))

    def heartbeat(self) -> None:
        """Shows other hosts from time to time that this process is alive."""
        if self._clock() - self._heartbeat_at >= HEARTBEAT_SECONDS:
            self._heartbeat_at = self._clock()
            with self._errors("The lock in {} could not be kept: {}."):
                self._store.lock.keep()

    @contextmanager
    def _errors(self, words: str) -> Iterator[None]:
        """Turns a failure to write into a `CheckpointError` or a warning, as `on_error` says."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            words = words.format(self._store.directory, error)
            if self._on_error == "raise":
                raise CheckpointError(words) from error
            warnings.warn(f"{words} Training continues.", stacklevel=2)


def _differences(record: dict, fingerprint: dict[str, JSON]) -> list[str]:
    """What differs between a checkpoint and a call, in words."""
    names = [name for name, _ in record["variables"]]
    return differences(record["fingerprint"], fingerprint, record["learning rates"], names)
