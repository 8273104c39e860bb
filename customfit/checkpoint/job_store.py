"""The checkpoints of a job of several workers: in one directory that all see, or in a directory of each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable

from customfit.checkpoint.lock import CheckpointError, DirectoryLock
from customfit.checkpoint.store import CheckpointStore, DamagedCheckpointError, verify
from customfit.compat import tf
from customfit.workers import Workers

Fill = Callable[[Path], dict]


class SharedStore:
    """A `CheckpointStore` in a directory that all workers see.

    The chief owns the directory: it locks it, names checkpoints, finishes and removes them. Each worker writes its part
    into a checkpoint. What fails on one of them fails on all.

    Args:
        store: The store, which only the chief opens.
        workers: All workers.
    """

    def __init__(self, store: CheckpointStore, workers: Workers):
        self._store = store
        self._workers = workers
        self.directory = store.directory

    @property
    def lock(self) -> DirectoryLock:
        """The lock of the directory. It does nothing on a worker that has not acquired it."""
        return self._store.lock

    def open(self) -> None:
        """Locks the directory."""
        self._by_chief(self._store.open)

    def close(self) -> None:
        """Releases the lock. Another worker may have failed, so none is waited for."""
        self._store.close()

    def newest(self) -> tuple[Path, dict] | None:
        """The newest checkpoint that is whole, and its record; `None` if there is none: see `CheckpointStore`."""

        def find() -> str | None:
            found = self._store.newest()
            return None if found is None else found[0].name

        name = self._by_chief(find)
        if name is None:
            return None
        path = self.directory / name

        def read() -> dict:
            if not path.is_dir():
                raise CheckpointError(
                    f"`checkpoint` must be a directory that all workers see. Received: {self.directory}, where worker "
                    f"{self._workers.index} does not find {name}. Where each has a disk of its own, use "
                    "`Checkpoints(..., per_worker=True)`"
                )
            return json.loads((path / "state.json").read_text())

        return path, self._by_all(read)

    def peek(self) -> dict | None:
        """The record of the newest checkpoint that is whole, if there is one. It asks no other worker."""
        return self._store.peek()

    def has_any(self) -> bool:
        """Whether there are checkpoints. It asks no other worker."""
        return self._store.has_any()

    def write(self, fill: Fill) -> Path:
        """Writes a checkpoint: see `CheckpointStore.write`. Each worker fills in its part, and the chief the record."""
        unfinished = Path(self._by_chief(lambda: str(self._store.begin())))
        try:
            record = self._by_all(lambda: fill(unfinished))
            return Path(self._by_chief(lambda: str(self._store.finish(unfinished, record))))
        except BaseException:
            if self._workers.is_chief:
                self._store.abandon(unfinished)
            raise

    def prune(self, run: str) -> None:
        """Removes all checkpoints but the newest and the best."""
        self._by_chief(lambda: self._store.prune(run))

    def _by_chief(self, act: Callable[[], Any]) -> Any:
        """Does something on the chief. Returns on each worker what it returned there, as JSON can hold it."""
        return self._together(act if self._workers.is_chief else lambda: None)[0]

    def _by_all(self, act: Callable[[], Any]) -> Any:
        """Does something on each worker. Returns what it returned on this one."""
        found = []
        self._together(lambda: found.append(act()))
        return found[0]

    def _together(self, act: Callable[[], Any]) -> list[Any]:
        """Does something on each worker, and returns what came of it on all. What one raises, all raise."""
        error: Exception | None = None
        value = None
        try:
            value = act()
        except (OSError, tf.errors.OpError, CheckpointError) as failure:
            error = failure
        outcome = json.dumps([value, None if error is None else [isinstance(error, CheckpointError), str(error)]])
        found = [json.loads(text) for text in self._workers.gather(outcome)]
        if error is not None:
            raise error
        for index, (_, failed) in enumerate(found):
            if failed is not None:
                raise (CheckpointError if failed[0] else OSError)(f"worker {index}: {failed[1]}")
        return [value for value, _ in found]


class StoreOfWorker(CheckpointStore):
    """The checkpoints of one worker, where each has a directory of its own, perhaps on another disk.

    All resume from the same one: the newest that each of them has whole.

    Args:
        directory: The directory that was given. This worker's is `worker-<index>` in it.
        keep: How many of the newest to keep, besides the best.
        workers: All workers.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int, workers: Workers):
        super().__init__(Path(directory) / f"worker-{workers.index}", keep)
        self._workers = workers

    def newest(self) -> tuple[Path, dict] | None:
        """The newest checkpoint that all workers have, and this one's record of it. Newer ones are put aside."""
        whole: dict[str, tuple[Path, dict]] = {}
        for path in self.paths():
            try:
                record = verify(path)
            except DamagedCheckpointError:  # which another worker may not be: a common one before it is found below
                continue
            at = record["at"]
            whole[json.dumps([at["epoch"], at["step"], at["total_steps"]])] = path, record
        everywhere = [set(json.loads(text)) for text in self._workers.gather(json.dumps(list(whole)))]
        common = set.intersection(*everywhere)
        if not common:
            if self._workers.any(self.has_any()):
                raise CheckpointError(
                    f"No checkpoint in {self.directory} is one that all workers have whole. With `per_worker=True`, "
                    "resume with as many workers as before."
                )
            return None
        path, record = whole[max(common, key=lambda place: json.loads(place)[::-1])]
        for other in self.paths():
            if other.name > path.name:
                os.rename(other, other.with_name(f"damaged-{other.name}"))
        return path, record


def make_store(
    directory: str | os.PathLike[str], keep: int, workers: Workers, per_worker: bool
) -> CheckpointStore | SharedStore:
    """Returns the store of a run.

    Args:
        directory: Where the checkpoints are.
        keep: How many of the newest to keep, besides the best.
        workers: All workers.
        per_worker: Whether each has a directory of its own.
    """
    if workers.count == 1:
        return CheckpointStore(Path(directory) / "worker-0" if per_worker else directory, keep)
    if per_worker:
        return StoreOfWorker(directory, keep, workers)
    return SharedStore(CheckpointStore(directory, keep), workers)
