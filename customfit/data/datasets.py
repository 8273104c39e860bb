"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.data.source import Block, warn_of_short_epoch


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
        self._fresh = True  # whether nothing has been read from the iterator
        self._spent = False

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of the dataset, whatever was left of the last one."""
        self._iterator = None
        self._data.on_restart()

    def has_more(self) -> bool:
        """Whether there is data for a further epoch. A generator is asked for its next batch."""
        if self._spent:
            return False
        if self._iterator is None:
            return True
        ended = self._left == 0 and self._goes_on() if self._restarts else not self._iterator.has_next()
        if ended:
            warn_of_short_epoch(0, self.steps)
        return not ended

    def blocks(self, size: int) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size`."""
        self._data.on_epoch_begin()
        if self._iterator is None or self._left == 0 or not self._data.spans_epochs:
            self._start()
        begin = 0
        while self.steps is None or begin < self.steps:
            count = size if self.steps is None else min(size, self.steps - begin)
            may_end = self._left is None or self._left < count
            block = Block(begin, size, count, _next_batch, self._iterator, may_end=may_end)
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
            iterator = next(self._data.iterators)
            self._iterator = iterator if self._restarts else _LookingAhead(iterator)
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


class _LookingAhead:
    """An iterator that can be asked whether there is a next batch. It reads it then, so only generators get one."""

    def __init__(self, iterator: tf.data.Iterator):
        self._iterator = iterator
        self._next: Any = None  # a `tf.experimental.Optional`

    def has_next(self) -> bool:
        if self._next is None:
            self._next = self._iterator.get_next_as_optional()
        return bool(self._next.has_value())

    def get_next_as_optional(self) -> tf.experimental.Optional:
        self.has_next()
        batch, self._next = self._next, None
        return batch

    def __next__(self):
        batch = self.get_next_as_optional()
        if not batch.has_value():
            raise StopIteration
        return batch.get_value()


def check_dataset(dataset: tf.data.Dataset, steps: int | None) -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch."""
    cardinality = compat.cardinality(dataset)
    if cardinality == 0:
        raise ValueError("The dataset must have at least one batch. Received: a dataset of cardinality 0")
    if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(
            "`steps_per_epoch` must be given for a dataset that repeats without end. Received: steps_per_epoch=None"
        )


def _next_batch(iterator, index):
    del index  # an iterator knows where it is
    return next(iterator)
