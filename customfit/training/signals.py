"""Ctrl-C and SIGTERM while a model trains: noted at once, heeded when the step is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM has ended training, and all that is kept of it is kept. The exit code is the shell's, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class SignalHandlers:
    """Handlers of SIGINT and SIGTERM for as long as a model trains.

    A handler that the caller has set is left alone, and so is everything in another thread than the main one, where
    Python lets nobody set handlers.

    Args:
        on_sigterm: "return" or "exit": what becomes of SIGTERM once training has ended in order.

    Attributes:
        pending: The signal that has come and has not been heeded yet, or `None`.
        at_once: Whether a second Ctrl-C has come, which waits for nothing.

    Raises:
        ValueError: If `on_sigterm` is anything else.
    """

    def __init__(self, on_sigterm: str = "return"):
        if on_sigterm not in ("return", "exit"):
            raise ValueError(f'`on_sigterm` must be "return" or "exit". Received: on_sigterm={on_sigterm!r}')
        self.on_sigterm = on_sigterm
        self.pending: int | None = None
        self._before: dict[int, Any] = {}
        self.at_once = False
        self._again = False  # whether Ctrl-C has been pressed once

    def begin(self) -> None:
        """Sets the handlers."""
        self.pending, self.at_once, self._again = None, False, False
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                self._before[number] = signal.signal(number, self._note)

    def end(self) -> None:
        """Puts back the handlers that there were."""
        while self._before:
            signal.signal(*self._before.popitem())

    def raise_pending(self) -> None:
        """Raises what has come: `KeyboardInterrupt` for Ctrl-C, `Terminated` for SIGTERM."""
        pending, self.pending = self.pending, None
        if pending == signal.SIGINT:
            raise KeyboardInterrupt
        if pending is not None:
            raise Terminated

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._again:
            self.pending, self.at_once = None, True
            raise KeyboardInterrupt  # at once, wherever we are
        self._again = self._again or number == signal.SIGINT
        if self.pending is None or number == signal.SIGINT:
            self.pending = number
