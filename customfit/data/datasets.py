"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data.source import Block, Fetch, warn_of_short_epoch


class DatasetSource:
    """Batches of a dataset.

    Args:
        data: The dataset and how `fit` would walk through it.
        steps: Steps in an epoch, or `None` to find out in the first one.
        restarts: Whether the data can be read from its start again. A generator cannot.
    """

    def __init__(self, data: compat.KerasData, steps: int | None, restarts: bool):
        self.steps = steps or data.num_batches
        self._data = data
        self._restarts = restarts
        self._cardinality = compat.cardinality(data.dataset)
        self._left: int | None = 0  # batches left in the iterator; None: not known
        self._iterator: Any = None
        self._head: Any = None  # the next batch, where it has been read to see whether there is one
        self._fresh = True  # whether nothing has been read from the iterator
        self._spent = False

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of the dataset, whatever was left of the last one."""
        self._iterator = self._head = None
        self._data.on_restart()

    def has_more(self) -> bool:
        """Whether there is data for a further epoch. A generator is asked for its next batch."""
        if self._spent:
            return False
        if self._iterator is None:
            return True
        if self._restarts:
            ended = self._left == 0 and self._goes_on()
        else:
            if self._head is None:
                self._head = self._iterator.get_next_as_optional()
            ended = not self._head.has_value()
        if ended:
            warn_of_short_epoch(0, self.steps)
        return not ended

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size(step)` steps."""
        self._data.on_epoch_begin()
        if self._iterator is None or self._left == 0 or not self._data.spans_epochs:
            self._start()
        begin = 0
        while self.steps is None or begin < self.steps:
            planned = size(begin)
            if planned == 0:
                break
            count = planned if self.steps is None else min(planned, self.steps - begin)
            may_end = self._left is None or self._left < count
            block = Block(begin, planned, count, NextBatch(), self._iterator, may_end=may_end, head=self._head)
            self._head = None
            yield block
            begin += block.done
            if self._left is not None and self._cardinality != tf.data.INFINITE_CARDINALITY:
                self._left -= block.done
            if block.data_ended and begin == 0 and not self._fresh and self._restarts:
                self._start()  # the last epoch had the last batch
                continue
            self._fresh = False
            if block.data_ended:
                self._end(begin)
                break
        self._data.on_epoch_end()

    def _goes_on(self) -> bool:
        """Whether the data is one stream through all epochs, after which training stops."""
        return self._data.spans_epochs and compat.streams_epochs()

    def _start(self) -> None:
        self._fresh = True
        if self._iterator is None or self._restarts:
            self._iterator = next(self._data.iterators)
        if self._cardinality == tf.data.UNKNOWN_CARDINALITY:
            self._left = None
        else:
            self._left = 2**62 if self._cardinality == tf.data.INFINITE_CARDINALITY else self._cardinality

    def _end(self, seen: int) -> None:
        if seen == 0:
            raise ValueError("The data must give at least one batch an epoch. Received: none")
        if self._restarts:
            self._iterator = None
        if self.steps is None:
            self.steps = seen
            return
        self._spent = not self._restarts or compat.streams_epochs()
        warn_of_short_epoch(seen, self.steps)


@dataclasses.dataclass(frozen=True)
class NextBatch(Fetch):
    """The fetch of an iterator."""

    def __call__(self, feed: Any, index: Any) -> Any:
        """The next batch."""
        del index  # an iterator knows where it is
        return next(feed)

    def look(self, feed: Any) -> tf.experimental.Optional:
        """The next batch, if there is one."""
        return feed.get_next_as_optional()

    def element_spec(self, feed: Any) -> Any:
        """The spec of a batch."""
        return feed.element_spec

    def stack(self, feed: Any, index: Any, count: Any, head: tf.experimental.Optional | None) -> tuple[list, Any]:
        """Up to `count` batches, one behind the other."""
        del index
        head = self.look(feed) if head is None else head
        nothing = tf.experimental.Optional.empty(head.element_spec)
        specs = [spec for spec in tf.nest.flatten(head.element_spec) if spec is not None]
        arrays = [tf.TensorArray(spec.dtype, 0, True, infer_shape=False, element_shape=spec.shape) for spec in specs]

        def read(done, batch, arrays, sizes):
            leaves = [leaf for leaf in tf.nest.flatten(batch.get_value()) if leaf is not None]
            arrays = [array.write(done, leaf) for array, leaf in zip(arrays, leaves)]
            sizes = sizes.write(done, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))
            done += 1
            return done, tf.cond(done < count, lambda: self.look(feed), lambda: nothing), arrays, sizes

        _, _, arrays, sizes = tf.while_loop(
            lambda done, batch, *_: batch.has_value(),
            read,
            (tf.constant(0), head, arrays, tf.TensorArray(tf.int32, 0, True)),
            parallel_iterations=1,
        )
        return [array.concat() for array in arrays], sizes.stack()


def check_dataset(dataset: tf.data.Dataset, steps: int | None) -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch."""
    cardinality = compat.cardinality(dataset)
    if cardinality == 0:
        raise ValueError("The dataset must have at least one batch. Received: a dataset of cardinality 0")
    if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(
            "`steps_per_epoch` must be given for a dataset that repeats without end. Received: steps_per_epoch=None"
        )
