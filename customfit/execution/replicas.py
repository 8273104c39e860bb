"""What a step must mind where it runs on several replicas: sums over all, copies of state, and branches.

On one device all of this is nothing: sums are what they sum, and a branch is `tf.cond`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf


def replica_count() -> int:
    """How many replicas run this step at once."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def variable(initial: Any, name: str, summed: bool = False) -> tf.Variable:
    """A variable of which each replica has a copy of its own.

    Args:
        initial: The initial value.
        name: The name.
        summed: Whether its value for the world is the sum over the replicas; else that of the first one.
    """
    aggregation = tf.VariableAggregation
    return tf.Variable(
        initial,
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=aggregation.SUM if summed else aggregation.ONLY_FIRST_REPLICA,
    )


def can_assign(variable: tf.Variable) -> bool:
    """Whether a replica may assign to it: where there are several, not if what they assign is summed for all."""
    on_read = getattr(variable, "synchronization", None) == tf.VariableSynchronization.ON_READ
    summed = getattr(variable, "aggregation", None) == tf.VariableAggregation.SUM
    return replica_count() == 1 or on_read or not summed


def copies(strategy: tf.distribute.Strategy, variable: tf.Variable) -> list[tf.Variable]:
    """What each replica has for itself of a variable, or the variable where they share it.

    To save or keep a variable by its value for the world would give each replica its share of a sum.
    """
    if getattr(variable, "synchronization", None) != tf.VariableSynchronization.ON_READ:
        return [variable]
    return list(strategy.experimental_local_results(variable))


def sum_over_replicas(tensors: Sequence[Any]) -> list[Any]:
    """The sum of each tensor over the replicas. `None` stays what it is."""
    if replica_count() == 1:
        return list(tensors)
    there = [tensor for tensor in tensors if tensor is not None]
    context = tf.distribute.get_replica_context()
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, there) if there else ())
    return [None if tensor is None else next(sums) for tensor in tensors]


def on_any_replica(condition: tf.Tensor) -> tf.Tensor:
    """Whether a condition holds on any replica."""
    (count,) = sum_over_replicas([tf.cast(condition, tf.float32)])
    return tf.cast(count, tf.bool)


def run_if(condition: tf.Tensor, update: Callable[[Any], Any], tensors: Sequence[Any]) -> None:
    """Runs `update(tensors)` where a condition holds, which must be the same on all replicas.

    An optimizer's update leaves the replicas for a moment, which it must not do within a branch of theirs: there the
    branch is taken outside them.

    Args:
        condition: A scalar.
        update: Changes variables. It is called in each replica.
        tensors: What it is called with.
    """
    tensors = list(tensors)

    def update_in_branch(tensors):
        # Copies, because an optimizer takes gradients of one graph only, and `update` may return some as they are.
        return update(tf.nest.map_structure(tf.identity, tensors, expand_composites=True))

    if replica_count() == 1 or compat.branches_in_replicas():
        tf.cond(condition, lambda: _then_nothing(update_in_branch, tensors), lambda: tf.constant(0))
        return

    def branch(strategy, condition, tensors):
        first = strategy.experimental_local_results(condition)[0]
        tf.cond(
            first,
            lambda: _then_nothing(
                lambda args: strategy.extended.call_for_each_replica(update_in_branch, args=(args,)), tensors
            ),
            lambda: tf.constant(0),
        )

    tf.distribute.get_replica_context().merge_call(branch, args=(condition, tensors))


def _then_nothing(update: Callable[[Any], Any], tensors: Any) -> tf.Tensor:
    update(tensors)
    return tf.constant(0)
