"""`Workers`: which of several processes this one is, and what all of them agree on."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from customfit.compat import tf

_of_strategies: weakref.WeakKeyDictionary[tf.distribute.Strategy, Workers] = weakref.WeakKeyDictionary()


class Workers:
    """The processes of a `MultiWorkerMirroredStrategy`; under any other strategy, this one alone.

    Args:
        strategy: The strategy.

    Attributes:
        count: How many there are.
        index: Which one this is.
        replicas: How many replicas each of them has.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.count, self._chiefs, self.index = _place(strategy)
        self.replicas = strategy.num_replicas_in_sync // self.count
        self._strategy = weakref.ref(strategy)
        self._sum = tf.function(self.sum_in_graph, autograph=False, reduce_retracing=True)

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> Workers:
        """Returns the workers of a strategy, the same object each time.

        Args:
            strategy: The strategy.
        """
        if strategy not in _of_strategies:
            _of_strategies[strategy] = cls(strategy)
        return _of_strategies[strategy]

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy."""
        strategy = self._strategy()
        assert strategy is not None  # whoever asks has a model of it
        return strategy

    @property
    def is_chief(self) -> bool:
        """Whether this is the one that writes files and draws progress for all."""
        return self.index == 0

    def index_of(self, job: str, task: int) -> int:
        """Returns which worker a task of TensorFlow's cluster is.

        Args:
            job: "chief" or "worker".
            task: Its number in there.
        """
        return task + (self._chiefs if job == "worker" else 0)

    @property
    def input_context(self) -> tf.distribute.InputContext:
        """What a function that makes this worker's share of the data is called with."""
        return tf.distribute.InputContext(self.count, self.index, self.count * self.replicas)

    def sum(self, values: Sequence[int]) -> list[int]:
        """Returns the sums over the workers of some integers.

        Args:
            values: As many on each worker.
        """
        if self.count == 1:
            return list(values)
        return [int(total) for total in self._sum(tf.constant(list(values), tf.int64)).numpy()]

    def any(self, condition: bool) -> bool:
        """Whether a condition holds on any worker.

        Args:
            condition: Whether it holds on this one.
        """
        return self.sum([int(condition)]) != [0]

    def gather(self, text: str) -> list[str]:
        """Returns a text of each worker, in their order.

        Args:
            text: That of this one.
        """
        if self.count == 1:
            return [text]
        mine = text.encode()
        sizes = self.sum([len(mine) if index == self.index else 0 for index in range(self.count)])
        sent = np.zeros([self.count, max(1, max(sizes))], "int64")
        sent[self.index, : len(mine)] = list(mine)
        found = self._sum(tf.constant(sent)).numpy().astype("uint8")
        return [row[:size].tobytes().decode() for row, size in zip(found, sizes)]

    def draw_seed(self) -> int:
        """Returns a seed for all workers, drawn by the chief."""
        return int(self.gather(str(random.SystemRandom().randrange(2**31)))[0])

    def sum_in_graph(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum over the workers of a tensor of integers, within a graph.

        Args:
            values: Of the same shape on each worker.
        """
        if self.count == 1:
            return values
        strategy = self.strategy

        def of_replicas(value: tf.Tensor) -> tf.Tensor:
            value = tf.identity(value)  # on the replica's device, which the sum goes by
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

        total = strategy.experimental_local_results(strategy.run(of_replicas, args=(values,)))[0]
        return total // self.replicas  # each of a worker's replicas has sent its values

    def per_replica(self, value: Callable[[int], Any]) -> Any:
        """Returns values of this worker's replicas as `tf.distribute.Strategy.run` takes them.

        Args:
            value: Returns that of a replica, counted from 0 on this worker.
        """
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: value(context.replica_id_in_sync_group % self.replicas)
        )


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int, int]:
    """How many workers a strategy has, how many of them are called chief, and which one this is. Chiefs first."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1, 0, 0
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict() if resolver is not None else {}
    chiefs, workers = len(cluster.get("chief", ())), len(cluster.get("worker", ()))
    if chiefs + workers <= 1:
        return 1, 0, 0
    return chiefs + workers, chiefs, resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
