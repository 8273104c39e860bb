"""How many steps go into one graph call."""

from __future__ import annotations


class Pace:
    """Learns how many steps take about a given time.

    A block of steps costs Python once, so a long one is fast; but nobody is shown anything, and Ctrl-C is not heard,
    while it runs. A tenth of a second is long enough for the one and short enough for the other.

    Args:
        seconds: How long a block should take.

    Attributes:
        steps: How many steps to run next.
    """

    MOST_STEPS = 10_000

    def __init__(self, seconds: float = 0.1):
        self.steps = 1
        self._seconds = seconds
        self._traced = False

    def record(self, steps: int, seconds: float) -> None:
        """Learns from a block of `steps` that took `seconds`.

        The first one is not counted, as it traces the step; nor is one so short that the epoch's end may have cut it,
        unless it shows that blocks are too long.
        """
        if not self._traced or steps == 0:
            self._traced = True
            return
        fits = int(steps * self._seconds / max(seconds, 1e-9))
        fits = min(max(fits, 1), self.MOST_STEPS)
        # Up by leaps, but not all the way: one step is over before the clock can tell much.
        self.steps = min(fits, 16 * max(steps, self.steps))


class FixedPace(Pace):
    """A given number of steps, for workers that must run the same ones in each graph call: their clocks differ.

    Args:
        steps: The number.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def record(self, steps: int, seconds: float) -> None:
        """Learns nothing."""
