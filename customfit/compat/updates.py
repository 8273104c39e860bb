"""Sees the updates that a step hands to any optimizer, by whatever name it has the optimizer.

A step of the user's calls `optimizer.apply_gradients`, `apply` or `minimize` of one optimizer or of several, which may
be anywhere: in a list, on a layer, in a closure. So the methods of the classes are replaced, and only while a step runs
for which somebody handles updates. They are public, and so is what replaces them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol, Union

from customfit.compat.versions import keras, tf

if TYPE_CHECKING:
    from keras.optimizers import Optimizer

    from customfit.compat.models import Variable

    Gradient = Optional[Union[tf.Tensor, tf.IndexedSlices]]

UPDATES = ("apply_gradients", "apply")
SCALES = ("scale_loss", "get_scaled_loss")
SUMMED_ALREADY = {"skip_gradients_aggregation": True, "experimental_aggregate_gradients": False}


class UpdateHandler(Protocol):
    """What is told of a step's calls of its optimizers."""

    def update(
        self, optimizer: Optimizer, gradients: list[Gradient], variables: list[Variable], summed: bool
    ) -> object:
        """Updates variables, in place of the optimizer.

        Args:
            optimizer: The optimizer.
            gradients: The gradients as the optimizer was given them.
            variables: Their variables.
            summed: Whether the gradients are summed over replicas already.
        """

    def scale(self, optimizer: Optimizer, loss: tf.Tensor) -> object:
        """Notes the loss whose gradients the optimizer will be given. The optimizer then scales it."""


class _Handlers(threading.local):
    """The handlers of this thread, the innermost last. Replicas run in threads of their own."""

    def __init__(self) -> None:
        self.stack: list[UpdateHandler | None] = []


_handlers = _Handlers()
_lock = threading.Lock()
_users = 0
_methods: list[tuple[type, str, Callable[..., Any]]] = []  # those that are replaced, while there are users


@contextlib.contextmanager
def handled_updates(handler: UpdateHandler) -> Iterator[None]:
    """Within this context and thread, each optimizer's `apply_gradients` and `apply` is the handler's `update`.

    Args:
        handler: The handler.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _replace_methods()
    _handlers.stack.append(handler)
    try:
        yield
    finally:
        _handlers.stack.pop()
        with _lock:
            _users -= 1
            if _users == 0:
                while _methods:
                    cls, name, method = _methods.pop()
                    setattr(cls, name, method)


@contextlib.contextmanager
def unhandled_updates() -> Iterator[None]:
    """Within this context and thread, optimizers work as they are, also within the context of a handler."""
    _handlers.stack.append(None)
    try:
        yield
    finally:
        _handlers.stack.pop()


def _replace_methods() -> None:
    for cls in _optimizer_classes():
        for name in (*UPDATES, *SCALES):
            method = vars(cls).get(name)
            if callable(method):
                _methods.append((cls, name, method))
                setattr(cls, name, _scaling(method) if name in SCALES else _updating(method, name == "apply_gradients"))


def _optimizer_classes() -> set[type]:
    """Returns the classes of optimizers that there are, those of the user's and Keras 2's legacy ones too."""
    legacy = getattr(getattr(keras.optimizers, "legacy", None), "Optimizer", keras.optimizers.Optimizer)
    bases = {*keras.optimizers.Optimizer.__mro__, *legacy.__mro__}
    found = {base for base in bases if any(name in vars(base) for name in UPDATES)}
    left = list(found)
    while left:
        below = set(left.pop().__subclasses__()) - found
        found |= below
        left += below
    return found


def _scaling(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    @tf.autograph.experimental.do_not_convert
    def handled(optimizer: Any, loss: Any) -> Any:
        handler = _handlers.stack[-1] if _handlers.stack else None
        if handler is not None:
            handler.scale(optimizer, loss)
        with unhandled_updates():  # of an optimizer within this one
            return method(optimizer, loss)

    return handled


def _updating(method: Callable[..., Any], takes_pairs: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    @tf.autograph.experimental.do_not_convert
    def handled(optimizer: Any, gradients: Any, *args: Any, **kwargs: Any) -> Any:
        handler = _handlers.stack[-1] if _handlers.stack else None
        if handler is None:
            return method(optimizer, gradients, *args, **kwargs)
        if takes_pairs:
            pairs = list(gradients)
            gradients, variables = [gradient for gradient, _ in pairs], [variable for _, variable in pairs]
        else:
            given = args[0] if args else kwargs.get("trainable_variables")
            variables = built_for(optimizer) if given is None else list(given)
        summed = any(kwargs.get(name) is value for name, value in SUMMED_ALREADY.items())
        handler.update(optimizer, list(gradients), variables, summed)
        return optimizer.iterations

    return handled


def built_for(optimizer: Optimizer) -> list[Variable]:
    """Returns the variables that an optimizer of Keras 3 was built with: what `apply(gradients)` alone updates."""
    innermost: Any = optimizer
    while hasattr(innermost, "inner_optimizer"):
        innermost = innermost.inner_optimizer
    return list(innermost._trainable_variables)
