"""What a step does in one generation of Keras and not in another: the loss, its metric, and the state it changes.

Keras 2 adds a batch's loss to the metric "loss" inside `compute_loss`; Keras 3 expects the step to do so, with a weight
that has changed from release to release. On several replicas, Keras 3 needs its variables before the first step. Under
`fit` of Keras 2, AutoGraph converts Python control flow that depends on tensors; Keras 3 turns it off.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any, Callable, TypeVar

from customfit.compat.models import tf_variable, variables_in
from customfit.compat.versions import IS_KERAS_3, KERAS_VERSION, keras, tf

Function = TypeVar("Function", bound=Callable[..., Any])
Tensors = Any  # tensors, or nested tuples, lists and dicts of them


def autographed(function: Function, jit_compile: bool = False) -> Function:
    """Returns a function in which AutoGraph converts what it converts under `fit` of this generation.

    In Keras 2 that is the `call` of subclassed layers and models, losses and metrics: Keras converts each of them as it
    calls it, if AutoGraph is enabled. A step is run as it is, with two exceptions, in which it is converted with all
    that it calls: a step of the user's that is compiled with XLA; and any step where TensorFlow mistakes Keras for code
    of the user's, as 2.16 does with `tf_keras`. In Keras 3 nothing is converted.

    Args:
        function: A step of a model, or a part of one.
        jit_compile: Whether it is compiled with XLA.
    """
    if IS_KERAS_3:
        return function
    context = importlib.import_module("tensorflow.python.autograph.core.ag_ctx")
    enabled = context.ControlStatusCtx(status=context.Status.ENABLED)
    is_ours = function.__module__.partition(".")[0] == __name__.partition(".")[0]
    if (jit_compile and not is_ours) or not _leaves_keras_unconverted():
        return tf.__internal__.autograph.tf_convert(function, enabled)

    @functools.wraps(function)
    def with_autograph_enabled(*args: Tensors) -> Tensors:
        with enabled:
            return function(*args)

    return with_autograph_enabled  # type: ignore[return-value]


def _leaves_keras_unconverted() -> bool:
    conversion = importlib.import_module("tensorflow.python.autograph.impl.conversion")
    return conversion.is_allowlisted(keras.Model.train_step)


def compute_loss(
    model: keras.Model, x: Tensors, y: Tensors, y_pred: Tensors, sample_weight: Tensors, training: bool
) -> tf.Tensor | None:
    """Calls `model.compute_loss`, with `training` if the method takes it: Keras's own does since 3.4."""
    arguments = dict(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = training
    loss: Any = model.compute_loss(**arguments)
    if loss is None and training:
        raise ValueError(
            "There must be a loss to minimise: pass `loss=` to `compile()`, call `add_loss()`, or override "
            "`compute_loss()`. Received: no loss."
        )
    return loss


def track_loss(model: keras.Model, loss: tf.Tensor | None, x: Tensors) -> None:
    """Adds the batch's loss to the metric "loss", as a step must in Keras 3; Keras 2 does so in `compute_loss`."""
    tracker = next((metric for metric in model.metrics if metric.name == "loss"), None) if IS_KERAS_3 else None
    if tracker is None:
        return
    if KERAS_VERSION >= (3, 8):  # since 3.8, `compute_loss` divides by the number of replicas
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = loss * replicas if replicas > 1 else loss
    if KERAS_VERSION < (3, 2):
        tracker.update_state(loss)
    else:
        first = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
        tracker.update_state(loss, sample_weight=tf.shape(first)[0])


def step_state(model: keras.Model) -> list[tf.Variable]:
    """Returns what a step changes besides the trained weights: moving averages, metrics, random seeds."""
    trainable = {id(variable) for variable in model.trainable_variables}
    weights = [weight for weight in model.variables if id(weight) not in trainable]
    weights += [weight for metric in model.metrics for weight in metric.variables]
    native = [tf_variable(variable) for variable in variables_in(weights)]
    return list({id(variable): variable for variable in native}.values())


def build_on_replicas(model: keras.Model, spec: Tensors) -> None:
    """Makes the variables that a step on several replicas needs, as `fit` of Keras 3 does before its first step.

    Args:
        model: The model.
        spec: The specs of a replica's batch.
    """
    if hasattr(keras.Model, "_symbolic_build"):
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=spec)
