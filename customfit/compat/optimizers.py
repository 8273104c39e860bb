"""Optimizers: their variables, what they wrap, loss scales, and how gradients are handed to them.

Keras 2 unscales the gradients of mixed precision before its optimizer is called, and Keras 3 within the call. Keras 2
sums gradients over replicas before it clips them, and Keras 3 afterwards. Callers in the package always hold true
gradients; the functions here translate.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from customfit.compat.models import has_all_weights
from customfit.compat.updates import unhandled_updates
from customfit.compat.versions import IS_KERAS_3, keras, tf

if TYPE_CHECKING:
    from keras.optimizers import Optimizer

    from customfit.compat.models import Variable
    from customfit.compat.updates import Gradient

# The class that `tf.is_tensor` checks for, and Keras 2 when it reads a learning rate. TensorFlow exports it for Keras.
TensorType = tf.__internal__.types.Tensor


def optimizer_variables(optimizer: Optimizer) -> list[Variable]:
    """Returns an optimizer's variables: the iterations, the slots, the loss scale, and moving averages of weights."""
    variables: Any = getattr(optimizer, "variables", [])
    return list(variables() if callable(variables) else variables)


def optimizers_in(optimizer: Optimizer | None) -> Iterator[Optimizer]:
    """Yields an optimizer and those that it wraps: a loss scale's, our groups', those of Keras's `MultiOptimizer`."""
    if optimizer is not None:
        yield optimizer
        groups = [*getattr(optimizer, "groups", {}).values(), *getattr(optimizer, "optimizers", [])]
        for inner in [getattr(optimizer, "inner_optimizer", None), *groups]:
            yield from optimizers_in(inner)


def base_optimizer_arguments(name: str) -> dict[str, Any]:
    """Returns what a subclass without a learning rate passes to `keras.optimizers.Optimizer.__init__`."""
    constructors = [inspect.signature(cls.__init__) for cls in keras.optimizers.Optimizer.__mro__[:-1]]
    takes_rate = any("learning_rate" in constructor.parameters for constructor in constructors)
    return {"name": name, "learning_rate": 0.0} if takes_rate else {"name": name}


def learning_rate(optimizer: Optimizer) -> tf.Tensor:
    """Returns the learning rate of the next update, in a graph too. Keras 2's property has that of the last."""
    rate: Any = getattr(optimizer, "_learning_rate", None)
    rate = optimizer.learning_rate if rate is None else rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return tf.cast(tf.convert_to_tensor(rate), tf.float32)


def build_optimizer(model: keras.Model) -> None:
    """Makes the optimizer's variables before the first step, as `fit` of Keras 3 does.

    A step whose first trace makes variables is traced twice. This is done only where all weights are sure to exist.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    if has_all_weights(model) and not getattr(optimizer, "built", True):
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)


def build_for(optimizer: Optimizer, variables: Sequence[Variable]) -> list[Variable]:
    """Makes an optimizer's variables for these, also where not all of them are trained yet.

    Returns:
        Those that it does not know, if it was built for others before. Then nothing is made: Keras 2 would take the
        slots of some for those of others.
    """
    innermost: Any = getattr(optimizer, "inner_optimizer", optimizer)
    groups = list(getattr(innermost, "groups", {"": innermost}).values())
    known = [group._trainable_variables if IS_KERAS_3 else getattr(group, "_index_dict", {}) for group in groups]
    unknown = [each for each in variables if not any(map(_knows, groups, known, [each] * len(groups)))]
    if any(known) and unknown:
        return unknown
    optimizer.build(variables)
    return []


def _knows(optimizer: Optimizer, known: Any, variable: Variable) -> bool:
    if IS_KERAS_3:
        return any(each is variable for each in known)
    return optimizer._var_key(variable) in known


def output_gradient(optimizer: Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Returns the `output_gradients` of a loss for the tape: ones, times the loss scale.

    The gradients are then those of the scaled loss, to the bit, without another tensor in the tape.
    """
    ones = tf.ones_like(loss)
    scale = getattr(optimizer, "scale_loss", None) or getattr(optimizer, "get_scaled_loss", None)
    with unhandled_updates():  # the ones are not a loss
        return scale(ones) if scale else ones


def unscale_gradients(optimizer: Optimizer, gradients: Sequence[Gradient]) -> list[Gradient]:
    """Returns the true gradients, given those of a scaled loss."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    return true_gradients(optimizer, gradients, summed=False)


def true_gradients(optimizer: Optimizer, gradients: Sequence[Gradient], summed: bool) -> list[Gradient]:
    """Returns true gradients of this replica, given what `optimizer.apply_gradients` was called with.

    Args:
        optimizer: The optimizer. Keras 3's is called with the gradients of the scaled loss, Keras 2's with true ones.
        gradients: The gradients.
        summed: Whether they are summed over all replicas already.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if summed and replicas > 1:
        gradients = [_times(gradient, 1.0 / replicas) for gradient in gradients]
    scale = _scale_within_optimizer(optimizer)
    return list(gradients) if scale is None else [_times(gradient, 1.0 / scale) for gradient in gradients]


def apply_gradients(
    optimizer: Optimizer, gradients: Iterable[Gradient], variables: Iterable[Variable], reduced: bool
) -> None:
    """Calls `optimizer.apply_gradients` with true gradients.

    Args:
        optimizer: The optimizer. Keras 3's divides by its loss scale itself, Keras 2's does not.
        gradients: The gradients, one for each variable.
        variables: The variables.
        reduced: Whether the gradients are already summed over all replicas. Keras 2 is told so. Keras 3 sums them
            again, so each replica passes its share.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    options = {}
    if reduced and replicas > 1 and IS_KERAS_3:
        gradients = [_times(gradient, 1.0 / replicas) for gradient in gradients]
    elif reduced and replicas > 1:
        options["experimental_aggregate_gradients"] = False
    scale = _scale_within_optimizer(optimizer)
    if scale is not None:
        gradients = [_times(gradient, scale) for gradient in gradients]
    optimizer.apply_gradients(zip(gradients, variables), **options)


def has_dynamic_loss_scale(optimizer: Optimizer) -> bool:
    """Whether the optimizer searches for the largest safe loss scale, and skips updates that are not finite."""
    found_in = keras.optimizers if hasattr(keras.optimizers, "LossScaleOptimizer") else keras.mixed_precision
    return isinstance(optimizer, found_in.LossScaleOptimizer) and bool(getattr(optimizer, "dynamic", True))


def loss_scale(optimizer: Optimizer) -> tf.Tensor | None:
    """Returns the loss scale, or `None` if the optimizer has none."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return tf.convert_to_tensor(optimizer.loss_scale)
    return _scale_within_optimizer(optimizer)


def _scale_within_optimizer(optimizer: Optimizer) -> tf.Tensor | None:
    """Returns the scale by which a Keras 3 optimizer divides the gradients that it is given."""
    if not hasattr(optimizer, "scale_loss"):
        return None
    one = tf.ones(())
    with unhandled_updates():
        scale = optimizer.scale_loss(one)
    return None if scale is one else scale


def _times(gradient: Gradient, factor: float | tf.Tensor) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)
