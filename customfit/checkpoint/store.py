"""Checkpoints as directories on disk: written whole or not at all, verified before they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Callable

from customfit.checkpoint.lock import CheckpointError, DirectoryLock

RECORD = "state.json"
MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d{8,})")


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written."""


class CheckpointStore:
    """The checkpoints in a directory.

    Each is a directory `checkpoint-00000012` of files, of a record `state.json`, and of a `manifest.json` with the size
    and checksum of each file. It is written under another name, flushed to the disk, and renamed at the end.

    Args:
        directory: Where they are; it is made if it does not exist.
        keep: How many of the newest to keep, besides the best.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int):
        self.directory = Path(os.path.expanduser(os.fspath(directory)))
        self._keep = keep
        self.lock = DirectoryLock(self.directory)

    def open(self) -> None:
        """Makes the directory, locks it, and clears away what a writer that was killed has left."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        try:
            for leftover in self.directory.glob(".writing-*"):
                shutil.rmtree(leftover)
        except BaseException:
            self.lock.release()
            raise

    def close(self) -> None:
        """Releases the lock."""
        self.lock.release()

    def paths(self) -> list[Path]:
        """The checkpoints, the oldest first."""
        found = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_number)

    def newest(self) -> tuple[Path, dict] | None:
        """The newest checkpoint that is whole, and its record; `None` if there is none at all.

        A damaged one is put aside with a warning that says what is wrong with it.

        Raises:
            CheckpointError: If there are some and all are damaged.
        """
        for path in reversed(self.paths()):
            try:
                return path, verify(path)
            except DamagedCheckpointError as error:
                warnings.warn(f"{error}. Resuming from the checkpoint before it.", stacklevel=2)
                os.rename(path, path.with_name(f"damaged-{path.name}"))
        if self.has_any():
            raise CheckpointError(
                f"No checkpoint in {self.directory} can be read. The damaged ones are still there; to start over, use "
                "another directory or remove them."
            )
        return None

    def peek(self) -> dict | None:
        """The record of the newest checkpoint that is whole, if there is one. Nothing is locked, moved or made."""
        for path in reversed(self.paths() if self.directory.is_dir() else []):
            with contextlib.suppress(DamagedCheckpointError):  # `newest` says so, when it is asked
                return verify(path)
        return None

    def has_any(self) -> bool:
        """Whether there are checkpoints, be they damaged."""
        return any(self.directory.glob("*checkpoint-*"))

    def write(self, fill: Callable[[Path], dict]) -> Path:
        """Writes a checkpoint.

        Args:
            fill: Writes files into the directory that it is given, and returns the record: what JSON can hold. In it
                `score` says how good it is, the lower the better, or is `None`; `run` tells runs apart.

        Returns:
            The checkpoint's path.
        """
        unfinished = self.begin()
        try:
            return self.finish(unfinished, fill(unfinished))
        except BaseException:
            self.abandon(unfinished)  # the error that is under way says more than this could
            raise

    def begin(self) -> Path:
        """Returns a new directory for the files of a checkpoint, which is none until `finish`."""
        unfinished = self.directory / f".writing-{uuid.uuid4()}"
        unfinished.mkdir()
        return unfinished

    def finish(self, unfinished: Path, record: dict) -> Path:
        """Makes a checkpoint of the files in a directory.

        Args:
            unfinished: What `begin` returned.
            record: The record: see `write`.

        Returns:
            The checkpoint's path.
        """
        number = 1 + max((_number(path) for path in self.directory.glob("*checkpoint-*")), default=0)
        path = self.directory / f"checkpoint-{number:08d}"
        (unfinished / RECORD).write_text(json.dumps(record))
        files = {file.name: _digest(file) for file in sorted(unfinished.iterdir())}
        (unfinished / MANIFEST).write_text(json.dumps(files))
        for file in unfinished.iterdir():
            _flush(file)
        _flush(unfinished)
        os.rename(unfinished, path)
        _flush(self.directory)
        return path

    def abandon(self, unfinished: Path) -> None:
        """Removes what has been written of a checkpoint that failed."""
        shutil.rmtree(unfinished, ignore_errors=True)

    def prune(self, run: str) -> None:
        """Removes all checkpoints but the newest and the best of this run, and those that were damaged."""
        paths = self.paths()
        kept = set(paths[-self._keep :])
        best = self._best(paths, run)
        for path in paths:
            if path not in kept and path != best:
                shutil.rmtree(path)
        for damaged in self.directory.glob("damaged-*"):
            shutil.rmtree(damaged)

    def _best(self, paths: list[Path], run: str) -> Path | None:
        scores = []
        for path in paths:
            try:
                other = json.loads((path / RECORD).read_text())
            except (FileNotFoundError, ValueError):  # damaged: not the best
                continue
            if other.get("run") == run and other.get("score") is not None:
                scores.append((other["score"], path))
        return min(scores)[1] if scores else None


def verify(path: Path) -> dict:
    """The record of a checkpoint, all of whose files are as they were written.

    Raises:
        DamagedCheckpointError: If one is not.
    """
    try:
        files = json.loads((path / MANIFEST).read_text())
        if RECORD not in files:
            raise ValueError("it does not name the record")
        for name, (size, checksum) in files.items():
            found, digest = _digest(path / name)
            if found != size:
                raise ValueError(f"{name} has {found} bytes instead of {size}")
            if digest != checksum:
                raise ValueError(f"{name} has a checksum mismatch")
        return json.loads((path / RECORD).read_text())
    except (FileNotFoundError, IsADirectoryError, ValueError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"The checkpoint {path} is damaged: {error}") from error
    except OSError as error:  # which says nothing of the checkpoint: it may be read another time
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error}") from error


def _number(path: Path) -> int:
    match = _NAME.search(path.name)
    return int(match.group(1)) if match else 0


def _digest(path: Path) -> tuple[int, str]:
    checksum, size = hashlib.blake2b(digest_size=16), 0
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            checksum.update(chunk)
            size += len(chunk)
    return size, checksum.hexdigest()


def _flush(path: Path) -> None:
    """Has the disk hold what was written, of a file or of a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
