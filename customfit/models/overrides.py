"""Classes that override `fit`, `evaluate` or `predict`: theirs is called, and what it passes down runs our loop.

A class may preprocess in them, add callbacks, or change what they return: keras_hub's tasks do. With
`class Mine(Theirs, CustomTrainModel)` theirs come before ours in the order of methods. So `custom_fit` calls theirs,
and when the call arrives at our `fit` below, the explicit loop runs on what has arrived.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from customfit.compat import keras


@dataclasses.dataclass
class Redirect:
    """A call of ours on its way through a method that a class overrides.

    Attributes:
        handle: What runs in place of Keras's method, on the arguments that arrive.
        reached: Whether the call has arrived.
    """

    handle: Callable[[dict[str, Any]], Any]
    reached: bool = False


def override_of(model: Any, name: str, ours: type) -> Callable[..., Any] | None:
    """The method of this name that a class above ours overrides, bound to the model, or `None`.

    Args:
        model: The model.
        name: "fit", "evaluate" or "predict".
        ours: Our class of that method.
    """
    explicit = {vars(ours)[f"custom_{name}"]}  # `fit = CustomTrainModel.custom_fit` is the explicit loop itself
    for cls in type(model).__mro__:
        if cls is ours:
            return None
        method = vars(cls).get(name)
        if method is not None and method not in explicit:
            return method.__get__(model)
    return None


def is_overridden(model: Any, name: str, ours: type) -> bool:
    """Whether a class above ours, or the model itself, has a method of this name.

    Args:
        model: The model.
        name: The method.
        ours: Our class that has it.
    """
    return name in vars(model) or next(cls for cls in type(model).__mro__ if name in vars(cls)) is not ours


def call_through(
    model: Any, name: str, override: Callable[..., Any], arguments: Mapping[str, Any], handle: Callable[..., Any]
) -> Any:
    """Calls an override, so that `handle` runs in place of Keras's method below it.

    Args:
        model: The model.
        name: "fit", "evaluate" or "predict".
        override: The bound method.
        arguments: Its arguments, `x` first; those that have their default in Keras are left out.
        handle: Called with the arguments that the override passes down, by the names that Keras has for them.

    Returns:
        What the override returns.

    Raises:
        RuntimeError: If the override never calls `super()`.
    """
    redirect = Redirect(handle)
    defaults = _keras_parameters(name)
    given = {
        key: value
        for key, value in arguments.items()
        if key not in defaults or defaults[key].default is inspect.Parameter.empty or not _same(value, defaults[key])
    }
    x = given.pop("x", None)
    outer = model.__dict__.get("_redirects", {})
    object.__setattr__(model, "_redirects", {**outer, name: redirect})
    try:
        result = override(x, **given)
    finally:
        object.__setattr__(model, "_redirects", outer)
    if not redirect.reached:
        owner = getattr(override, "__qualname__", name)
        raise RuntimeError(
            f"`{owner}` must call `super().{name}()`, below which the explicit loop runs. Received: a call that never "
            "arrived there"
        )
    return result


def handle_redirected(model: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> tuple[bool, Any]:
    """Runs what waits for a call of ours that arrives at the end of the overrides.

    Returns:
        Whether there was any, and what it returned.
    """
    redirects = model.__dict__.get("_redirects", {})
    if name not in redirects:
        return False, None
    redirect = redirects[name]
    redirect.reached = True
    arguments = inspect.signature(getattr(keras.Model, name)).bind(model, *args, **kwargs).arguments
    arguments.pop("self", None)
    extra = arguments.pop("kwargs", {})
    object.__setattr__(model, "_redirects", {key: other for key, other in redirects.items() if key != name})
    try:
        return True, redirect.handle({**arguments, **extra})
    finally:
        object.__setattr__(model, "_redirects", redirects)


def _keras_parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(getattr(keras.Model, name)).parameters


def _same(value: Any, parameter: inspect.Parameter) -> bool:
    default = parameter.default
    return value is default or (
        type(value) is type(default) and isinstance(value, (str, int, float)) and value == default
    )


class Carried(BaseException):
    """Carries a value past an override, which would do something with what it expects to be returned.

    Attributes:
        value: The value.
    """

    def __init__(self, value: Any):
        super().__init__()
        self.value = value
