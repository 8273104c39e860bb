"""Arrays in memory: kept as tensors on the device, each batch gathered inside the graph."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.source import Block

DEFAULT_BATCH_SIZE = 32


def are_arrays(*structures: Any) -> bool:
    """Whether every leaf of the structures is a NumPy array or an eager tensor, and there is one at least."""
    leaves = [leaf for leaf in tf.nest.flatten(structures) if leaf is not None]
    return bool(leaves) and all(
        (isinstance(leaf, np.ndarray) and leaf.dtype != object) or (tf.is_tensor(leaf) and isinstance(leaf, tf.Tensor))
        for leaf in leaves
    )


class ArraySource:
    """Rows of arrays, in batches, in a new order each epoch if asked.

    The order is the one that Keras 2's `fit(shuffle=True)` gives under the same `keras.utils.set_random_seed`.
    Keras 3's `fit` repeats the first epoch's order in every epoch.

    Args:
        x: Inputs: an array or tensor of shape `(rows, ...)`, or a nested structure of them.
        y: Targets, likewise, or `None`.
        sample_weight: Weights, likewise, or `None`.
        batch_size: Rows in a batch; the last batch of a pass over the data may have fewer.
        shuffle: Whether the order is drawn anew for each pass.
        steps_per_epoch: Steps in an epoch. With fewer than the data has, the next epoch goes on where this one ends.
    """

    def __init__(self, x, y=None, sample_weight=None, *, batch_size=None, shuffle=False, steps_per_epoch=None):
        self.batch_size = DEFAULT_BATCH_SIZE if batch_size is None else int(batch_size)
        self.rows = count_rows(x=x, y=y, sample_weight=sample_weight)
        self.spent = False
        self._pass_steps = math.ceil(self.rows / self.batch_size)
        self.steps = min(steps_per_epoch or self._pass_steps, self._pass_steps)
        if steps_per_epoch and steps_per_epoch > self._pass_steps:
            warnings.warn(
                f"`steps_per_epoch` asks for more steps than the data has: epochs end after {self._pass_steps} of "
                f"{steps_per_epoch} steps.",
                stacklevel=3,
            )
        if sample_weight is not None and tf.nest.is_nested(y) and not tf.nest.is_nested(sample_weight):
            sample_weight = tf.nest.map_structure(lambda _: sample_weight, y)  # one weight for every output
        batch = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        self._arrays = tf.nest.map_structure(lambda leaf: None if leaf is None else _to_tensor(leaf), batch)
        self._fetch = _Gather(self.batch_size, ragged=self.rows % self.batch_size != 0)
        self._orders = _orders(self.rows, shuffle)
        self.restart()

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of a pass, whatever was left of the last one."""
        self._order = None
        self._next = 0  # the next step within the current pass

    def blocks(self, size: int) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size`; none crosses from one pass over the data to the next."""
        begin = 0
        while begin < self.steps:
            if self._order is None or self._next == self._pass_steps:
                self._order, self._next = next(self._orders), 0
            count = min(size, self.steps - begin, self._pass_steps - self._next)
            feed, first = (self._arrays, self._order), self._next
            self._next += count
            yield Block(begin, size, count, self._fetch, feed, first)
            begin += count


@dataclasses.dataclass(frozen=True)
class _Gather:
    """Gathers the rows of one batch. Equal ones share a trace."""

    batch_size: int
    ragged: bool  # whether the last batch is smaller: then the batch size is not in the static shape, as in `fit`

    def __call__(self, feed, index):
        arrays, order = feed
        begin = index * self.batch_size
        rows = order[begin : begin + self.batch_size]
        if not self.ragged:
            rows = tf.ensure_shape(rows, [self.batch_size])
        return tf.nest.map_structure(lambda array: None if array is None else tf.gather(array, rows), arrays)


def _orders(rows: int, shuffle: bool) -> Iterator[tf.Tensor]:
    """The order of the rows in each pass.

    Under a global seed an op inside a tf.data map draws the same numbers whatever was drawn eagerly before: so the
    orders are those that `fit` of Keras 2 draws in a map of its own.
    """
    if shuffle:
        return iter(tf.data.Dataset.range(1).repeat().map(lambda _: tf.random.shuffle(tf.range(rows, dtype=tf.int64))))
    return iter(tf.data.Dataset.from_tensors(tf.range(rows, dtype=tf.int64)).repeat())


def _to_tensor(array):
    floating = array.dtype.is_floating if tf.is_tensor(array) else np.issubdtype(array.dtype, np.floating)
    if floating and (compat.casts_tensors() or not tf.is_tensor(array)):
        return tf.cast(array, keras.backend.floatx())
    return tf.convert_to_tensor(array)


def count_rows(**structures: Any) -> int:
    """The number of rows that all the arrays have.

    Raises:
        ValueError: If they differ, or there are none.
    """
    counts: dict[str, list] = {
        name: [leaf.shape[0] if len(leaf.shape) else None for leaf in tf.nest.flatten(structure) if leaf is not None]
        for name, structure in structures.items()
        if structure is not None
    }
    received = ", ".join(f"{name}: {', '.join(map(str, rows))}" for name, rows in counts.items())
    every = {rows for group in counts.values() for rows in group}
    if len(every) != 1 or None in every:
        raise ValueError(f"Arrays must all have the same number of rows. Received: {received}")
    rows = every.pop()
    if rows == 0:
        raise ValueError(f"Arrays must have at least one row. Received: {received}")
    return rows


def split_rows(arrays: Any, validation_split: float) -> tuple[Any, Any]:
    """Splits `(x, y, sample_weight)` into the first rows and the last share of them, as `fit` does.

    Args:
        arrays: A nested structure of arrays and tensors.
        validation_split: The share of rows, between 0 and 1, that goes into the second part.

    Returns:
        Two structures like `arrays`.
    """
    rows = count_rows(data=arrays)
    split = math.floor(rows * (1.0 - validation_split))
    if not 0 < split < rows:
        raise ValueError(
            f"`validation_split` must leave rows to train on and to validate on. Received: validation_split="
            f"{validation_split} of {rows} rows"
        )

    def part(rows):
        return tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[rows], arrays)

    return part(slice(None, split)), part(slice(split, None))


def weigh_classes(y: Any, sample_weight: Any | None, class_weight: dict) -> np.ndarray:
    """Sample weights in which each row counts as its class does, times its own weight where it has one.

    Args:
        y: Class ids of shape `(rows,)` or `(rows, 1)`, or one-hot rows of shape `(rows, classes)`.
        sample_weight: Weights of shape `(rows,)`, or `None`.
        class_weight: A weight for each class id; a class that is missing counts 1.

    Returns:
        Weights of shape `(rows,)`.
    """
    if tf.nest.is_nested(y):
        raise ValueError("`class_weight` can be used with a single output only. Received: several targets in `y`")
    y = np.asarray(y)
    ids = y.argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(len(y))
    weights = np.ones(len(y), dtype=keras.backend.floatx())
    for class_id, weight in class_weight.items():
        weights[ids.astype("int64") == int(class_id)] = weight
    return weights if sample_weight is None else weights * np.asarray(sample_weight)
