"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.data.source import Block


class DatasetSource:
    """Batches of a dataset.

    Args:
        data: The dataset and how `fit` would walk through it.
        steps: Steps in an epoch, or `None` to find out in the first one.
        restarts: Whether the data can be read from its start again. A generator cannot.
    """

    def __init__(self, data: compat.KerasData, steps: int | None, restarts: bool):
        self.steps = steps or data.num_batches
        self.spent = False
        self._data = data
        self._restarts = restarts
        self._endless = int(data.dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
        self._left: int | None = 0  # batches left in the iterator; None: not known
        self._iterator: Any = None

    def blocks(self, size: int) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size`."""
        self._data.on_epoch_begin()
        if self._iterator is None or not self._data.spans_epochs:
            self._start()
        begin = 0
        while self.steps is None or begin < self.steps:
            count = size if self.steps is None else min(size, self.steps - begin)
            block = Block(
                begin, size, count, _next_batch, self._iterator, may_end=self._left is None or self._left < count
            )
            yield block
            begin += block.done
            if self._left is not None and not self._endless:
                self._left -= block.done
            if block.data_ended:
                self._end(begin)
                break
        self._data.on_epoch_end()

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of the dataset, whatever was left of the last one."""
        self._iterator = None

    def _start(self) -> None:
        self._iterator = next(self._data.iterators)
        cardinality = int(self._data.dataset.cardinality())
        self._left = None if cardinality == tf.data.UNKNOWN_CARDINALITY else cardinality
        if self._endless:
            self._left = 2**62

    def _end(self, seen: int) -> None:
        if seen == 0:
            raise ValueError("The data must give at least one batch an epoch. Received: none")
        self._iterator = None
        if self.steps is None:
            self.steps = seen
            return
        self.spent = not self._restarts
        warnings.warn(
            f"Your input ran out of data; the epoch ends after {seen} of {self.steps} steps. Make sure that your "
            "dataset or generator can generate at least `steps_per_epoch * epochs` batches. You may need `.repeat()`.",
            stacklevel=3,
        )


def check_dataset(dataset: tf.data.Dataset, steps: int | None) -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch."""
    cardinality = int(dataset.cardinality())
    if cardinality == 0:
        raise ValueError("The dataset must have at least one batch. Received: a dataset of cardinality 0")
    if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(
            "`steps_per_epoch` must be given for a dataset that repeats without end. Received: steps_per_epoch=None"
        )


def _next_batch(iterator, index):
    del index  # an iterator knows where it is
    return next(iterator)
