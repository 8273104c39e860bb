"""Optimizers, losses and metrics as the Python that makes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from customfit.compat import keras

_MODULES = {
    "optimizers": keras.optimizers,
    "optimizers.schedules": keras.optimizers.schedules,
    "losses": keras.losses,
    "metrics": keras.metrics,
}
# Given by Keras, or of how it computes.
_LEFT_OUT = ("name", "dtype", "is_legacy_optimizer", "jit_compile")


class Expressions:
    """Writes objects as Python.

    Attributes:
        imports: The lines that import what is not Keras's.
    """

    def __init__(self) -> None:
        self.imports: list[str] = []

    def of(self, value: Any) -> str:
        """Returns the Python that makes a value.

        Args:
            value: A number, a string, an object or function of Keras or of a module that can be imported, or lists and
                dicts of them.

        Raises:
            ValueError: If it cannot be written: a lambda, or an object of another class.
        """
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.of(key)}: {self.of(each)}" for key, each in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(map(self.of, value)) + "]"
        if value is None or isinstance(value, (bool, int, str)):
            return f'"{value}"' if isinstance(value, str) and value.isprintable() and '"' not in value else repr(value)
        if isinstance(value, (float, np.floating)):
            short = str(np.float32(value))
            return short if np.float32(value) == value else repr(float(value))
        if inspect.isfunction(value) or inspect.isclass(value):
            return self._name(value)
        if hasattr(value, "get_config"):
            return self._call(value)
        raise ValueError(f"`eject` cannot write this as Python. Received: {value!r}")

    def _call(self, value: Any) -> str:
        cls = type(value)
        parameters = inspect.signature(cls).parameters
        config = {name: each for name, each in value.get_config().items() if name not in _LEFT_OUT}
        defaults = {name: parameter.default for name, parameter in parameters.items() if name in config}
        given = {
            name: each for name, each in config.items() if name not in defaults or not _is_default(each, defaults[name])
        }
        if isinstance(value, keras.metrics.Metric) and value.name != parameters["name"].default:
            given["name"] = value.name  # the logs are called so
        return f"{self._name(cls)}({', '.join(f'{name}={self._argument(each)}' for name, each in given.items())})"

    def _argument(self, serialized: Any) -> str:
        if isinstance(serialized, Mapping) and {"class_name", "config"} <= set(serialized):
            schedule = keras.optimizers.schedules.deserialize(dict(serialized))
            return self.of(schedule)
        return self.of(serialized)

    def _name(self, value: Any) -> str:
        """Returns the name of a class or function, as it is imported."""
        name = str(value.__name__)
        for path, module in _MODULES.items():
            if getattr(module, name, None) is value:
                return f"keras.{path}.{name}"
        if value.__module__ == "__main__" or not value.__qualname__.isidentifier():
            raise ValueError(
                "`eject` can only import what a module has under a name. Received: "
                f"{value.__qualname__} of {value.__module__}"
            )
        line = f"from {value.__module__} import {name}"
        if line not in self.imports:
            self.imports.append(line)
        return name


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, (float, np.floating)) and isinstance(default, (int, float)):
        return bool(np.float32(value) == np.float32(default))
    return bool(value is default or (type(value) is type(default) and value == default))
