"""Rows of arrays and tensors: counted, split, on the device, gathered."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.conversion import as_rows
from customfit.data.source import Batch
from customfit.data.stored import StoredRows


def are_rows(*structures: Any) -> bool:
    """Whether every leaf of what `as_rows` returned is an array or an eager tensor, and there is at least one."""
    leaves = [leaf for leaf in tf.nest.flatten(structures) if leaf is not None]
    return bool(leaves) and all(_is_rows(leaf) for leaf in leaves)


def _is_rows(leaf: Any) -> bool:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return compat.shuffles_ragged_like_dense()
    return (is_on_host(leaf) and leaf.dtype != object) or (isinstance(leaf, tf.Tensor) and hasattr(leaf, "numpy"))


def is_on_host(leaf: object) -> bool:
    """Whether rows are a NumPy array, or stored where they are read by slices."""
    return isinstance(leaf, (np.ndarray, StoredRows))


def take(array: np.ndarray | StoredRows, rows: np.ndarray) -> np.ndarray:
    """Returns rows of an array on the host, by their numbers."""
    return array.take(rows) if isinstance(array, StoredRows) else array[rows]


def count_rows(structures: Mapping[str, Any]) -> int:
    """Returns the number of rows that all the arrays have.

    Args:
        structures: Nested structures of arrays, by what they are called.

    Raises:
        ValueError: If they differ, or there are none.
    """
    shapes = {
        name: [tuple(leaf.shape) for leaf in tf.nest.flatten(structure) if leaf is not None]
        for name, structure in structures.items()
        if structure is not None
    }
    for name, found in shapes.items():
        for shape in found or [()]:
            if not shape:
                received = f"an array of shape {shape}" if found else "none"
                raise ValueError(f"`{name}` must be arrays of rows. Received: {received}")
    received = ", ".join(f"{name}: {', '.join(str(shape[0]) for shape in found)}" for name, found in shapes.items())
    counts = {shape[0] for found in shapes.values() for shape in found}
    if len(counts) != 1:
        raise ValueError(f"Arrays must all have the same number of rows. Received: {received}")
    rows = counts.pop()
    if rows == 0:
        raise ValueError(f"Arrays must have at least one row. Received: {received}")
    return rows


def pack(x: Any, y: Any = None, sample_weight: Any = None) -> Batch:
    """Returns inputs, targets and weights as a batch, as the data adapters of Keras do: lists are tuples in it."""
    x, y, sample_weight = map(_lists_as_tuples, (x, y, sample_weight))
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def _lists_as_tuples(structure: Any) -> Any:
    if isinstance(structure, dict):
        return {name: _lists_as_tuples(part) for name, part in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*map(_lists_as_tuples, structure))
    return tuple(map(_lists_as_tuples, structure)) if isinstance(structure, (list, tuple)) else structure


def split_rows(arrays: Sequence[Any], validation_split: float) -> tuple[Any, Any]:
    """Splits `(x, y, sample_weight)` into the first rows and the last share of them, as `fit` does.

    Args:
        arrays: Nested structures of what `as_rows` takes.
        validation_split: The share of rows, between 0 and 1, that goes into the second part.

    Returns:
        Two tuples like `arrays`.

    Raises:
        ValueError: If the data are no arrays, or a part would be empty.
    """
    if not isinstance(validation_split, numbers.Real) or not 0 < validation_split < 1:
        raise ValueError(f"`validation_split` must be between 0 and 1. Received: validation_split={validation_split!r}")
    names = ("x", "y", "sample_weight")
    arrays = tuple(as_rows(structure, name) for structure, name in zip(arrays, names))
    others = [leaf for leaf in tf.nest.flatten(arrays) if leaf is not None and not hasattr(leaf, "shape")]
    if others:
        raise ValueError(
            "`validation_split` can be used with arrays and tensors only; pass `validation_data` instead. Received: "
            f"data of type {type(others[0]).__name__}"
        )
    rows = count_rows(dict(zip(names, arrays)))
    split = math.floor(rows * (1.0 - validation_split))
    if not 0 < split < rows:
        raise ValueError(
            f"`validation_split` must leave rows to train on and to validate on. Received: validation_split="
            f"{validation_split} of {rows} rows"
        )

    def part(begin, end):
        def cut(leaf):
            if isinstance(leaf, tf.SparseTensor):
                size = [end - begin, *leaf.shape[1:]]
                return tf.sparse.slice(leaf, [begin] + [0] * (len(size) - 1), size)
            return None if leaf is None else leaf[begin:end]

        return tf.nest.map_structure(cut, arrays)

    return part(0, split), part(split, rows)


class SparseRows(tf.experimental.ExtensionType):
    """A `SparseTensor` cut into rows, so that any of them can be gathered inside the graph.

    Attributes:
        columns: Of each row, the indices of its values behind the first axis.
        values: Of each row, its values.
        shape: The shape of the whole.
    """

    __name__ = "customfit.SparseRows"
    columns: tf.RaggedTensor
    values: tf.RaggedTensor
    shape: tf.TensorShape

    @staticmethod
    def of(tensor: tf.SparseTensor) -> SparseRows:
        """Cuts a sparse tensor into rows."""
        tensor = tf.sparse.reorder(tensor)
        row_of_value, rows = tensor.indices[:, 0], tensor.shape[0]
        return SparseRows(
            columns=tf.RaggedTensor.from_value_rowids(tensor.indices[:, 1:], row_of_value, rows),
            values=tf.RaggedTensor.from_value_rowids(tensor.values, row_of_value, rows),
            shape=tensor.shape,
        )

    def gather(self, rows: tf.Tensor) -> tf.SparseTensor:
        """Returns a sparse tensor of these rows, in this order."""
        columns, values = tf.gather(self.columns, rows), tf.gather(self.values, rows)
        indices = tf.concat([values.value_rowids()[:, tf.newaxis], columns.values], axis=1)
        count = rows.shape[0] if rows.shape[0] is not None else tf.size(rows, tf.int64)
        shape = tf.stack([tf.cast(count, tf.int64), *self.shape[1:]])
        return tf.SparseTensor(indices, values.values, shape)


def to_tensor(array: Any) -> Any:
    """Returns an array on the device, in the dtype in which `fit` of this generation gives it to the model."""
    if is_on_host(array):
        return tf.convert_to_tensor(array, keras.backend.floatx() if array.dtype.kind == "f" else None)
    if array.dtype.is_floating and compat.fit_casts_tensors():
        array = tf.cast(array, keras.backend.floatx())
    return SparseRows.of(array) if isinstance(array, tf.SparseTensor) else array


def gather(array: Any, rows: tf.Tensor) -> Any:
    """Returns these rows of what `to_tensor` returned."""
    return array.gather(rows) if isinstance(array, SparseRows) else tf.gather(array, rows)


def row_spec(array: Any) -> tf.TypeSpec:
    """Returns the spec of any number of rows of what `to_tensor` returned."""
    if isinstance(array, tf.Tensor):
        return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
    return tf.type_spec_from_value(array)


def map_leaves(function: Callable, batch: Any) -> Any:
    """Applies `function` to each leaf of a batch that is not `None`."""
    return tf.nest.map_structure(lambda leaf: None if leaf is None else function(leaf), batch)


def count_batch_rows(batch: Any) -> tf.Tensor:
    """Returns the number of rows of a batch, inside the graph: that of its first leaf, a tensor or a NumPy array."""
    leaf = next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int64)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int64)
    return tf.shape(leaf, tf.int64)[0] if tf.TensorShape(leaf.shape).rank else tf.constant(1, tf.int64)


def part_of_rows(rows: Any, part: Any, parts: int) -> tuple[Any, Any]:
    """Returns where a part of rows begins and how many it has.

    Rows are split evenly. Of rows that are left over, the first parts get one more each.

    Args:
        rows: How many rows there are: an integer, or a tensor of one.
        part: Which part, likewise.
        parts: How many parts.
    """
    each, more = rows // parts, rows % parts
    if isinstance(rows, int) and isinstance(part, int):
        return part * each + min(part, more), each + int(part < more)
    return part * each + tf.minimum(part, more), each + tf.cast(part < more, tf.int64)


def part_of_batch(batch: Batch, part: Any, parts: int) -> Batch:
    """Returns a part of the rows of a batch, inside the graph.

    Args:
        batch: The batch. Leaves that are scalars stay as they are.
        part: Which part: an `int64` tensor.
        parts: How many parts.
    """
    begin, size = part_of_rows(count_batch_rows(batch), part, parts)

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, tf.SparseTensor):
            others = leaf.dense_shape[1:]
            return tf.sparse.slice(leaf, tf.concat([[begin], tf.zeros_like(others)], 0), tf.concat([[size], others], 0))
        return compat.with_unknown_rows(leaf[begin : begin + size]) if leaf.shape.rank else leaf

    return map_leaves(of_leaf, batch)


def empty_rows(spec: tf.TypeSpec) -> Any:
    """Returns a leaf of a batch without rows.

    Args:
        spec: The spec of the leaf.
    """
    others = [size or 1 for size in spec.shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        values = tf.zeros([0, *others[spec.ragged_rank :]], spec.dtype)
        return tf.RaggedTensor.from_nested_row_splits(values, [tf.zeros([1], spec.row_splits_dtype)] * spec.ragged_rank)
    if isinstance(spec, tf.SparseTensorSpec):
        indices = tf.zeros([0, 1 + len(others)], tf.int64)
        return tf.SparseTensor(indices, tf.zeros([0], spec.dtype), tf.constant([0, *others], tf.int64))
    return tf.zeros([0, *others], spec.dtype)
