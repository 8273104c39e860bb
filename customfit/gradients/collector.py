"""`PredictionCollector`: the predictions of a validation pass, collected from its steps."""

from __future__ import annotations

import itertools
from typing import Any, Callable

import numpy as np

from customfit.compat import tf
from customfit.execution import replicas

Tensors = Any  # a tensor, or a nested structure of them, or `None`
Transform = Callable[
    [Tensors, Tensors], tuple[Tensors, Tensors]
]  # from targets and predictions to what is collected of them


class PredictionCollector:
    """Collects targets, predictions and weights of each step of a pass, on the host.

    On several replicas, the rows of a step come in the order of the replicas.

    Args:
        transform: What is collected, computed in the graph. Defaults to targets and predictions as they are.

    Attributes:
        collects: Whether a pass is being collected.
        variables: The state that a step changes.
    """

    def __init__(self, transform: Transform | None):
        self._transform = transform
        self._structure: Any = None
        self._batches: dict[int, list[list[np.ndarray]]] = {}  # by their replica
        self.collects = False
        with tf.device("cpu:0"):
            self._count = replicas.variable(tf.constant(0, tf.int64), "collected_batches")
        self.variables = [self._count]

    def start(self) -> None:
        """Starts a pass."""
        self._batches, self.collects = {}, True

    def add(self, y: Tensors, y_pred: Tensors, sample_weight: Tensors) -> None:
        """Collects a batch, in the graph of its step.

        Args:
            y: Its targets.
            y_pred: Its predictions.
            sample_weight: Its weights, or `None`.
        """
        if self._transform is not None:
            y, y_pred = self._transform(y, y_pred)
        self._structure = (y, y_pred, sample_weight)
        tensors = [leaf for leaf in tf.nest.flatten(self._structure) if leaf is not None]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # Declared stateless, so that a checkpoint does not warn of it. Its result is counted, so it is not pruned.
        self._count.assign_add(tf.numpy_function(self._append, [replica, *tensors], tf.int64, stateful=False))

    def _append(self, replica: np.ndarray, *arrays: np.ndarray) -> np.int64:
        if self.collects:
            self._batches.setdefault(int(replica), []).append([np.array(array) for array in arrays])
        return np.int64(1)

    def finish(self) -> tuple[Any, Any, Any] | None:
        """Ends a pass. Returns all its targets, predictions and weights, or `None` if no step has collected any."""
        by_replica, self._batches, self.collects = self._batches, {}, False
        # Of each step the batches of all replicas, in their order. One may have had none.
        steps = itertools.zip_longest(*(by_replica[replica] for replica in sorted(by_replica)))
        batches = [batch for step in steps for batch in step if batch is not None]
        if not batches:
            return None
        columns = iter([np.concatenate([np.atleast_1d(array) for array in column]) for column in zip(*batches)])
        leaves = [None if leaf is None else next(columns) for leaf in tf.nest.flatten(self._structure)]
        return tf.nest.pack_sequence_as(self._structure, leaves)
