"""What many options are brought into one form by, and checked with."""

from __future__ import annotations

import numbers
from typing import Any


def is_count(value: Any, least: int) -> bool:
    """Whether a value is an integer, and not a bool, of at least `least`."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least


def listed(callbacks: Any) -> list:
    """Callbacks as `fit` takes them, one, several or `None`, as a list."""
    return [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
