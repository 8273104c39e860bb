"""Arrays that are read by slices, never as a whole: those of h5py and zarr, and data frames of several dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

import numpy as np

GAP_BYTES = 2**16  # rows this far apart are read with what lies between them: another call would cost as much
READ_BYTES = 2**22  # at a time


class StoredRows:
    """Rows of an array that is read by slices.

    Args:
        read: Returns the rows of a slice, as something that NumPy takes as an array.
        shape: The shape, rows first.
        dtype: The dtype in which they are read.
        take: Returns rows by their numbers, where that is faster than to read slices around them.
    """

    def __init__(
        self,
        read: Callable[[slice], Any],
        shape: tuple[int, ...],
        dtype: np.dtype,
        take: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.shape = shape
        self.dtype = dtype
        self._read = read
        self._take = take

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def reads_around(self) -> bool:
        """Whether rows between those that are wanted may be read as well."""
        return self._take is None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> StoredRows:
        """Returns these rows, unread."""
        begin, end, _ = rows.indices(len(self))
        take = self._take
        return StoredRows(
            lambda part: self._read(slice(begin + part.start, begin + part.stop)),
            (max(0, end - begin), *self.shape[1:]),
            self.dtype,
            None if take is None else lambda numbers: take(begin + numbers),
        )

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asarray(self._read(slice(0, len(self))), dtype or self.dtype)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads rows in any order.

        Args:
            rows: Their numbers.
        """
        if self._take is not None:
            return self._take(rows)
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        places = np.argsort(rows, kind="stable")
        wanted = rows[places]
        for first, last in _runs(wanted, max(1, found[:1].nbytes)):
            part = np.asarray(self._read(slice(int(wanted[first]), int(wanted[last - 1]) + 1)))
            found[places[first:last]] = part[wanted[first:last] - wanted[first]]
        return found


def _runs(wanted: np.ndarray, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields where ascending row numbers begin and end that are read by one slice."""
    breaks = np.flatnonzero(np.diff(wanted) * row_bytes > GAP_BYTES) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(wanted)]):
        while begin < end:
            last = np.searchsorted(wanted[:end], wanted[begin] + max(1, READ_BYTES // row_bytes))
            yield begin, int(last)
            begin = int(last)


def stored_rows(data: object) -> StoredRows | None:
    """Returns an array that is read by slices as `StoredRows`, or `None` for anything else.

    Args:
        data: Any object. What gives its memory away, as arrays of NumPy, torch and JAX do, is not stored.
    """
    if isinstance(data, StoredRows):
        return data
    if any(hasattr(data, name) for name in ("__dlpack__", "__array_interface__", "assign", "iloc")):
        return None
    shape, dtype = getattr(data, "shape", None), getattr(data, "dtype", None)
    if not (isinstance(shape, tuple) and shape and hasattr(data, "__getitem__")):
        return None
    return StoredRows(data.__getitem__, shape, dtype) if isinstance(dtype, np.dtype) and dtype.kind in "biufc" else None


def frame_rows(frame: Any) -> StoredRows:
    """Returns a pandas data frame whose columns have several dtypes of NumPy as rows of their common dtype.

    Args:
        frame: The frame.
    """
    read = lambda rows: frame.iloc[rows].to_numpy()  # noqa: E731 (by slices and by numbers)
    return StoredRows(read, frame.shape, frame.iloc[:0].to_numpy().dtype, take=read)
