"""Arrays in memory: each batch is gathered inside the graph, in the order of the epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from customfit import compat
from customfit.arguments import as_count
from customfit.compat import tf
from customfit.data.conversion import as_rows
from customfit.data.placement import nbytes, place_rows
from customfit.data.rows import are_rows, count_rows, map_leaves, pack
from customfit.data.shares import RowShare
from customfit.data.source import BatchSpec, Block, warn_of_short_epoch
from customfit.data.weights import match_outputs
from customfit.workers import Workers

DEFAULT_BATCH_SIZE = 32
Arrays = Any  # an array or tensor of shape `(rows, ...)`, or nested tuples, lists and dicts of them


class ArraySource:
    """Rows of arrays, in batches, in a new order each epoch if asked.

    The order is the one that Keras 2's `fit(shuffle=True)` gives under the same `keras.utils.set_random_seed`.
    Keras 3's `fit` repeats the first epoch's order in every epoch.

    Args:
        x: Inputs: an array or tensor of shape `(rows, ...)`, or a nested structure of them.
        y: Targets, likewise, or `None`.
        sample_weight: Weights, likewise, or `None`.
        batch_size: Rows in a batch; the last batch of a pass over the data may have fewer. Defaults to what makes
            `steps_per_epoch` batches of the rows, or to 32.
        shuffle: Whether each pass has a new order. With `"batch"`, rows stay within their batch.
        steps_per_epoch: Steps in an epoch. With fewer than the data has, the next epoch continues where this one ends.
        epochs: On Keras 2, how many passes over the data there are for all epochs together, as in its `fit`. Defaults
            to as many as are asked for.
        continues: Whether a validation pass continues where the last one stopped, as in Keras 3.0 to 3.6.
        resident_share: The share of the device's free memory that the arrays may take. If they need more, they are
            streamed. Defaults to 0.5.
        workers: The processes that train together: each reads its rows of every batch alone. Defaults to `None`: this
            process reads all of them.

    Raises:
        ValueError: If an argument is wrong, or the arrays have no rows or not the same number of them.

    Example:

    >>> model.custom_fit(ArraySource(x, y, batch_size=64, shuffle=True, resident_share=0.9), epochs=10)
    """

    def __init__(
        self,
        x: Arrays,
        y: Arrays = None,
        sample_weight: Arrays = None,
        *,
        batch_size: int | None = None,
        shuffle: bool | str = False,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        continues: bool = False,
        resident_share: float = 0.5,
        workers: Workers | None = None,
    ):
        x, y, sample_weight = as_rows(x), as_rows(y, "y"), as_rows(sample_weight, "sample_weight")
        if not are_rows(x, y, sample_weight):
            raise ValueError(f"`x`, `y` and `sample_weight` must be arrays or tensors. Received: x of type {type(x)}")
        self.rows = count_rows({"x": x, "y": y, "sample_weight": sample_weight})
        if steps_per_epoch is not None:
            steps_per_epoch = as_count("steps_per_epoch", steps_per_epoch)
        if batch_size is None:
            batch_size = math.ceil(self.rows / steps_per_epoch) if steps_per_epoch else DEFAULT_BATCH_SIZE
        self.batch_size = as_count("batch_size", batch_size)
        self._pass_steps = math.ceil(self.rows / self.batch_size)
        self._epoch_steps: int = steps_per_epoch or self._pass_steps
        self.steps: int | None = self._epoch_steps
        batch = pack(x, y, match_outputs(y, sample_weight, None))
        several = workers is not None and workers.count > 1
        self._share = RowShare(self.rows, self.batch_size, workers) if several and workers is not None else None
        share = self._share
        ours = (self.batch_size, None) if share is None else (share.batch_size, share.is_ragged)
        self._data = place_rows(batch, ours[0], resident_share, ragged=ours[1])
        self.nbytes = nbytes(batch)
        self._shuffle = shuffle
        self._orders: Iterator[tf.Tensor] | None = None  # made by the first pass: the seed may come from a checkpoint
        self._drawn = 0  # orders
        self._begin = 0  # the step of the epoch with which the next blocks begin
        # An epoch that is longer than what is left of a pass differs by generation, as in `fit`: Keras 2 reads
        # `epochs` passes as one stream, Keras 3 ends the epoch.
        self._streams = compat.epochs_share_iterator()
        self._passes = math.inf if epochs is None or not self._streams else epochs
        self.continues = continues
        self.restart()

    def restart(self) -> None:
        """Starts over: the next epoch begins with the first batch of a pass."""
        self._next = self._pass_steps  # the next step within the current pass
        self._passes_left = self._passes

    def has_more(self) -> bool:
        """Whether there is data for a further epoch."""
        return self._passes_left > 0 or self._next < self._pass_steps

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """Yields the next epoch's steps, in blocks of at most `size(step)` that stay within a pass over the data."""
        begin, self._begin = self._begin, 0
        while begin < self._epoch_steps:
            if self._next == self._pass_steps:
                if self._passes_left == 0 or (begin > 0 and not self._streams):
                    warn_of_short_epoch(begin, self._epoch_steps)
                    break
                self._start(self._draw_order())
                self._next = 0
            planned = size(begin)
            if planned == 0:
                break
            count = min(planned, self._epoch_steps - begin, self._pass_steps - self._next)
            feed, first, count = self._data.feed(self._next, count)
            self._next += count
            fetch = self._data.fetch if self._share is None else self._share.split(self._data.fetch)
            yield Block(begin, planned, count, fetch, feed, first)
            begin += count

    # ------------------------------------------------------------------------------------------------- to resume

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""
        spec = self._data.element_spec
        return spec if self._share is None else self._share.split(self._data.fetch).spec_of(spec)

    def describe(self) -> dict[str, object]:
        """Returns what it must have in common with the source of a checkpoint."""
        return {
            "rows": self.rows,
            "batch_size": self.batch_size,
            "steps_per_epoch": self._epoch_steps,
            "shuffle": self._shuffle,
            "arrays": str(self._spec_of_all_workers()),
            "checksum of rows": self._data.checksum(),
        }

    def position(self) -> dict[str, int]:
        """Returns how many orders were drawn, and the next step within the current pass."""
        return {"orders": self._drawn, "next": self._next}

    def save_iterator(self, path: str) -> bool:
        """Writes nothing: `position` says it all."""
        del path
        return False

    def seek(self, position: Mapping[str, int], step: int, iterator_path: str | None) -> None:
        """Draws the orders again up to the current one, and continues the pass where it was."""
        del iterator_path
        for _ in range(position["orders"]):
            order = self._draw_order()
        self._next, self._begin = position["next"], step
        if self._next < self._pass_steps:
            self._start(order)

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`, by drawing their orders."""
        if self.continues:
            for _ in range(passes):
                for _ in self.blocks(lambda _: self._epoch_steps):
                    pass  # what a pass has read is known without reading it
            return
        for _ in range(passes * (math.ceil(self._epoch_steps / self._pass_steps) if self._streams else 1)):
            self._draw_order()
        self.restart()

    def _spec_of_all_workers(self) -> BatchSpec:
        """The spec of a batch before it is split between workers: that of a process that trains alone."""
        size = None if self.rows % self.batch_size else self.batch_size

        def of_leaf(spec: tf.TypeSpec) -> tf.TypeSpec:
            return tf.TensorSpec([size, *spec.shape[1:]], spec.dtype) if isinstance(spec, tf.TensorSpec) else spec

        return map_leaves(of_leaf, self._data.element_spec)

    def _start(self, order: tf.Tensor) -> None:
        """Begins a pass over the rows in this order."""
        self._data.start(order if self._share is None else self._share.of_order(order))

    def _draw_order(self) -> tf.Tensor:
        if self._orders is None:
            self._orders = _orders(self.rows, self.batch_size, self._shuffle)
        self._drawn += 1
        self._passes_left -= 1
        return next(self._orders)


def _orders(rows: int, batch_size: int, shuffle: bool | str) -> Iterator[tf.Tensor]:
    """Returns an iterator of the order of the rows in each pass.

    Under a global seed, an op inside a `tf.data` map draws the same numbers whatever was drawn eagerly before. So the
    orders are those that `fit` of Keras 2 draws in its own map. With `shuffle="batch"` they are those of Keras 3 in its
    first epoch, because Keras 2 shuffles inputs and targets independently there.
    """
    dtype = tf.int32 if rows <= tf.int32.max else tf.int64  # the permutation is the same, in half the memory
    if shuffle == "batch":
        batches = tf.data.Dataset.range(rows).batch(batch_size).repeat().map(tf.random.shuffle)
        return iter(batches.unbatch().batch(rows))
    if shuffle:
        return iter(tf.data.Dataset.range(1).repeat().map(lambda _: tf.random.shuffle(tf.range(rows, dtype=dtype))))
    return itertools.repeat(tf.range(rows, dtype=dtype))
