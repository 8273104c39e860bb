"""How arguments are checked and shown: one wording for counts, and the closest name for a misspelt one."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")


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
        value: What the user gave: an `int`, a NumPy integer, or an array or tensor without axes that holds one.
        least: The smallest value allowed.

    Raises:
        ValueError: If it is anything else, `True` and `2.0` included.
    """
    if not is_count(value, least):
        what = "a positive integer" if least == 1 else f"an integer, {least} or more"
        raise ValueError(f"`{name}` must be {what}. Received: {name}={_plain(value)!r}")
    return _integer(value)


def _integer(value: Any) -> int:
    value = _plain(value)
    if isinstance(value, bool):
        raise TypeError("a bool")
    return operator.index(value)


def _plain(value: Any) -> Any:
    """What a tensor or array without axes holds, as Python writes it. Anything else is returned as it is."""
    value = value.numpy() if callable(getattr(value, "numpy", None)) else value
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def listed(callbacks: Any) -> list:
    """Callbacks as `fit` takes them, one, several or `None`, as a list."""
    return [] if callbacks is None else list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'batch_size'?`, or an empty string where nothing comes close."""
    similar = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""


def refuse_unknown(call: str, unknown: Iterable[str], known: Iterable[str], replaced: Mapping[str, str]) -> None:
    """Refuses keyword arguments that a call does not have.

    Args:
        call: The name of the method.
        unknown: The names that it was given and does not have.
        known: The names that it has.
        replaced: What to write instead of names that it once had.

    Raises:
        TypeError: If there is an unknown one. It says what was probably meant.
    """
    for name in unknown:
        hint = f" Use `{replaced[name]}`." if name in replaced else did_you_mean(name, known)
        raise TypeError(f"{call}() got an unexpected keyword argument {name!r}.{hint}")


def with_arguments_of(method: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Gives a method the arguments of another one, for readers, `help()` and type checkers."""

    def decorate(function: Callable[..., T]) -> Callable[P, T]:
        function.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
        return function

    return decorate
