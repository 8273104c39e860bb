"""The learning rates of several optimizers, as one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from customfit import compat
from customfit.compat import keras, tf


class HasGroups(Protocol):
    """An optimizer that consists of others."""

    learning_rate: Any

    @property
    def groups(self) -> dict[str, keras.optimizers.Optimizer]:
        """The others by name."""


class SharedLearningRate(compat.TensorType):  # type: ignore[name-defined,misc]
    """The learning rate of the first group. Assigning it changes the rates of all groups by the same factor.

    Keras's callbacks read it and, on Keras 2, assign it; to them it is a tensor.

    Args:
        optimizer: The optimizer of the groups.
    """

    def __init__(self, optimizer: HasGroups):
        self._optimizer = optimizer

    def numpy(self) -> np.ndarray:
        """Returns the current rate."""
        return np.float32(self._first())

    def assign(self, value: object) -> None:
        """Sets the rates of all groups: see `OptimizerGroups`.

        Args:
            value: The new rate of the first group.
        """
        self._optimizer.learning_rate = value

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the first group's rate."""
        return tf.as_dtype(self._first().dtype)

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of a scalar."""
        return tf.TensorShape([])

    def _first(self) -> Any:
        return next(iter(self._optimizer.groups.values())).learning_rate

    def __float__(self) -> float:
        return float(np.asarray(self._first()))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def __repr__(self) -> str:
        return f"<learning rate of {len(self._optimizer.groups)} groups, the first at {float(self)}>"


def number(value: object) -> float:
    """Returns a learning rate as a Python number.

    Args:
        value: The rate: a number, an array or a tensor.

    Raises:
        ValueError: If it is anything else, such as a schedule.
    """
    try:
        return float(np.asarray(value.read_value() if isinstance(value, tf.distribute.DistributedValues) else value))
    except (TypeError, ValueError):
        raise ValueError(
            "`learning_rate` must be a number. To set a schedule, set it on the optimizer of a group. "
            f"Received: learning_rate={value!r}"
        ) from None


def has_schedule(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer's learning rate is a schedule, and so cannot be set.

    Args:
        optimizer: The optimizer.
    """
    return not isinstance(optimizer.get_config().get("learning_rate", 0.0), (int, float, np.number))
