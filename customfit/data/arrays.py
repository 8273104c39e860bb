"""Arrays in memory: each batch is gathered inside the graph, in the order of the epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Callable

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.placement import nbytes, place_rows
from customfit.data.rows import count_rows
from customfit.data.source import Block, warn_of_short_epoch

DEFAULT_BATCH_SIZE = 32


class ArraySource:
    """Rows of arrays, in batches, in a new order each epoch if asked.

    The order is the one that Keras 2's `fit(shuffle=True)` gives under the same `keras.utils.set_random_seed`.
    Keras 3's `fit` repeats the first epoch's order in every epoch.

    Args:
        x: Inputs: an array or tensor of shape `(rows, ...)`, or a nested structure of them.
        y: Targets, likewise, or `None`.
        sample_weight: Weights, likewise, or `None`.
        batch_size: Rows in a batch; the last batch of a pass over the data may have fewer. Defaults to what makes
            `steps_per_epoch` of them, else to 32.
        shuffle: Whether the order is drawn anew for each pass. With `"batch"`, rows stay within their batch.
        steps_per_epoch: Steps in an epoch. With fewer than the data has, the next epoch goes on where this one ends.
        epochs: How many epochs will be asked for.
        resident_share: Of the device's free memory, how much the arrays may take to live there. If they need more,
            they are streamed. Defaults to 0.5.
    """

    def __init__(
        self,
        x,
        y=None,
        sample_weight=None,
        *,
        batch_size=None,
        shuffle=False,
        steps_per_epoch=None,
        epochs=1,
        resident_share=0.5,
    ):
        self.rows = count_rows(x=x, y=y, sample_weight=sample_weight)
        if batch_size is None:
            batch_size = math.ceil(self.rows / steps_per_epoch) if steps_per_epoch else DEFAULT_BATCH_SIZE
        self.batch_size = int(batch_size)
        self._pass_steps = math.ceil(self.rows / self.batch_size)
        self.steps = steps_per_epoch or self._pass_steps
        if sample_weight is not None and tf.nest.is_nested(y) and not tf.nest.is_nested(sample_weight):
            sample_weight = tf.nest.map_structure(lambda _: sample_weight, y)  # one weight for every output
        batch = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        self._data = place_rows(batch, self.batch_size, resident_share)
        self.nbytes = nbytes(batch)
        self._shuffle = shuffle
        self._orders: Iterator[tf.Tensor] | None = None  # made by the first pass: the seed may come from a checkpoint
        self._drawn = 0  # orders
        self._begin = 0  # the step of the epoch with which the next blocks begin
        # What becomes of an epoch that is longer than what is left of a pass over the data differs, as in `fit`:
        # Keras 2 goes through `epochs` passes as one stream, Keras 3 ends the epoch.
        self._streams = compat.streams_epochs()
        self._passes = epochs if self._streams else math.inf
        self.restart()

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of a pass, whatever was left of the last one."""
        self._next = self._pass_steps  # the next step within the current pass
        self._passes_left = self._passes

    def has_more(self) -> bool:
        """Whether there is data for a further epoch."""
        return self._passes_left > 0 or self._next < self._pass_steps

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size(step)` that cross no end of a pass over the data."""
        begin, self._begin = self._begin, 0
        while begin < self.steps:
            if self._next == self._pass_steps:
                if self._passes_left == 0 or (begin > 0 and not self._streams):
                    warn_of_short_epoch(begin, self.steps)
                    break
                self._data.start(self._draw_order())
                self._next = 0
            planned = size(begin)
            if planned == 0:
                break
            count = min(planned, self.steps - begin, self._pass_steps - self._next)
            feed, first, count = self._data.feed(self._next, count)
            self._next += count
            yield Block(begin, planned, count, self._data.fetch, feed, first)
            begin += count

    # ------------------------------------------------------------------------------------------------- to resume

    @property
    def element_spec(self):
        """The spec of a batch."""
        return self._data.element_spec

    def describe(self) -> dict:
        """What it must have in common with the source of a checkpoint."""
        return {
            "rows": self.rows,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.steps,
            "shuffle": self._shuffle,
            "arrays": str(self.element_spec),
            "checksum of rows": self._data.checksum(),
        }

    def position(self) -> dict:
        """How many orders were drawn, and the next step within the current pass."""
        return {"orders": self._drawn, "next": self._next}

    def save_iterator(self, path: str) -> bool:
        """There is nothing to write."""
        del path
        return False

    def seek(self, position: dict, step: int, iterator_path: str | None) -> None:
        """Draws the orders again up to the current one, and takes up the pass where it was."""
        del iterator_path
        for _ in range(position["orders"]):
            order = self._draw_order()
        self._next, self._begin = position["next"], step
        if self._next < self._pass_steps:
            self._data.start(order)

    def skip_passes(self, passes: int) -> None:
        """Draws the orders of so many passes, each begun by `restart`."""
        for _ in range(passes * (math.ceil(self.steps / self._pass_steps) if self._streams else 1)):
            self._draw_order()
        self.restart()

    def _draw_order(self) -> tf.Tensor:
        if self._orders is None:
            self._orders = _orders(self.rows, self.batch_size, self._shuffle)
        self._drawn += 1
        self._passes_left -= 1
        return next(self._orders)


def _orders(rows: int, batch_size: int, shuffle: bool | str) -> Iterator[tf.Tensor]:
    """The order of the rows in each pass.

    Under a global seed an op inside a tf.data map draws the same numbers whatever was drawn eagerly before: so the
    orders are those that `fit` of Keras 2 draws in a map of its own. With `shuffle="batch"` they are those of Keras 3
    in its first epoch, since Keras 2 shuffles inputs and targets apart from each other there.
    """
    if shuffle == "batch":
        batches = tf.data.Dataset.range(rows).batch(batch_size).repeat().map(tf.random.shuffle)
        return iter(batches.unbatch().batch(rows))
    if shuffle:
        return iter(tf.data.Dataset.range(1).repeat().map(lambda _: tf.random.shuffle(tf.range(rows, dtype=tf.int64))))
    return iter(tf.data.Dataset.from_tensors(tf.range(rows, dtype=tf.int64)).repeat())
