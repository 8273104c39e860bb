"""What a step costs: floating-point operations, and the activations that the backward pass needs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Batch, BatchSpec, map_leaves


class StepCosts(NamedTuple):
    """What a step costs.

    Attributes:
        flops: Floating-point operations of the forward and backward pass.
        activation_bytes: The size of what the forward pass leaves for the backward pass, without weights and inputs.
    """

    flops: int
    activation_bytes: int


# Their outputs are weights, or take no memory of their own.
_NO_ACTIVATIONS = {"ReadVariableOp", "Const", "Placeholder", "Identity", "Reshape", "ExpandDims", "Squeeze", "Shape"}


def step_costs(model: keras.Model, spec: BatchSpec | None, batch_size: int | None) -> StepCosts | None:
    """Counts what a step costs, in the graph of its forward and backward pass. Nothing is run.

    What TensorFlow does not count is left out: operations within loops, such as those of an LSTM on a CPU, and most
    that only move data.

    Args:
        model: The model.
        spec: The spec of a batch, or `None` if it is not known.
        batch_size: How many rows a batch has, where the spec does not say.

    Returns:
        The costs; `None` where they cannot be counted: a model without weights yet, batches of unknown shape.
    """
    if spec is None or not model.built or model.distribute_strategy.num_replicas_in_sync > 1:
        return None
    whole = map_leaves(lambda leaf: _with_rows(leaf, batch_size), spec)
    leaves = tf.nest.flatten(whole)
    if not all(
        isinstance(leaf, tf.TensorSpec) and leaf.shape.is_fully_defined() for leaf in leaves if leaf is not None
    ):
        return None
    forward: list[Any] = []

    def passes(data: Batch) -> list[Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = compat.compute_loss(model, x, y, y_pred, sample_weight, training=True)
        forward.extend(tf.compat.v1.get_default_graph().get_operations())
        gradients = tape.gradient(loss, model.trainable_variables)
        return [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]

    try:
        graph = tf.function(passes, autograph=False).get_concrete_function(whole).graph
    except Exception:  # a step of the user's own that takes other batches, or values that only a run has
        return None
    return StepCosts(_flops(graph), _activation_bytes(graph, forward))


def _with_rows(leaf: Any, batch_size: int | None) -> Any:
    if not isinstance(leaf, tf.TensorSpec) or not leaf.shape.rank or leaf.shape[0] is not None:
        return leaf
    return tf.TensorSpec([batch_size, *leaf.shape[1:]], leaf.dtype)


def _flops(graph: tf.Graph) -> int:
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # its own code is deprecated, and TensorFlow says so
    try:
        found = tf.compat.v1.profiler.profile(graph, options=options)
    finally:
        logger.setLevel(level)
    return int(found.total_float_ops)


def _activation_bytes(graph: tf.Graph, forward: list[Any]) -> int:
    """Returns the size of the tensors that the forward pass has made and the backward pass reads."""
    made = {operation.name for operation in forward}
    kept = {
        tensor.name: tensor
        for operation in graph.get_operations()
        if operation.name not in made
        for tensor in operation.inputs
        if tensor.op.name in made and tensor.op.type not in _NO_ACTIVATIONS and tensor.shape.is_fully_defined()
    }
    return sum(math.prod(tensor.shape) * tensor.dtype.size for tensor in kept.values() if tensor.dtype.is_floating)
