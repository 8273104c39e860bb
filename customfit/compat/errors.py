"""Errors of operations in graphs."""

from __future__ import annotations

import importlib
import re

from customfit.compat.versions import tf

# Of TensorFlow: what adds to an error where in Python the operation was made. Its name has changed with 2.13.
_LOCATORS = (
    ("tensorflow.python.eager.polymorphic_function.atomic_function", "InterpolateRuntimeError"),
    ("tensorflow.python.eager.polymorphic_function.monomorphic_function", "_InterpolateFunctionError"),
)

_of_the_call = re.compile(r"\{\{function_node __wrapped__[^}]*\}\} ?")


def locate_error(error: tf.errors.OpError, function: tf.types.experimental.ConcreteFunction) -> None:
    """Adds to an error where in Python the operation that failed was made, as a call of the function would.

    Args:
        error: The error.
        function: The function in which it was raised.
    """
    locator = _locator()
    if locator is not None:
        called = function._inference_function
        name = called.name.decode() if isinstance(called.name, bytes) else called.name
        # The place is looked up from the outermost function on, which a call by an operation leaves out.
        error._message = f"{{{{function_node {name}}}}} {_of_the_call.sub('', error.message)}"
        locator(called).__exit__(type(error), error, None)


def _locator() -> type | None:
    for module, name in _LOCATORS:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    return None
