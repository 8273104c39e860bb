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

from customfit.compat.models import known_outputs, tf_variable, variables_in
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
    arguments: dict[str, Any] = dict(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = training
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    loss: Any = _loss_of_share(model, arguments) if several else model.compute_loss(**arguments)
    if loss is None and training:
        raise ValueError(
            "There must be a loss to minimize: pass `loss=` to `compile()`, call `add_loss()`, or override "
            "`compute_loss()`. Received: no loss."
        )
    return loss


def track_loss(model: keras.Model, loss: tf.Tensor | None, x: Tensors) -> None:
    """Adds the batch's loss to the metric "loss", as a step must in Keras 3; Keras 2 does so in `compute_loss`."""
    tracker = next((metric for metric in model.metrics if metric.name == "loss"), None) if IS_KERAS_3 else None
    if tracker is None:
        return
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    loss = _zero_without_rows(loss, x) if replicas > 1 else loss
    if KERAS_VERSION >= (3, 8):  # since 3.8, `compute_loss` divides by the number of replicas
        loss = loss * replicas if replicas > 1 else loss
    if KERAS_VERSION < (3, 2):
        tracker.update_state(loss)
    else:
        tracker.update_state(loss, sample_weight=tf.shape(_first_leaf(x))[0])


def with_unknown_rows(tensor: Tensors) -> Tensors:
    """Returns a tensor that the graph does not know to have no rows, where a replica has no share of the batch.

    Keras 3 does not reduce the losses of the rows to their mean where it knows that there are none.
    """
    if tf.executing_eagerly() or not isinstance(tensor, tf.Tensor) or not tensor.shape.rank or tensor.shape[0] != 0:
        return tensor
    return tf.compat.v1.placeholder_with_default(tensor, [None, *tensor.shape[1:]])


def _loss_of_share(model: keras.Model, arguments: dict[str, Any]) -> tf.Tensor | None:
    """Returns the loss of a replica's share of a batch, which may have no rows."""

    def compute() -> Any:
        return model.compute_loss(**tf.nest.map_structure(with_unknown_rows, arguments))

    x = arguments["x"]
    is_keras_3_s = IS_KERAS_3 and type(model).compute_loss is keras.Model.compute_loss
    if is_keras_3_s and tf.executing_eagerly() and not bool(_has_rows(x)):
        compute = tf.function(compute, autograph=False)  # outside of a graph, each tensor knows how many rows it has
    return _zero_without_rows(compute(), x)


def _zero_without_rows(loss: tf.Tensor | None, x: Tensors) -> tf.Tensor | None:
    """Returns the loss, or 0 on a replica without rows, where their mean is not finite.

    Its gradients are those of the loss: on that replica too, its part of a regularizer has some.
    """
    if loss is None:
        return None
    loss = tf.convert_to_tensor(loss)
    if loss.shape.num_elements() == 0:
        return tf.reduce_sum(loss)  # not reduced by Keras 3, in a step of the user's that runs eagerly
    has_rows = _has_rows(x)

    @tf.custom_gradient
    def zero_without_rows(loss: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.where(has_rows, loss, tf.zeros_like(loss)), lambda gradient: gradient

    return zero_without_rows(loss)


def _has_rows(x: Tensors) -> tf.Tensor:
    leaf = _first_leaf(x)
    shape = leaf.bounding_shape() if isinstance(leaf, tf.RaggedTensor) else tf.shape(leaf)
    return tf.reduce_all(shape[:1] > 0)  # a scalar is a row


def _first_leaf(x: Tensors) -> Tensors:
    return next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)


def step_state(model: keras.Model) -> list[tf.Variable]:
    """Returns what a step changes besides the trained weights: moving averages, metrics, random seeds."""
    trainable = {id(variable) for variable in model.trainable_variables}
    weights = [weight for weight in model.variables if id(weight) not in trainable]
    weights += [weight for metric in model.metrics for weight in metric.variables]
    native = [tf_variable(variable) for variable in variables_in(weights)]
    return list({id(variable): variable for variable in native}.values())


def build_metrics(model: keras.Model, spec: Tensors) -> None:
    """Makes the metrics that `compile()` was given, before the first step, which would be traced twice with them.

    This is done only for a model that is made of layers and has one output, whose shape is known before the step. On
    Keras 2, where the optimizer makes variables in its first update, nothing is done.

    Args:
        model: The model.
        spec: The specs of a batch.
    """
    metrics: Any = getattr(model, "_compile_metrics", None)
    outputs = known_outputs(model)
    if metrics is None or metrics.built or len(outputs) != 1:
        return
    _, y, _ = keras.utils.unpack_x_y_sample_weight(spec)
    if isinstance(y, tf.TensorSpec):
        with model.distribute_strategy.scope():
            metrics.build(y_true=y, y_pred=tf.TensorSpec(outputs[0].shape, outputs[0].dtype))


def build_on_replicas(model: keras.Model, spec: Tensors) -> None:
    """Makes the variables that a step on several replicas needs, as `fit` of Keras 3 does before its first step.

    Args:
        model: The model.
        spec: The specs of a replica's batch.
    """
    if hasattr(keras.Model, "_symbolic_build"):
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=spec)
