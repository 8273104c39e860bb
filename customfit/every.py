"""`Every`: how often something happens, in epochs, steps or seconds."""

from __future__ import annotations

import dataclasses
import datetime
import math
import numbers
import re
from typing import Union

from customfit.arguments import as_count

Duration = Union[float, datetime.timedelta, str]


@dataclasses.dataclass(frozen=True)
class Every:
    """How often something happens: `Every(epochs=2)`, `Every(steps=500)` or `Every(seconds=600)`.

    Epochs and steps are counted over the whole run, including what came before a resume. Seconds are counted from the
    last time it happened.

    Args:
        epochs: After every so many epochs.
        steps: After every so many training steps.
        seconds: After so many seconds: a number, a `datetime.timedelta` or "HH:MM:SS". Kept as a number.

    Raises:
        ValueError: If not exactly one is given, or it is not positive.

    Example:

    >>> model.custom_fit(x, y, validation_data=(xv, yv), validation_freq=Every(steps=500))
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: Duration | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            received = ", ".join(f"{name}={value!r}" for name, value in given.items())
            raise ValueError(
                f"`Every` takes exactly one of `epochs`, `steps` and `seconds`. Received: Every({received})"
            )
        for name, value in given.items():
            checked = as_seconds("seconds", value) if name == "seconds" else as_count(name, value)
            object.__setattr__(self, name, checked)

    @property
    def in_seconds(self) -> float | None:
        """The seconds as a number, or `None`."""
        return None if self.seconds is None else as_seconds("seconds", self.seconds)

    def __str__(self) -> str:
        ((name, value),) = ((name, value) for name, value in dataclasses.asdict(self).items() if value is not None)
        return f"Every({name}={value:g})" if name == "seconds" else f"Every({name}={value})"


def as_seconds(name: str, duration: object) -> float:
    """A duration in seconds.

    Args:
        name: The argument's name, for the error.
        duration: What the user gave: a number of seconds, a `datetime.timedelta` or "HH:MM:SS".

    Raises:
        ValueError: If it is none of these, or not positive.
    """
    seconds = math.nan
    if isinstance(duration, datetime.timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", duration.strip())
        if match:
            hours, minutes, rest = map(int, match.groups())
            seconds = 3600.0 * hours + 60.0 * minutes + rest
    elif isinstance(duration, numbers.Real) and not isinstance(duration, bool):
        seconds = float(duration)
    if not 0 < seconds < math.inf:
        raise ValueError(
            f'`{name}` must be a positive number of seconds, a `timedelta` or "HH:MM:SS". Received: {name}={duration!r}'
        )
    return seconds
