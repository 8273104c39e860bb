"""Where the rows of arrays are while they are trained on: all on the device, or streamed to it chunk by chunk."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import math
import zlib
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.rows import gather, is_on_host, map_leaves, row_spec, take, to_tensor
from customfit.data.source import Batch, BatchSpec, Feed, Fetch
from customfit.data.stored import StoredRows

FEW_BYTES = 2**25  # of which a copy costs nothing worth saving
LEAST_BYTES, MOST_BYTES = 2**21, 2**23  # of a chunk
CHECKED_ROWS = 10_000
_logger = logging.getLogger("customfit")


@dataclasses.dataclass(frozen=True)
class Gather(Fetch):
    """The fetch of resident rows. Equal ones share a trace."""

    batch_size: int
    ragged: bool  # whether the last batch is smaller: then the batch size is not in the static shape, as in `fit`

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the rows of one batch."""
        arrays, order = feed
        begin = tf.cast(index, tf.int64) * self.batch_size
        rows = order[begin : begin + self.batch_size] if self.ragged else tf.slice(order, [begin], [self.batch_size])
        return map_leaves(lambda array: gather(array, rows), arrays)

    def full_batches(self, feed: Feed) -> tuple[Gather, int] | None:
        """Returns the fetch of dense rows in full batches, and how many there are: see `Fetch.full_batches`."""
        arrays, order = feed
        return _full_batches(self, arrays, order.shape[0])

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of a batch."""
        return map_leaves(row_spec, feed[0])

    def stack(self, feed: Feed, index: tf.Tensor, count: tf.Tensor, head: None) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns the rows of `count` batches, gathered at once: see `Fetch.stack`."""
        del head
        arrays, order = feed
        begins = (tf.cast(index, tf.int64) + tf.range(tf.cast(count, tf.int64))) * self.batch_size
        sizes = tf.minimum(tf.size(order, tf.int64) - begins, self.batch_size)
        rows = order[begins[0] : begins[-1] + self.batch_size]
        leaves = [gather(array, rows) for array in tf.nest.flatten(arrays) if array is not None]
        return leaves, tf.tile(sizes[:, tf.newaxis], [1, len(leaves)])


class ResidentRows:
    """Rows that live on the device once, for all epochs.

    Args:
        arrays: A batch structure of all rows.
        batch_size: Rows in a batch.
        ragged: Whether the last batch of a pass may be smaller. Defaults to what it is in a pass over all rows.
    """

    def __init__(self, arrays: Batch, batch_size: int, ragged: bool | None = None):
        self.fetch = Gather(batch_size, _is_ragged(arrays, batch_size) if ragged is None else ragged)
        self._arrays = map_leaves(to_tensor, arrays)
        self._order: Any = None

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""
        return map_leaves(lambda array: batch_spec(row_spec(array), self.fetch), self._arrays)

    def checksum(self) -> int:
        """Returns a checksum of the rows."""
        return checksum(self._arrays)

    def start(self, order: tf.Tensor) -> None:
        """Begins a pass over the rows in this order."""
        self._order = order

    def feed(self, first: int, count: int) -> tuple[Any, int, int]:
        """Returns what to gather batches from: a feed, the index of the batch `first` in it, and how many it holds."""
        return (self._arrays, self._order), first, count


@dataclasses.dataclass(frozen=True)
class Slice(Fetch):
    """The fetch of a chunk, whose rows are in order. Equal ones share a trace: all chunks have the same shape."""

    batch_size: int
    ragged: bool

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the rows of one batch."""
        arrays, end = feed
        begin = index * self.batch_size
        rows = slice(begin, tf.minimum(begin + self.batch_size, end))

        def some(array: Any) -> Any:
            if self.ragged or not isinstance(array, tf.Tensor):
                return array[rows]
            inner = [-1 if size is None else size for size in array.shape[1:]]
            return tf.slice(array, [begin] + [0] * len(inner), [self.batch_size, *inner])

        return map_leaves(some, arrays)

    def full_batches(self, feed: Feed) -> tuple[Slice, int] | None:
        """Returns the fetch of dense rows in full batches, and how many there are: see `Fetch.full_batches`."""
        arrays, end = feed
        return _full_batches(self, arrays, int(end))

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of a batch."""
        return map_leaves(row_spec, feed[0])

    def stack(self, feed: Feed, index: tf.Tensor, count: tf.Tensor, head: None) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns the rows of `count` batches: see `Fetch.stack`."""
        del head
        arrays, end = feed
        begins = (index + tf.range(count)) * self.batch_size
        sizes = tf.minimum(end - begins, self.batch_size)
        rows = slice(begins[0], begins[0] + tf.reduce_sum(sizes))
        leaves = [array[rows] for array in tf.nest.flatten(arrays) if array is not None]
        return leaves, tf.tile(sizes[:, tf.newaxis], [1, len(leaves)])


class StreamedRows:
    """Rows that stay on the host. A thread gathers the next chunk of batches while the device works on the last.

    Args:
        arrays: A batch structure of all rows. Tensors among them are on the device already.
        batch_size: Rows in a batch.
        chunk_bytes: About how much to bring to the device at a time. Two chunks are there at once, while a third one is
            gathered. Defaults to a 128th of all rows, but to 2 MB at least and 8 MB at most; to twice that where
            rows are in a file.
        ragged: As for `ResidentRows`.
    """

    def __init__(self, arrays: Batch, batch_size: int, chunk_bytes: int | None = None, ragged: bool | None = None):
        self.fetch = Slice(batch_size, _is_ragged(arrays, batch_size) if ragged is None else ragged)
        self._arrays = map_leaves(lambda leaf: leaf if is_on_host(leaf) else to_tensor(leaf), arrays)
        if chunk_bytes is None:
            # Of a file, each chunk of shuffled rows may read all: there larger chunks are worth their memory.
            leaves = [leaf for leaf in tf.nest.flatten(arrays) if isinstance(leaf, StoredRows)]
            larger = 2 if any(leaf.reads_around for leaf in leaves) else 1
            chunk_bytes = larger * min(MOST_BYTES, max(LEAST_BYTES, nbytes(arrays) // 128))
        row_bytes = max(1, math.ceil(nbytes(arrays) / _rows(arrays)))
        fitting = max(1, chunk_bytes // (row_bytes * batch_size))
        self._steps = min(fitting, math.ceil(_rows(arrays) / batch_size))  # in a chunk
        self._rows = self._steps * batch_size
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "customfit-rows")
        self._order = np.zeros(0, "int64")
        self._chunk, self._next = -1, -1
        self._feed: Any = None
        self._coming: Any = None

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""
        first = map_leaves(_some(np.zeros(1, "int64")), self._arrays)
        return map_leaves(lambda array: batch_spec(row_spec(array), self.fetch), first)

    def checksum(self) -> int:
        """Returns a checksum of the rows."""
        return checksum(self._arrays)

    def start(self, order: tf.Tensor) -> None:
        """Begins a pass over the rows in this order."""
        self._order = order.numpy()
        self._chunk, self._feed, self._coming = -1, None, None

    def feed(self, first: int, count: int) -> tuple[Any, int, int]:
        """Returns what to gather batches from: a feed, the index of the batch `first` in it, and how many it holds."""
        chunk = first // self._steps
        if chunk != self._chunk:
            ahead = self._coming is not None and chunk == self._chunk + 1
            self._feed = self._coming.result() if ahead else self._gather(chunk, self._order)
            self._chunk = chunk
            more = (chunk + 1) * self._rows < len(self._order)
            self._coming = self._thread.submit(self._gather, chunk + 1, self._order) if more else None
        return self._feed, first - chunk * self._steps, min(count, (chunk + 1) * self._steps - first)

    def _gather(self, chunk: int, order: np.ndarray) -> tuple[Any, tf.Tensor]:
        rows = order[chunk * self._rows : (chunk + 1) * self._rows]
        # Of one shape always, so that the last chunk is not traced again: then Keras 2's dropout would start over, too.
        # One of several workers may have no row of the last batch.
        padded = np.pad(rows, (0, self._rows - len(rows)), mode="edge" if len(rows) else "constant")
        return map_leaves(_some(padded), self._arrays), tf.constant(len(rows))


def _some(rows: np.ndarray) -> Callable[[Any], Any]:
    return lambda leaf: to_tensor(take(leaf, rows)) if is_on_host(leaf) else gather(leaf, rows)


def place_rows(
    arrays: Batch, batch_size: int, resident_share: float, ragged: bool | None = None
) -> ResidentRows | StreamedRows:
    """Keeps rows on an accelerator if they fit into a share of its free memory, and streams them else.

    A CPU works in the memory where the rows are. There they are streamed, which costs no time and no second copy of
    them, unless they are few.

    Args:
        arrays: A batch structure of arrays of all rows.
        batch_size: Rows in a batch.
        resident_share: The share of the device's free memory that the arrays may take.
        ragged: Whether the last batch of a pass may be smaller. Defaults to what it is in a pass over all rows.
    """
    if not 0 <= resident_share <= 1:
        raise ValueError(f"`resident_share` must be between 0 and 1. Received: resident_share={resident_share!r}")
    size, has_accelerator = nbytes(arrays), compat.has_accelerator()
    free = compat.free_memory()
    most = resident_share * free if size else math.inf  # tensors are on the device already
    if size <= (most if has_accelerator else min(FEW_BYTES, most)):
        return ResidentRows(arrays, batch_size, ragged)
    if has_accelerator:
        _logger.warning(
            "The arrays take %.1f GB, more than %.0f%% of the device's free %.1f GB: they are streamed to it. "
            "`resident_share` sets that share.",
            size / 1e9,
            100 * resident_share,
            free / 1e9,
        )
    return StreamedRows(arrays, batch_size, ragged=ragged)


def nbytes(arrays: Batch) -> int:
    """Returns the bytes that arrays on the host will take on the device."""
    floats = np.dtype(keras.backend.floatx()).itemsize
    return sum(
        leaf.size * (floats if leaf.dtype.kind == "f" else leaf.dtype.itemsize)
        for leaf in tf.nest.flatten(arrays)
        if is_on_host(leaf)
    )


def batch_spec(spec: BatchSpec, fetch: Gather | Slice) -> BatchSpec:
    """Returns the spec of a batch, given that of any number of rows. It says the size if all batches have the same."""
    if fetch.ragged or not isinstance(spec, tf.TensorSpec):
        return spec
    return tf.TensorSpec([fetch.batch_size, *spec.shape[1:]], spec.dtype)


def checksum(arrays: Batch) -> int:
    """Returns a checksum of dense arrays: of about `CHECKED_ROWS` evenly spaced rows, the first and last included.

    Of stored rows, which are slow to read one by one, a hundredth of that is read.
    """
    total = 0
    for leaf in tf.nest.flatten(arrays):
        if not isinstance(leaf, (np.ndarray, tf.Tensor, StoredRows)):
            continue
        most = CHECKED_ROWS // 100 if isinstance(leaf, StoredRows) else CHECKED_ROWS
        for rows in (slice(None, None, max(1, leaf.shape[0] // most)), slice(-1, None)):
            some = leaf.take(np.arange(len(leaf))[rows]) if isinstance(leaf, StoredRows) else leaf[rows]
            values = np.ascontiguousarray(to_tensor(some) if isinstance(some, np.ndarray) else some)
            strings = values.dtype == object  # of which the array holds the addresses
            total = zlib.crc32(b"\0".join(values.ravel()) if strings else values.tobytes(), total)
    return total


def _full_batches(fetch: Any, arrays: Batch, rows: int) -> tuple[Any, int] | None:
    if not all(isinstance(leaf, (tf.Tensor, type(None))) for leaf in tf.nest.flatten(arrays)):
        return None
    return dataclasses.replace(fetch, ragged=False), rows // fetch.batch_size


def _is_ragged(arrays: Batch, batch_size: int) -> bool:
    return _rows(arrays) % batch_size != 0


def _rows(arrays: Batch) -> int:
    return next(leaf for leaf in tf.nest.flatten(arrays) if leaf is not None).shape[0]
