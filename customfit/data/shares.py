"""What one of several workers reads of the data, and how its replicas get it.

A dataset that says nothing is read by every worker as a whole, and each batch is split inside the graph: that is exact,
and the work of the input does not fall with the number of workers. The ways here let each worker read its share alone:
rows of arrays, a dataset whose options name a `tf.data.experimental.AutoShardPolicy`, and a function of an
`InputContext`. REPLICAS.md has a table of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.data.iterators import NextBatch
from customfit.data.lengths import batches_in, is_dataset
from customfit.data.rows import empty_rows, map_leaves, part_of_batch, part_of_rows
from customfit.data.source import Batch, BatchSpec, Feed, Fetch, inputs_left_out_as_none
from customfit.workers import Workers

# Under these each worker reads something else. DATA has every worker read all of it and keep its share, which is what
# is done anyway; AUTO is what a dataset has that says nothing.
_POLICIES = ("FILE", "HINT", "OFF")


def is_dataset_function(x: object) -> bool:
    """Whether it is a function of an `InputContext`, and no data of a class that can be called."""
    return callable(x) and not any(hasattr(x, name) for name in ("__iter__", "__getitem__", "element_spec", "blocks"))


@dataclasses.dataclass(frozen=True)
class DatasetShare:
    """How this worker's batches come out of a dataset, and how many steps all workers know of.

    Attributes:
        dataset: What this worker iterates over.
        fetch: Gives the batch of a step.
        elements: Of the dataset, in a step.
        steps: Steps in a pass: the most of any worker, infinity if no share has an end, `None` if one does not know.
        is_even: Whether each worker has data for all of them, and for each of its replicas.
        keeps_order: Whether the rows of a step, replica by replica, come in the order of a dataset that all share.
    """

    dataset: tf.data.Dataset | tf.distribute.DistributedDataset
    fetch: NextBatch
    elements: int
    steps: float | None
    is_even: bool
    keeps_order: bool = False

    @classmethod
    def of(cls, dataset: tf.data.Dataset, workers: Workers) -> DatasetShare:
        """Returns that of a dataset whose elements are batches of one replica each, on each worker other ones.

        Args:
            dataset: The dataset.
            workers: All workers, which call this at the same time.
        """
        return cls(dataset, NextOfShare(workers), workers.replicas, *_agreed_steps(dataset, workers, workers.replicas))

    @classmethod
    def of_distributed(cls, dataset: tf.distribute.DistributedDataset, workers: Workers) -> DatasetShare:
        """Returns that of a dataset that its owner has distributed: TensorFlow gives each replica its batch.

        Args:
            dataset: The dataset.
            workers: All workers, which call this at the same time.
        """
        return cls(dataset, NextDistributed(), 1, *_agreed_steps(dataset, workers, 1), keeps_order=True)

    @property
    def size(self) -> float | None:
        """The number of steps in a pass where a step must not ask whether there is data; else `None`."""
        return self.steps if self.is_even else None

    def count(self) -> int | None:
        """Returns the number of steps in a pass, or `None` if it is not known or infinite."""
        return None if self.steps is None or self.steps == math.inf else int(self.steps)

    def element_spec(self, dataset: tf.data.Dataset) -> BatchSpec:
        """Returns the spec of the batch of a step.

        Args:
            dataset: The dataset, or one that was made of it.
        """
        if isinstance(dataset, tf.data.Dataset):
            return self.fetch.element_spec(iter(dataset.take(0)))
        return inputs_left_out_as_none(dataset.element_spec)


def _agreed_steps(
    dataset: tf.data.Dataset | tf.distribute.DistributedDataset, workers: Workers, in_step: int
) -> tuple[float | None, bool]:
    """How many steps a pass has, and whether it has so many on each worker."""
    elements = batches_in(dataset)
    unknown, endless = elements is None, elements == math.inf
    counts = [0] * workers.count
    uneven = 0
    if elements is not None and not endless:
        counts[workers.index] = math.ceil(elements / in_step)
        uneven = int(elements % in_step > 0)
    unknown_ones, endless_ones, uneven_ones, *counts = workers.sum([int(unknown), int(endless), uneven, *counts])
    if endless_ones == workers.count:
        return math.inf, True
    if unknown_ones or endless_ones:
        return None, False
    return max(counts), not uneven_ones and len(set(counts)) == 1


def dataset_share(x: Any, workers: Workers) -> DatasetShare | None:
    """Returns this worker's share of a dataset, or `None` where each worker reads all of it.

    Args:
        x: A dataset, or a function of an `InputContext` that returns one.
        workers: All workers.

    Raises:
        ValueError: If the function returns something else, or the batch size of the dataset is not known.
    """
    if is_distributed(x):
        return DatasetShare.of_distributed(x, workers)
    if is_dataset_function(x):
        dataset = x(workers.input_context)
        if not isinstance(dataset, tf.data.Dataset):
            raise ValueError(
                "A function of a `tf.distribute.InputContext` must return a `tf.data.Dataset` of batches, each for one "
                f"replica. Received: a function that returns a {type(dataset).__name__}"
            )
        return DatasetShare.of(dataset, workers)
    if workers.count == 1 or not isinstance(x, tf.data.Dataset):
        return None
    policy = x.options().experimental_distribute.auto_shard_policy.name
    return DatasetShare.of(_sharded(x, policy, workers), workers) if policy in _POLICIES else None


def _sharded(dataset: tf.data.Dataset, policy: str, workers: Workers) -> tf.data.Dataset:
    """This worker's share of a dataset of batches for all replicas, in batches for one of its replicas each."""
    batch_size = compat.batch_size_of(dataset)
    if batch_size is None:
        raise ValueError(
            f"With `AutoShardPolicy.{policy}` the batch size of a dataset must be known: end it with `.batch(n)`, or "
            "pass a function of a `tf.distribute.InputContext` instead. Received: a dataset whose elements are "
            f"{dataset.element_spec}"
        )
    replicas = workers.count * workers.replicas
    first = workers.index * workers.replicas
    sizes = [part_of_rows(batch_size, first + replica, replicas)[1] for replica in range(workers.replicas)]
    if batch_size < replicas:
        raise ValueError(
            f"With `AutoShardPolicy.{policy}` a batch must have a row for each replica. Received: batches of "
            f"{batch_size} rows for {replicas} replicas"
        )
    return compat.auto_shard(dataset, workers.count, workers.index, replicas).rebatch(sizes)


@dataclasses.dataclass(frozen=True)
class NextOfShare(NextBatch):
    """The fetch of an iterator over a worker's share. Equal ones share a trace.

    The data ends where the shares of all workers have ended. Until then one that has ended gives batches without rows.
    """

    workers: Workers

    def __call__(self, feed: tf.data.Iterator, index: int | tf.Tensor) -> Batch:
        """Returns the next batch, of a share that does not end before the others."""
        del index
        parts = [inputs_left_out_as_none(next(feed)) for _ in range(self.workers.replicas)]
        return self.workers.per_replica(parts.__getitem__)

    def get_next_as_optional(self, feed: tf.data.Iterator) -> tf.experimental.Optional:
        """Returns the next batch, if there is one on any worker."""
        return _in_graph(self)(feed) if tf.executing_eagerly() else self.next_in_graph(feed)

    def next_in_graph(self, feed: tf.data.Iterator) -> tf.experimental.Optional:
        """Returns the next batch, if there is one on any worker, inside a graph."""
        parts = [feed.get_next_as_optional() for _ in range(self.workers.replicas)]
        has_value = tf.cast(parts[0].has_value(), tf.int64)

        def value_of(part: tf.experimental.Optional) -> Batch:
            return tf.cond(
                part.has_value(), part.get_value, lambda: tf.nest.map_structure(empty_rows, feed.element_spec)
            )

        values = [inputs_left_out_as_none(value_of(part)) for part in parts]
        batch = tf.experimental.Optional.from_value(self.workers.per_replica(values.__getitem__))
        nothing = tf.experimental.Optional.empty(batch.element_spec)
        return tf.cond(self.workers.sum_in_graph(has_value) > 0, lambda: batch, lambda: nothing)

    def element_spec(self, feed: tf.data.Iterator) -> BatchSpec:
        """Returns the spec of a batch."""
        return inputs_left_out_as_none(_in_graph(self).get_concrete_function(feed).structured_outputs.element_spec)


@functools.lru_cache(maxsize=8)
def _in_graph(fetch: NextOfShare) -> Any:
    return tf.function(fetch.next_in_graph, autograph=False)


@dataclasses.dataclass(frozen=True)
class NextDistributed(NextBatch):
    """The fetch of an iterator over a dataset that its owner has distributed. Equal ones share a trace."""

    def get_next_as_optional(self, feed: Any) -> tf.experimental.Optional:
        """Returns the next batch, if there is one. Eagerly its spec would be that of this batch, not of any."""
        return _NEXT(feed) if tf.executing_eagerly() else feed.get_next_as_optional()


_NEXT = tf.function(lambda feed: feed.get_next_as_optional(), autograph=False, reduce_retracing=True)


@dataclasses.dataclass(frozen=True)
class SplitOverReplicas(Fetch):
    """The fetch of batches that hold this worker's rows, each split over its replicas. Equal ones share a trace."""

    fetch: Fetch
    workers: Workers

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the batch of this index."""
        return self._split(self.fetch(feed, index))

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of a batch."""
        return self.spec_of(self.fetch.element_spec(feed))

    def spec_of(self, spec: BatchSpec) -> BatchSpec:
        """Returns the spec of a batch.

        Args:
            spec: That of this worker's rows.
        """
        traced = tf.function(self._split, autograph=False).get_concrete_function(spec)
        return map_leaves(tf.type_spec_from_value, traced.structured_outputs)

    def _split(self, batch: Batch) -> Batch:
        replicas = self.workers.replicas
        return self.workers.per_replica(lambda part: part_of_batch(batch, tf.constant(part, tf.int64), replicas))


class RowShare:
    """Which rows of each batch of arrays this worker has.

    Args:
        rows: How many rows the arrays have.
        batch_size: Rows in a batch of all workers.
        workers: All workers.

    Attributes:
        batch_size: Rows in a batch of this worker.
        is_ragged: Whether its last batch may be smaller.
    """

    def __init__(self, rows: int, batch_size: int, workers: Workers):
        self._workers = workers
        self._global_batch_size = batch_size
        self._whole, self._rest = divmod(rows, batch_size)
        self._begin, self._end = self._range(batch_size)
        self.batch_size = max(1, self._end - self._begin)
        self.is_ragged = self._rest > 0 or self._end == self._begin

    def of_order(self, order: tf.Tensor) -> tf.Tensor:
        """Returns this worker's rows of a pass.

        Args:
            order: The numbers of all rows, batch by batch.
        """
        size = self._global_batch_size
        whole = tf.reshape(order[: self._whole * size], [self._whole, size])[:, self._begin : self._end]
        begin, end = self._range(self._rest)
        return tf.concat([tf.reshape(whole, [-1]), order[self._whole * size :][begin:end]], 0)

    def split(self, fetch: Fetch) -> SplitOverReplicas:
        """Returns a fetch of batches for this worker's replicas.

        Args:
            fetch: Gives the worker's rows.
        """
        return SplitOverReplicas(fetch, self._workers)

    def _range(self, rows: int) -> tuple[int, int]:
        """Where this worker's rows of a batch begin and end: those of its first to its last replica."""
        replicas = self._workers.replicas
        parts = self._workers.count * replicas
        first, last = self._workers.index * replicas, (self._workers.index + 1) * replicas - 1
        begin, (last_begin, last_size) = part_of_rows(rows, first, parts)[0], part_of_rows(rows, last, parts)
        return begin, last_begin + last_size


def is_distributed(x: object) -> bool:
    """Whether it is a dataset that its owner has distributed."""
    return is_dataset(x) and not isinstance(x, tf.data.Dataset)
