"""One process at a time in a directory: a lock file that names its owner."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Callable

STALE_SECONDS = 600.0  # without a sign of life from an owner on another host, whose process cannot be looked at
UNREADABLE_SECONDS = 5.0  # a lock without its owner's name yet has just been made; an older one was never finished


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or there is none that can be read, or the directory is in use."""


class DirectoryLockedError(CheckpointError):
    """Another process, or another run of this one, uses the directory."""


class DirectoryLock:
    """A file `lock` that exists while its owner uses a directory.

    Where the owner is gone, by SIGKILL say, the lock is stale: the file names the process and when that began, so that
    neither a dead process nor another one of the same number holds it.

    Args:
        directory: The directory, which exists.
        clock: The time since the epoch.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time):
        self._path = directory / "lock"
        self._clock = clock
        self._mine: str | None = None

    def acquire(self) -> None:
        """Acquires the lock.

        Raises:
            DirectoryLockedError: If another process or run holds it.
            OSError: If the directory cannot be written.
        """
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": started(os.getpid()),
            "id": str(uuid.uuid4()),
        }
        mine = json.dumps(owner)
        while not self._create(mine):
            self._remove_if_stale()
        self._mine = mine

    def release(self) -> None:
        """Releases the lock. Calling it again changes nothing."""
        mine, self._mine = self._mine, None
        if mine is not None and self._read() == mine:
            self._path.unlink()

    def keep(self) -> None:
        """Shows other hosts that this process is alive. Acquires the lock again if its file has vanished."""
        if self._mine is None:
            return
        if self._read() != self._mine:
            self.acquire()
        os.utime(self._path, (self._clock(), self._clock()))

    def _create(self, text: str) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return True

    def _read(self) -> str | None:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None

    def _remove_if_stale(self) -> None:
        text = self._read()
        if text is None:
            return  # it has just been given back
        reason = self._why_held(text)
        if reason:
            raise DirectoryLockedError(
                f"`checkpoint` must be a directory that one run uses at a time. Received: {self._path.parent}, "
                f"{reason}. If no other process is running, delete {self._path}"
            )
        # Of two who find the same stale lock, one moves it; what the other moves may be the new lock of the first.
        aside = self._path.with_name(f"lock-{uuid.uuid4()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path, aside)
            if aside.read_text() == text:
                aside.unlink()
            else:
                os.rename(aside, self._path)

    def _why_held(self, text: str) -> str | None:
        """What is known of the lock's owner, or `None` where it is gone."""
        try:
            age = self._clock() - self._path.stat().st_mtime
            owner = json.loads(text)
            pid, host, begun = owner["pid"], owner["host"], owner["started"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return "whose lock has just been made" if age < UNREADABLE_SECONDS else None
        if host != socket.gethostname():
            return f"used by process {pid} on {host} {age:.0f} s ago" if age < STALE_SECONDS else None
        if not is_alive(pid) or started(pid) != begun:
            return None
        return "used by another run of this process" if pid == os.getpid() else f"used by process {pid}"


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this host."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def started(pid: int) -> int | None:
    """When a process began, in the kernel's count; `None` where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
