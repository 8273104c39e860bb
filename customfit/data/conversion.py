"""Data in memory as NumPy arrays and tensors: pandas, scipy, lists, strings; and what cannot be converted, by name."""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from customfit.compat import tf
from customfit.data.stored import frame_rows, stored_rows

_NUMBERS = "biufc"  # kinds of NumPy dtypes, bools among them


def as_rows(data: Any, name: str = "x") -> Any:
    """Turns what holds rows into NumPy arrays and tensors, and leaves everything else as it is.

    Args:
        data: An array, tensor, pandas `DataFrame` or `Series`, scipy sparse matrix, dataset of h5py or zarr, or list of
            numbers or strings; or a nested structure of them.
        name: The argument that it was given as, for errors.

    Returns:
        The same structure, with a NumPy array, `StoredRows` or a tensor for each.

    Raises:
        ValueError: If there is something in it that no tensor can be made of: a column of dates, missing values.
    """
    if isinstance(data, dict):
        return {key: as_rows(value, f"{name}[{key!r}]") for key, value in data.items()}
    if isinstance(data, list) and _holds_scalars(data):
        return np.asarray(data)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(as_rows(value, f"{name}.{key}") for key, value in zip(data._fields, data)))
    if isinstance(data, (list, tuple)):
        return type(data)(as_rows(value, f"{name}[{index}]") for index, value in enumerate(data))
    if isinstance(data, (str, bytes, os.PathLike)):
        raise ValueError(f"`{name}` must be data, not the name of a file: read the file first. Received: {data!r}")
    if isinstance(data, numbers.Number):
        raise ValueError(f"`{name}` must be an array with one entry a row. Received: {name}={data!r}")
    if hasattr(data, "iloc"):
        return _pandas_rows(data, name)
    if hasattr(data, "tocoo"):  # scipy
        matrix = data.tocoo()
        indices = np.stack([matrix.row, matrix.col], axis=1).astype("int64")
        return tf.sparse.reorder(tf.SparseTensor(indices, matrix.data, matrix.shape))
    stored = stored_rows(data)
    if stored is not None:
        return stored
    if hasattr(data, "__array__") and not isinstance(data, (np.ndarray, tf.Tensor)):  # torch, JAX, a variable
        data = np.asarray(data)
    if isinstance(data, np.ndarray) and data.dtype.kind in "OmMV":
        return _objects(data, name)
    return data


def _holds_scalars(data: Any) -> bool:
    while isinstance(data, list) and data:
        data = data[0]
    return isinstance(data, (bool, int, float, str, bytes, np.generic))


def _objects(array: np.ndarray, name: str) -> tf.Tensor:
    """An array of Python strings as a tensor. Any other objects are refused."""
    if array.dtype == object and all(isinstance(value, (str, bytes)) for value in array.flat):
        return tf.convert_to_tensor(array, tf.string)
    first = next((value for value in array.flat if not isinstance(value, (str, bytes))), None)
    if array.dtype != object:
        advice = "Convert them to numbers."
    elif isinstance(first, (list, tuple, np.ndarray)):
        advice = f"For rows of different lengths, pass `tf.ragged.constant({name})`, or pad them."
    elif _is_missing(first):
        advice = "Fill in missing values."
    else:
        advice = f"Convert it, as in `{name}.astype('float32')`."
    holds = f" that holds {type(first).__name__}" if array.dtype == object else ""
    raise ValueError(
        f"`{name}` must hold numbers, bools or strings. {advice} Received: an array of dtype {array.dtype}{holds}"
    )


# ------------------------------------------------------------------------------------------------------------ pandas


def _pandas_rows(data: Any, name: str) -> Any:
    """The rows of a `DataFrame` or `Series`; those of a `Series` have one column."""
    dtypes = [data.dtype] if data.ndim == 1 else list(data.dtypes)
    if len(set(dtypes)) > 1 and all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in dtypes):
        return frame_rows(data)  # which need not be converted as a whole
    values = data.to_numpy()
    if values.dtype.kind not in _NUMBERS or not all(isinstance(dtype, np.dtype) for dtype in dtypes):
        columns = [data] if values.ndim == 1 else [data.iloc[:, index] for index in range(data.shape[1])]
        values = _stacked([_column(column, name) for column in columns], columns, name)
    return values if len(values.shape) > 1 else values[:, np.newaxis]


def _column(column: Any, name: str) -> np.ndarray:
    """The values of a column: of a nullable dtype in that of NumPy, of categories as those of the categories."""
    values = column.to_numpy()
    is_plain = isinstance(column.dtype, np.dtype) or hasattr(column, "sparse")
    if is_plain and values.dtype != object:
        return values
    if column.isna().any():
        advice = "Fill them in, as in `fillna(0)`."
        _refuse([column], name, "no missing values in columns that are not float", advice, "missing values in ")
    numeric = getattr(column.dtype, "numpy_dtype", None)  # of a nullable dtype
    if numeric is None and hasattr(column, "cat"):
        numeric = column.cat.categories.to_numpy().dtype
    return values.astype(numeric) if numeric is not None and np.dtype(numeric).kind in _NUMBERS else values


def _stacked(values: list[np.ndarray], columns: list[Any], name: str) -> Any:
    """Columns side by side, if they are of one kind."""
    kinds = [_kind(column) for column in values]
    wrong = [column for column, kind in zip(columns, kinds) if kind is None]
    if wrong:
        _refuse(wrong, name, "columns of numbers, bools or strings", "Convert them to numbers.")
    if len(set(kinds)) > 1:
        others = [columns[kinds.index(kind)] for kind in dict.fromkeys(kinds)]
        advice = f"Convert them, as in `{name}.astype('float32')`, or pass a dict of columns."
        _refuse(others, name, "columns of one kind: numbers, bools or strings", advice)
    stacked = np.stack(values, axis=1)
    return tf.convert_to_tensor(stacked.astype(object), tf.string) if kinds[0] == "strings" else stacked


def _kind(values: np.ndarray) -> str | None:
    if values.dtype.kind == "b":
        return "bools"
    if values.dtype.kind in "iufc":
        return "numbers"
    strings = values.dtype.kind in "US" or (
        values.dtype == object and all(isinstance(value, (str, bytes)) for value in values)
    )
    return "strings" if strings else None


def _refuse(columns: Iterable[Any], name: str, must_have: str, advice: str, what: str = "") -> None:
    received = ", ".join(
        f"{what}{'a Series' if column.name is None else f'column {column.name!r}'} of dtype {column.dtype}"
        for column in columns
    )
    raise ValueError(f"`{name}` must have {must_have}. {advice} Received: {received}")


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
