"""A step on several replicas: each takes its share of a batch, and their logs become one.

Data is read once, as on one device, and cut up inside the graph. So the batch, its order, a position to resume at, and
how fast it comes are those of one device, whatever the strategy.
"""

from __future__ import annotations

from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data import count_batch_rows, map_leaves


def run_step(strategy: tf.distribute.Strategy, step: Callable[[Any], Any], batch: Any) -> Any:
    """Runs a step on all replicas of a strategy.

    Args:
        strategy: The strategy.
        step: A function from a batch to logs, called in each replica.
        batch: The batch of all replicas together; or, from a dataset that is distributed already, of each.

    Returns:
        The logs, each reduced over the replicas as `fit` does.
    """
    if strategy.num_replicas_in_sync == 1:
        return strategy.run(step, args=(batch,))
    if any(map(_is_distributed, tf.nest.flatten(batch))):
        logs = strategy.run(step, args=(batch,))
    else:
        logs = strategy.run(lambda whole: step(shard_batch(whole)), args=(batch,))
    how = compat.log_reduction()
    return tf.nest.map_structure(lambda log: strategy.reduce(how, log, None) if _is_distributed(log) else log, logs)


def shard_batch(batch: Any) -> Any:
    """This replica's rows of a batch: as many as the others have, or one more where they cannot be shared evenly."""
    context = tf.distribute.get_replica_context()
    index = tf.cast(context.replica_id_in_sync_group, tf.int64)
    rows = count_batch_rows(batch)
    each, more = rows // context.num_replicas_in_sync, rows % context.num_replicas_in_sync
    begin = index * each + tf.minimum(index, more)
    size = each + tf.cast(index < more, tf.int64)

    def part(leaf: Any) -> Any:
        if isinstance(leaf, tf.SparseTensor):
            others = leaf.dense_shape[1:]
            return tf.sparse.slice(leaf, tf.concat([[begin], tf.zeros_like(others)], 0), tf.concat([[size], others], 0))
        return leaf[begin : begin + size] if leaf.shape.rank else leaf

    return map_leaves(part, batch)


def shard_spec(spec: Any) -> Any:
    """The spec of what the step of one replica takes, but for the number of rows, of that of what `run_step` takes."""

    def of_one(leaf: tf.TypeSpec) -> tf.TypeSpec:
        distributed = issubclass(leaf.value_type, tf.distribute.DistributedValues)
        return tf.nest.flatten(leaf, expand_composites=True)[0] if distributed else leaf

    return map_leaves(of_one, spec)


def _is_distributed(value: Any) -> bool:
    return isinstance(value, tf.distribute.DistributedValues)


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part, which must come to each sum over the replicas at the same step of a call."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_strategy(strategy: tf.distribute.Strategy, jit_compile: bool) -> None:
    """Refuses what cannot be trained on several replicas.

    Raises:
        NotImplementedError: If it cannot.
    """
    if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        raise NotImplementedError(
            "`custom_fit` trains on replicas in step with each other, and not by a `ParameterServerStrategy`, which "
            "schedules steps one by one. Received: a model under ParameterServerStrategy"
        )
    if strategy.num_replicas_in_sync == 1:
        return
    received = f"Received: a model under {type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas"
    if not compat.divides_loss_by_replicas():
        raise NotImplementedError(
            "On several replicas `custom_fit` needs Keras 3.8 or newer: older ones of Keras 3 sum losses that are not "
            f"divided by the number of replicas. {received}."
        )
    if jit_compile:
        raise NotImplementedError(
            f"`jit_compile` must be False on several replicas: XLA compiles for one device. {received} and "
            "jit_compile=True."
        )
