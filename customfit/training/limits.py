"""Limits of a training run: how many steps, and for how long."""

from __future__ import annotations

import math
import time
from typing import Any, Callable

from customfit.arguments import is_count
from customfit.every import as_seconds


class Limits:
    """Says how many steps may still run, and why training ends when none may.

    Steps are counted over the whole run, those before a resume included. Time is counted from the begin of this call.

    Args:
        max_steps: The step after which training ends, or `None`.
        max_time: For how long to train: seconds, a `datetime.timedelta`, "HH:MM:SS", or `None`.
        clock: Seconds, rising; only their differences count.

    Raises:
        ValueError: If a limit is not positive or not readable.
    """

    def __init__(self, max_steps: Any = None, max_time: Any = None, clock: Callable[[], float] = time.monotonic):
        if max_steps is not None and not is_count(max_steps, 1):
            raise ValueError(f"`max_steps` must be a positive number of steps. Received: max_steps={max_steps!r}")
        self.max_steps = None if max_steps is None else int(max_steps)
        self.max_seconds = None if max_time is None else as_seconds("max_time", max_time)
        self._max_time = max_time
        self._clock = clock
        self._begun = self._block_begun = clock()
        self._seconds_a_step = math.inf  # not known yet: one step, to see

    def begin(self) -> None:
        """Begins to count the time."""
        self._begun = self._clock()

    def before_block(self) -> None:
        """Before a block of steps."""
        self._block_begun = self._clock()

    def after_block(self, steps: int) -> None:
        """Learns from a block how long a step takes, so that the last block ends when the time does."""
        if steps:
            self._seconds_a_step = (self._clock() - self._block_begun) / steps

    def steps_left(self, steps_done: int, begins_epoch: bool = False) -> float:
        """How many more steps may run from here on in one go; 0 where a limit is reached.

        An epoch that has been begun when the time ran out gets a step: without one it would have no loss.
        """
        left = math.inf if self.max_steps is None else max(0, self.max_steps - steps_done)
        if self.max_seconds is not None and left:
            seconds_left = self._begun + self.max_seconds - self._clock()
            if seconds_left <= 0:
                return 1 if begins_epoch else 0
            fitting = seconds_left / self._seconds_a_step if self._seconds_a_step else math.inf
            left = min(left, max(1, fitting if math.isinf(fitting) else math.ceil(fitting)))
        return left

    def reached(self, steps_done: int) -> str | None:
        """Which limit is reached, in words, or `None`."""
        if self.max_steps is not None and steps_done >= self.max_steps:
            return f"max_steps={self.max_steps} is reached"
        if self.max_seconds is not None and self._clock() - self._begun >= self.max_seconds:
            return f"max_time={self._max_time} is over"
        return None
