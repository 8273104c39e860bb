"""`Worker`: a process whose output is shown with a prefix and kept in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Callable

DRAIN_SECONDS = 5.0  # for what a process has left in its pipes; a child of its own may hold them open for ever
_terminal = threading.Lock()


class Worker:
    """A process of a job. It runs in a session of its own: Ctrl-C in a terminal reaches the launcher and not it.

    Args:
        index: Which worker it is.
        command: What to run.
        environment: Its environment.
        log: The file that its output is appended to.
        on_exit: Called with the worker, in a thread, once it has ended.
    """

    def __init__(
        self,
        index: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        on_exit: Callable[[Worker], None],
    ):
        self.index = index
        self.log = log
        self._on_exit = on_exit
        self._file = log.open("ab")
        self._file_lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError:
            self._file.close()
            raise
        streams = ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))
        self._readers = [threading.Thread(target=self._copy, args=pair, daemon=True) for pair in streams]
        for thread in [*self._readers, threading.Thread(target=self._wait, daemon=True)]:
            thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.returncode is not None

    @property
    def exit_code(self) -> int:
        """The exit code once it has ended, as shells have it: 128 and its number if a signal ended it."""
        code = self._process.returncode
        return 128 - code if code < 0 else code

    @property
    def outcome(self) -> str:
        """How it has ended, in words."""
        code = self._process.returncode
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def send_signal(self, number: int) -> None:
        """Sends a signal to it and to processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _wait(self) -> None:
        self._process.wait()
        for reader in self._readers:
            reader.join(DRAIN_SECONDS)
        self._file.close()
        self._on_exit(self)

    def _copy(self, pipe: IO[bytes], stream: IO[str]) -> None:
        """Copies lines to the file as they are, and to a stream of ours with a prefix."""
        prefix = f"[worker {self.index}] ".encode()
        for line in pipe:
            with self._file_lock, contextlib.suppress(ValueError):  # closed: the process is gone, and its child writes
                self._file.write(line)
                self._file.flush()
            _show(prefix + line.rstrip(b"\n") + b"\n", stream)


def _show(line: bytes, stream: IO[str]) -> None:
    """Writes a whole line. Where nobody reads any more, as behind `| head`, the file has it."""
    binary: BinaryIO | None = getattr(stream, "buffer", None)
    with _terminal, contextlib.suppress(OSError, ValueError):
        if binary is None:
            stream.write(line.decode(errors="replace"))
        else:
            binary.write(line)
        stream.flush()
