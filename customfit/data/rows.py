"""Data in memory, as rows: what counts as such, as tensors, split, weighed and gathered."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf


def as_rows(data: Any) -> Any:
    """Turns what holds rows into NumPy arrays and tensors, and leaves everything else as it is.

    Args:
        data: An array, tensor, pandas `DataFrame` or `Series`, scipy sparse matrix or list of numbers; or a nested
            structure of them.

    Returns:
        The same structure, with a NumPy array or a tensor for each.
    """
    if isinstance(data, dict):
        return {key: as_rows(value) for key, value in data.items()}
    if isinstance(data, list) and _holds_scalars(data):
        return np.asarray(data)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(as_rows, data))
    if isinstance(data, (list, tuple)):
        return type(data)(map(as_rows, data))
    if hasattr(data, "iloc"):  # pandas
        values = data.to_numpy()
        return values if values.ndim > 1 else values[:, np.newaxis]
    if hasattr(data, "tocoo"):  # scipy
        matrix = data.tocoo()
        indices = np.stack([matrix.row, matrix.col], axis=1).astype("int64")
        return tf.sparse.reorder(tf.SparseTensor(indices, matrix.data, matrix.shape))
    if isinstance(data, np.ndarray) and data.dtype == object and all(isinstance(row, (str, bytes)) for row in data):
        return tf.convert_to_tensor(data, tf.string)
    if hasattr(data, "__array__") and not isinstance(data, (np.ndarray, tf.Tensor)):  # torch, JAX, a variable
        return np.asarray(data)
    return data


def _holds_scalars(data: Any) -> bool:
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, (bool, int, float, str, bytes, np.generic))


def are_rows(*structures: Any) -> bool:
    """Whether every leaf of what `as_rows` gave is an array or an eager tensor, and there is one at least."""
    leaves = [leaf for leaf in tf.nest.flatten(structures) if leaf is not None]
    return bool(leaves) and all(_is_rows(leaf) for leaf in leaves)


def _is_rows(leaf: Any) -> bool:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return compat.shuffles_ragged_like_dense()
    return (isinstance(leaf, np.ndarray) and leaf.dtype != object) or (
        isinstance(leaf, tf.Tensor) and hasattr(leaf, "numpy")
    )


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
        arrays: A nested structure of what `as_rows` takes.
        validation_split: The share of rows, between 0 and 1, that goes into the second part.

    Returns:
        Two structures like `arrays`.

    Raises:
        ValueError: If the data are no arrays, or a part would be empty.
    """
    arrays = as_rows(arrays)
    others = [leaf for leaf in tf.nest.flatten(arrays) if leaf is not None and not hasattr(leaf, "shape")]
    if others:
        raise ValueError(
            "`validation_split` can be used with arrays and tensors only; pass `validation_data` instead. Received: "
            f"data of type {type(others[0]).__name__}"
        )
    rows = count_rows(data=arrays)
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


def weigh_classes(y: Any, sample_weight: Any | None, class_weight: dict) -> np.ndarray:
    """Sample weights in which each row counts as its class does, times its own weight where it has one.

    Args:
        y: Class ids of shape `(rows,)` or `(rows, 1)`, or one-hot rows of shape `(rows, classes)`.
        sample_weight: Weights of shape `(rows,)`, or `None`.
        class_weight: A weight for each class id; a class that is missing counts 1.

    Returns:
        Weights of shape `(rows,)`.

    Raises:
        ValueError: If there are several targets, or none.
    """
    if y is None or tf.nest.is_nested(y):
        raise ValueError(
            "`class_weight` must come with the targets of a single output. Received: "
            f"{'no targets' if y is None else 'several targets'} in `y`"
        )
    y = np.asarray(y)
    ids = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(y.shape[: max(1, y.ndim - 1)])
    weights = np.ones(ids.shape, dtype=keras.backend.floatx())
    for class_id, weight in class_weight.items():
        weights[np.round(ids).astype("int64") == int(class_id)] = weight
    return weights if sample_weight is None else weights * np.asarray(sample_weight)


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
        """The rows of a sparse tensor."""
        tensor = tf.sparse.reorder(tensor)
        row_of_value, rows = tensor.indices[:, 0], tensor.shape[0]
        return SparseRows(
            columns=tf.RaggedTensor.from_value_rowids(tensor.indices[:, 1:], row_of_value, rows),
            values=tf.RaggedTensor.from_value_rowids(tensor.values, row_of_value, rows),
            shape=tensor.shape,
        )

    def gather(self, rows: tf.Tensor) -> tf.SparseTensor:
        """A sparse tensor of these rows, in this order."""
        columns, values = tf.gather(self.columns, rows), tf.gather(self.values, rows)
        indices = tf.concat([values.value_rowids()[:, tf.newaxis], columns.values], axis=1)
        count = rows.shape[0] if rows.shape[0] is not None else tf.size(rows, tf.int64)
        shape = tf.stack([tf.cast(count, tf.int64), *self.shape[1:]])
        return tf.SparseTensor(indices, values.values, shape)


def to_tensor(array: Any) -> Any:
    """An array on the device, in the dtype in which `fit` of this generation gives it to the model."""
    if isinstance(array, np.ndarray):
        return tf.convert_to_tensor(array, keras.backend.floatx() if array.dtype.kind == "f" else None)
    if array.dtype.is_floating and compat.fit_casts_tensors():
        array = tf.cast(array, keras.backend.floatx())
    return SparseRows.of(array) if isinstance(array, tf.SparseTensor) else array


def gather(array: Any, rows: tf.Tensor) -> Any:
    """These rows of what `to_tensor` gave."""
    return array.gather(rows) if isinstance(array, SparseRows) else tf.gather(array, rows)


def row_spec(array: Any) -> tf.TypeSpec:
    """The spec of any number of rows of what `to_tensor` gave."""
    if isinstance(array, tf.Tensor):
        return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
    return tf.type_spec_from_value(array)


def map_leaves(function: Callable, batch: Any) -> Any:
    """`function` of each leaf of a batch that is not `None`."""
    return tf.nest.map_structure(lambda leaf: None if leaf is None else function(leaf), batch)


def count_batch_rows(batch: Any) -> tf.Tensor:
    """The number of rows of a batch inside the graph: of its first leaf."""
    leaf = next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int64)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int64)
    return tf.shape(leaf, tf.int64)[0] if leaf.shape.rank else tf.constant(1, tf.int64)
