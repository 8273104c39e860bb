"""Iterators of a dataset: how many were made, and how batches come out of one."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Callable

from customfit.compat import tf
from customfit.data.source import Batch, BatchSpec, Fetch, get_batch, inputs_left_out_as_none

MOST_AHEAD = 200


class Iterators:
    """Makes the iterators of a dataset, and counts them.

    Args:
        new: Makes one.

    Attributes:
        made: How many were made. Each has advanced the seed of a `shuffle(seed=)`: a resumed run makes as many.
    """

    def __init__(self, new: Callable[[], tf.data.Iterator]):
        self._new = new
        self._ahead: list[tf.data.Iterator] = []
        self.made = 0

    def make(self) -> tf.data.Iterator:
        """Makes the next iterator."""
        self.made += 1
        return self._ahead.pop(0) if self._ahead else self._new()

    def make_ahead(self, count: int) -> None:
        """Makes the next iterators already, as far as memory allows: each takes some."""
        if count > MOST_AHEAD:
            warnings.warn(
                f"The order of a dataset that shuffles itself is certain for the next {MOST_AHEAD} passes only. "
                f"Received: {count} passes to go, from within one. From a checkpoint between two, all are certain.",
                stacklevel=2,
            )
        self._ahead = [self._new() for _ in range(min(count, MOST_AHEAD))]


@dataclasses.dataclass(frozen=True)
class NextBatch(Fetch):
    """The fetch of an iterator."""

    def __call__(self, feed: tf.data.Iterator, index: int | tf.Tensor) -> Batch:
        """Returns the next batch."""
        del index  # an iterator knows where it is
        return inputs_left_out_as_none(next(feed))

    def get_next_as_optional(self, feed: tf.data.Iterator) -> tf.experimental.Optional:
        """Returns the next batch, if there is one."""
        return feed.get_next_as_optional()

    def element_spec(self, feed: tf.data.Iterator) -> BatchSpec:
        """Returns the spec of a batch."""
        return inputs_left_out_as_none(feed.element_spec)

    def stack(
        self, feed: tf.data.Iterator, index: tf.Tensor, count: tf.Tensor, head: tf.experimental.Optional | None
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns up to `count` batches, one behind the other: see `Fetch.stack`."""
        del index
        head = self.get_next_as_optional(feed) if head is None else head
        nothing = tf.experimental.Optional.empty(head.element_spec)
        specs = [spec for spec in tf.nest.flatten(inputs_left_out_as_none(head.element_spec)) if spec is not None]
        arrays = [tf.TensorArray(spec.dtype, 0, True, infer_shape=False, element_shape=spec.shape) for spec in specs]

        def read(done, batch, arrays, sizes):
            leaves = [leaf for leaf in tf.nest.flatten(get_batch(batch)) if leaf is not None]
            arrays = [array.write(done, leaf) for array, leaf in zip(arrays, leaves)]
            sizes = sizes.write(done, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))
            done += 1
            return done, tf.cond(done < count, lambda: self.get_next_as_optional(feed), lambda: nothing), arrays, sizes

        _, _, arrays, sizes = tf.while_loop(
            lambda done, batch, *_: batch.has_value(),
            read,
            (tf.constant(0), head, arrays, tf.TensorArray(tf.int32, 0, True)),
            parallel_iterations=1,
        )
        return [array.concat() for array in arrays], sizes.stack()
