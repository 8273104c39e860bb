"""How many steps go into one graph call."""

from __future__ import annotations


class Pace:
    """Measures how many steps take about a given time.

    Python costs the same for each block of steps, so long blocks are fast. But while one runs, no progress is shown and
    Ctrl-C is not handled. A tenth of a second is long enough for the one and short enough for the other.

    Args:
        seconds: How long a block should take.

    Attributes:
        steps: How many steps the next block should have.
        seconds_a_step: How long a step took in the last block, or `None` before a second one.
    """

    MAX_STEPS = 10_000

    def __init__(self, seconds: float = 0.1):
        self.steps = 1
        self._seconds = seconds
        self._traced = False
        self.seconds_a_step: float | None = None

    def record(self, steps: int, seconds: float) -> None:
        """Updates `steps` by how long a block took.

        The first block does not count, because it traces the step.

        Args:
            steps: How many steps it had.
            seconds: How long they took.
        """
        if not self._traced or steps == 0:
            self._traced = True
            return
        self.seconds_a_step = seconds / steps
        fitting = min(max(int(steps * self._seconds / max(seconds, 1e-9)), 1), self.MAX_STEPS)
        # Not all the way up at once: a single step is too short for the clock to say much.
        self.steps = min(fitting, 16 * max(steps, self.steps))


class FixedPace(Pace):
    """A given number of steps, for workers that must run the same ones in each graph call: their clocks differ.

    Args:
        steps: The number.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def record(self, steps: int, seconds: float) -> None:
        """Does nothing: the number is fixed."""
