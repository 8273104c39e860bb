"""The learning rate of several optimizers, as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import tf


class SharedLearningRate(compat.TensorType):  # type: ignore[name-defined,misc]
    """The learning rate of the first group, to be read; assigned to, it changes those of all groups by one factor.

    It is what Keras's callbacks read and, on Keras 2, assign to: a tensor to them.
    """

    def __init__(self, groups: Any):
        self._groups = groups

    def numpy(self) -> np.ndarray:
        """The rate now, as NumPy has it."""
        return np.float32(self._first())

    def assign(self, value: Any) -> None:
        """Sets the rates of all groups: see `OptimizerGroups`."""
        self._groups.learning_rate = value

    @property
    def dtype(self) -> tf.DType:
        """The type of the first group's rate."""
        return tf.as_dtype(self._first().dtype)

    @property
    def shape(self) -> tf.TensorShape:
        """That of a scalar."""
        return tf.TensorShape([])

    def _first(self) -> Any:
        return next(iter(self._groups.groups.values())).learning_rate

    def __float__(self) -> float:
        return float(np.asarray(self._first()))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def __repr__(self) -> str:
        return f"<learning rate of {len(self._groups.groups)} groups, the first at {float(self)}>"


def number(value: Any) -> float:
    """A learning rate as a Python number.

    Raises:
        ValueError: If it is a schedule, or anything else but a number.
    """
    try:
        return float(np.asarray(value))
    except (TypeError, ValueError):
        raise ValueError(
            "`learning_rate` must be a number; anything else must be set on the optimizers, one by one. "
            f"Received: learning_rate={value!r}"
        ) from None


def has_schedule(optimizer: Any) -> bool:
    """Whether an optimizer's learning rate cannot be set."""
    return not isinstance(optimizer.get_config().get("learning_rate", 0.0), (int, float, np.number))
