"""A step on several replicas: each takes its share of a batch, and their logs are reduced to one.

A process reads a batch once, as on one device, and it is split inside the graph. So batches, their order and the
position to resume at do not depend on the strategy. REPLICAS.md says more, and what each of several processes reads.
"""

from __future__ import annotations

from typing import Any, Callable, TypeVar

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch, BatchSpec, map_leaves, part_of_batch
from customfit.execution.replicas import is_distributed, reduced

Result = TypeVar("Result")


def concatenated(strategy: tf.distribute.Strategy, output: Any) -> Any:
    """Returns the rows of an output of all replicas, in their order, as `predict` does.

    Args:
        strategy: The strategy.
        output: The output of each replica.
    """
    if has_workers(strategy):
        return strategy.gather(output, axis=0)
    if not is_distributed(output):
        return output
    parts = strategy.experimental_local_results(output)
    return tf.stack(parts) if parts[0].shape.rank == 0 else tf.concat(parts, 0)


def run_step(
    strategy: tf.distribute.Strategy,
    step: Callable[[Batch], Result],
    batch: Batch,
    join: Callable[[tf.distribute.Strategy, Any], Any] = reduced,
) -> Result:
    """Runs a step on all replicas of a strategy.

    Args:
        strategy: The strategy.
        step: A function from a batch to logs, or to outputs, called in each replica.
        batch: The batch of all replicas together; or, of a distributed dataset, that of each replica.
        join: Makes one of what the replicas have returned.

    Returns:
        The logs or outputs of all replicas.
    """
    if strategy.num_replicas_in_sync == 1:
        return strategy.run(step, args=(batch,))
    if any(map(is_distributed, tf.nest.flatten(batch))):
        results = strategy.run(step, args=(batch,))
    else:
        results = strategy.run(lambda whole: step(shard_batch(whole)), args=(batch,))
    return map_leaves(lambda each: join(strategy, each), results)


def shard_batch(batch: Batch) -> Batch:
    """Returns this replica's rows of a batch.

    The rows are split evenly. Of rows that are left over, the first replicas get one more each.

    Args:
        batch: The batch of all replicas.
    """
    context = tf.distribute.get_replica_context()
    return part_of_batch(batch, tf.cast(context.replica_id_in_sync_group, tf.int64), context.num_replicas_in_sync)


def shard_spec(spec: BatchSpec) -> BatchSpec:
    """Returns the spec of a replica's batch, in which the number of rows may still be that of all replicas.

    Args:
        spec: The spec of the batch that `run_step` takes.
    """

    def of_replica(leaf: tf.TypeSpec) -> tf.TypeSpec:
        distributed = issubclass(leaf.value_type, tf.distribute.DistributedValues)
        return tf.nest.flatten(leaf, expand_composites=True)[0] if distributed else leaf

    return map_leaves(of_replica, spec)


def has_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether other processes take part. All of them must run the same steps in the same graph calls.

    Args:
        strategy: The model's strategy.
    """
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_synchronous(strategy: tf.distribute.Strategy, method: str) -> None:
    """Refuses a strategy whose workers run steps asynchronously.

    Args:
        strategy: The model's strategy.
        method: The name of the method that was called.

    Raises:
        NotImplementedError: If they do.
    """
    if isinstance(strategy, tf.distribute.experimental.ParameterServerStrategy):
        raise NotImplementedError(
            f"`{method}` runs synchronous replicas. It does not support `ParameterServerStrategy`, whose workers "
            "run steps asynchronously, each on data that a `ClusterCoordinator` has made for it: there is no order "
            "of batches to keep. Use a synchronous strategy, such as `MultiWorkerMirroredStrategy`. "
            "Received: a model under ParameterServerStrategy"
        )


def check_strategy(strategy: tf.distribute.Strategy, jit_compile: bool) -> None:
    """Refuses a strategy under which `custom_fit` cannot train.

    Args:
        strategy: The model's strategy.
        jit_compile: Whether the steps are compiled with XLA.

    Raises:
        NotImplementedError: If it cannot.
    """
    check_synchronous(strategy, "custom_fit")
    if strategy.num_replicas_in_sync == 1:
        return
    received = f"Received: a model under {type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas"
    if not compat.divides_loss_by_replicas():
        raise NotImplementedError(
            "On several replicas `custom_fit` needs Keras 3.8 or newer: older releases of Keras 3 do not average "
            f"gradients over replicas, and log the metrics of the first replica's rows. {received}."
        )
    if jit_compile:
        raise NotImplementedError(
            f"`jit_compile` must be False on several replicas: XLA compiles for one device. {received} and "
            "jit_compile=True."
        )
