"""How contenders are timed: in turn within each round, so that what disturbs the machine disturbs them all.

The first two epochs of each, which trace and compile, are kept apart. (Two, because a loop may choose the size of its
blocks by the first one.) A contender's turn in a round is as many epochs as take it about two seconds: after a change
of hands it is a second or so until threads have settled on the cores, and that must not weigh more on who is faster.

Of the rounds the median and the best are reported. A ratio of two contenders is the median of the ratios within each
round.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import sys
import time
from typing import Any, Callable

from benchmarks.workloads import WORKLOADS

WARM_UP_EPOCHS = 2
LONGEST_EPOCH_S = 20  # what is slower is left out after its first epoch: XLA may take a second a step on a CPU
_BEGIN = time.perf_counter()


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    workloads: list[str]
    data: list[str] | None
    contenders: list[str]
    rounds: int
    quick: bool

    def data_of(self, workload: str) -> list[str]:
        """The forms of data to measure a workload on."""
        return self.data or list(WORKLOADS[workload].data)

    @property
    def turn_s(self) -> float:
        """How long a contender's turn in a round lasts, in whole epochs."""
        return 0 if self.quick else 2

    def steps(self, workload: str) -> int:
        """Steps in an epoch of a workload."""
        return WORKLOADS[workload].quick_steps if self.quick else WORKLOADS[workload].steps


@dataclasses.dataclass
class Timing:
    """The seconds of one contender.

    Attributes:
        warm_up_s: Of each epoch before the rounds.
        rounds_s: Of an epoch in each round.
        error: Why there are none.
    """

    warm_up_s: list[float] = dataclasses.field(default_factory=list)
    rounds_s: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None

    def as_dict(self, steps: int) -> dict:
        """For the report: the seconds, and microseconds a step."""
        if self.error:
            return {"error": self.error}
        median = statistics.median(self.rounds_s)
        return {
            "warm_up_s": self.warm_up_s,
            "rounds_s": self.rounds_s,
            "tracing_s": sum(self.warm_up_s) - WARM_UP_EPOCHS * median,
            "us_per_step": median / steps * 1e6,
            "best_us_per_step": min(self.rounds_s) / steps * 1e6,
        }


def alternate(makers: dict[str, Callable[[], Callable[[], Any]]], settings: Settings) -> dict[str, Timing]:
    """Builds each contender and warms it up; then times epochs of each, in turn, in every round.

    Args:
        makers: For each contender, what builds it and gives what trains it for an epoch.
        settings: How many rounds, and how long a turn.

    Returns:
        The seconds of each. One that cannot run, as where XLA does not compile the model, or is far too slow, says why.
    """
    timings = {name: Timing() for name in makers}
    epochs = {}
    for name, make in makers.items():
        try:
            epochs[name] = make()
            for _ in range(WARM_UP_EPOCHS):
                timings[name].warm_up_s.append(seconds(epochs[name]))
                if timings[name].warm_up_s[0] > LONGEST_EPOCH_S:
                    raise TimeoutError(
                        f"not timed: its first epoch, with tracing, took {timings[name].warm_up_s[0]:.0f} s"
                    )
        except Exception as error:  # of whatever kind: the others run nevertheless
            epochs.pop(name, None)
            timings[name].error = describe(error)
    gc.collect()
    for number in range(settings.rounds):
        order = list(epochs)
        for name in order if number % 2 == 0 else reversed(order):  # so that none always follows the same one
            count = max(1, round(settings.turn_s / timings[name].warm_up_s[-1]))
            timings[name].rounds_s.append(sum(seconds(epochs[name]) for _ in range(count)) / count)
    return timings


def seconds(function: Callable[[], Any]) -> float:
    """How long a function takes."""
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def ratios(timings: dict[str, Timing], name: str, against: str) -> dict | None:
    """How many times as fast one contender is as another: the median over the rounds, and of the best rounds.

    Returns:
        `median` and `best`; `None` where one of them was not measured.
    """
    if not all(other in timings and timings[other].rounds_s for other in (name, against)):
        return None
    ours, theirs = timings[name].rounds_s, timings[against].rounds_s
    return {
        "median": statistics.median(their / our for our, their in zip(ours, theirs)),
        "best": min(theirs) / min(ours),
    }


def describe(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def progress(message: str) -> None:
    """Says on standard error what is being measured."""
    print(f"{time.perf_counter() - _BEGIN:4.0f} s  {message}", file=sys.stderr, flush=True)
