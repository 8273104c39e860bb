"""What a step does differently on several replicas: sums over all of them, copies of state, and branches.

On one device a sum is the tensor itself and a branch is `tf.cond`. REPLICAS.md says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf


def replica_count() -> int:
    """Returns how many replicas run this step at once."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_alone() -> bool:
    """Whether this step runs as one replica that never leaves it to merge what others have found.

    A `MirroredStrategy` of one GPU has one replica, but runs it as if there were more: in a thread of its own, and its
    optimizers merge the gradients.
    """
    strategy = tf.distribute.get_strategy()
    merges = tf.distribute.has_strategy() and not isinstance(strategy, tf.distribute.OneDeviceStrategy)
    return replica_count() == 1 and not merges


def variable(initial: tf.Tensor | float, name: str, summed: bool = False) -> tf.Variable:
    """Creates a variable of which each replica has its own copy.

    Args:
        initial: The initial value.
        name: The name.
        summed: Whether its value outside the replicas is the sum of the copies. Defaults to that of the first replica.
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
    """Whether a replica may assign to a variable.

    One of several replicas may not if the variable is shared and what they assign is summed.

    Args:
        variable: The variable.
    """
    on_read = getattr(variable, "synchronization", None) == tf.VariableSynchronization.ON_READ
    summed = getattr(variable, "aggregation", None) == tf.VariableAggregation.SUM
    return replica_count() == 1 or on_read or not summed


def copies(strategy: tf.distribute.Strategy, variable: tf.Variable) -> list[tf.Variable]:
    """Returns each replica's own copy of a variable: of those of this process.

    Save and restore the copies: the value outside the replicas may be their sum, and assigning it would divide it
    evenly among them.

    Args:
        strategy: The strategy.
        variable: The variable.
    """
    return list(strategy.experimental_local_results(variable))


def has_copies(variable: tf.Variable) -> bool:
    """Whether a variable was made to have another value on each replica. Copies of others are meant to be alike.

    Args:
        variable: The variable.
    """
    return getattr(variable, "synchronization", None) == tf.VariableSynchronization.ON_READ


def sum_over_replicas(tensors: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Returns the sum of each tensor over the replicas.

    Args:
        tensors: Tensors or slices. `None` stays `None`.
    """
    if replica_count() == 1:
        return list(tensors)
    present = [tensor for tensor in tensors if tensor is not None]
    context = tf.distribute.get_replica_context()
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present) if present else ())
    return [None if tensor is None else next(sums) for tensor in tensors]


def outside(function: Callable[..., object], *args: Any) -> None:
    """Calls a function once for all replicas: there it sees and assigns what the model's owner would outside of a step.

    Args:
        function: The function. Called in each replica, this runs it when all of them are here.
        *args: Its arguments: tensors, or structures of them. Of several replicas, it is given those of each.
    """
    if replica_count() == 1:  # whether or not it is alone: there are no others to wait for
        function(*args)
        return

    @tf.autograph.experimental.do_not_convert
    def call(strategy: tf.distribute.Strategy, *args: Any) -> None:
        function(*args)

    tf.distribute.get_replica_context().merge_call(call, args=args)


def reduced(strategy: tf.distribute.Strategy, log: Any) -> Any:
    """Returns a log reduced over the replicas as `fit` does.

    Args:
        strategy: The strategy.
        log: The log of each replica.
    """
    return strategy.reduce(compat.log_reduction(), log, None) if is_distributed(log) else log


def is_distributed(value: object) -> bool:
    """Whether it has a value for each replica."""
    return isinstance(value, tf.distribute.DistributedValues)


def on_any_replica(condition: tf.Tensor) -> tf.Tensor:
    """Whether a condition holds on any replica, as a tensor that is the same on all of them.

    Args:
        condition: A scalar.
    """
    (count,) = sum_over_replicas([tf.cast(condition, tf.float32)])
    return tf.cast(count, tf.bool)


def run_if(condition: tf.Tensor, update: Callable[[list], object], tensors: Sequence[tf.Tensor]) -> None:
    """Runs `update(tensors)` if a condition holds.

    An optimizer's update may leave the replicas to merge their gradients, which it cannot do within a branch that each
    replica takes on its own. Then all replicas take the branch together.

    Args:
        condition: A scalar, the same on all replicas.
        update: Changes variables. It is called in each replica.
        tensors: Its arguments: tensors or slices.
    """
    tensors = list(tensors)

    def update_in_branch(tensors):
        # An optimizer requires gradients of one graph, the branch's, and `update` may pass some on as they are.
        return update(tf.nest.map_structure(tf.identity, tensors, expand_composites=True))

    if is_alone() or compat.supports_no_merge_call():
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


def _then_nothing(update: Callable[[list], object], tensors: Any) -> tf.Tensor:
    """Runs an update as a branch of `tf.cond`, whose branches must return the same."""
    update(tensors)
    return tf.constant(0)
