"""How arguments are checked: one wording for counts, and the closest name for a misspelt one."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any


def is_count(value: object, least: int) -> bool:
    """Whether a value is an integer, and not a bool, of at least `least`."""
    try:
        return _integer(value) >= least
    except TypeError:
        return False


def as_count(name: str, value: object, least: int = 1) -> int:
    """An integer argument as an `int`.

    Args:
        name: The argument's name, for the error.
        value: What the user gave: an `int`, a NumPy integer, or an array or tensor that holds a single one.
        least: The smallest value allowed.

    Raises:
        ValueError: If it is anything else, `True` and `2.0` included.
    """
    if not is_count(value, least):
        what = "a positive integer" if least == 1 else f"an integer, {least} or more"
        raise ValueError(f"`{name}` must be {what}. Received: {name}={value!r}")
    return _integer(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "name", None) in ("bool", "bool_"):
        raise TypeError("a bool")
    return operator.index(value)


def listed(callbacks: Any) -> list:
    """Callbacks as `fit` takes them, one, several or `None`, as a list."""
    return [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'batch_size'?`, or an empty string where nothing comes close."""
    similar = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""
