"""Ctrl-C and SIGTERM while a model trains: recorded at once, raised when the current step is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Terminated(SystemExit):
    """SIGTERM has ended training, after everything was saved. The exit code is the shell's, 143."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class SignalHandlers:
    """Handlers of SIGINT and SIGTERM while a model trains.

    A handler that the caller has set stays in place. Outside the main thread no handlers are set: Python does not
    allow it.

    Args:
        on_sigterm: How SIGTERM is handled once training has ended in order: `"return"` or `"exit"`.
        together: Whether a signal is pending only once all workers know of it: see `Agreement`.

    Attributes:
        on_sigterm: As given.
        arrived: The signal that has arrived at this process and has not been raised yet, or `None`.
        pending: The signal that is to be raised, or `None`.
        at_once: Whether Ctrl-C was pressed a second time, which waits for nothing.

    Raises:
        ValueError: If `on_sigterm` is anything else.
    """

    def __init__(self, on_sigterm: str = "return", together: bool = False):
        if on_sigterm not in ("return", "exit"):
            raise ValueError(f'`on_sigterm` must be "return" or "exit". Received: on_sigterm={on_sigterm!r}')
        self.on_sigterm = on_sigterm
        self.arrived: int | None = None
        self.pending: int | None = None
        self._together = together
        self._before: dict[int, Any] = {}
        self.at_once = False
        self._again = False  # whether Ctrl-C was pressed

    def begin(self) -> None:
        """Sets the handlers."""
        self.arrived, self.pending, self.at_once, self._again = None, None, False, False
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(number) == default:
                self._before[number] = signal.signal(number, self._record)

    def end(self) -> None:
        """Restores the handlers of before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def raise_pending(self) -> None:
        """Raises the pending signal: `KeyboardInterrupt` for Ctrl-C, `Terminated` for SIGTERM."""
        if self.pending is None:
            return
        pending, self.pending, self.arrived = self.pending, None, None
        if pending == signal.SIGINT:
            raise KeyboardInterrupt
        if pending is not None:
            raise Terminated

    def end_together(self) -> None:
        """Makes a signal pending that has arrived after the last step: no other worker waits for this one any more."""
        self.pending = self.pending or self.arrived

    def _record(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._again:
            self.arrived, self.pending, self.at_once = None, None, True
            raise KeyboardInterrupt  # at once, wherever we are
        self._again = self._again or number == signal.SIGINT
        if self.arrived is None or number == signal.SIGINT:
            self.arrived = number
            if not self._together:
                self.pending = number
