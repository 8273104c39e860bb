"""Limits of a training run: how many steps, and for how long."""

from __future__ import annotations

import math
import time
from typing import Callable

from customfit.arguments import as_count
from customfit.every import Duration, as_seconds


class Limits:
    """How many steps may still run, and which limit is reached when none may.

    Steps are counted over the whole run, including those before a resume. Time is counted from the start of this call.

    Args:
        max_steps: The step after which training ends, or `None`.
        max_time: How long to train: seconds, a `datetime.timedelta`, "HH:MM:SS", or `None`.
        clock: A clock in seconds that never goes back; only differences count. Several workers need one together.

    Raises:
        ValueError: If a limit is not positive or not readable.
    """

    def __init__(
        self,
        max_steps: int | None = None,
        max_time: Duration | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.max_steps = None if max_steps is None else as_count("max_steps", max_steps)
        self.max_seconds = None if max_time is None else as_seconds("max_time", max_time)
        self._max_time = max_time
        self._clock = clock
        self._begun = self._block_begun = clock()
        self._seconds_a_step = math.inf  # unknown at first: one step, to measure it

    def begin(self) -> None:
        """Starts to count the time."""
        self._begun = self._clock()

    def before_block(self) -> None:
        """Notes the time before a block of steps."""
        self._block_begun = self._clock()

    def after_block(self, steps: int) -> None:
        """Measures how long a step takes, so that the last block ends when the time does."""
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
            return f"reached max_steps={self.max_steps}"
        if self.max_seconds is not None and self._clock() - self._begun >= self.max_seconds:
            return f"reached max_time={self._max_time}"
        return None
