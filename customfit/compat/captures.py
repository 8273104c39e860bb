"""What a traced function captures from outside: handles of variables, tables and other resources.

TensorFlow says in public which tensors a concrete function captures. It keeps what a handle stands for to itself.
"""

from __future__ import annotations

from typing import Any

from customfit.compat.models import variable_path
from customfit.compat.versions import tf


def captured_handles(function: tf.types.experimental.ConcreteFunction) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns each resource that a function captures, in the order in which its graph first meets them.

    Args:
        function: The function.

    Returns:
        Pairs of the handle and the placeholder that stands for it in the function's graph.
    """
    captured = function.captured_inputs
    placeholders = function.graph.inputs[len(function.graph.inputs) - len(captured) :]
    return [pair for pair in zip(captured, placeholders) if pair[0].dtype == tf.resource]


def variable_spec(handle: tf.Tensor) -> tf.TensorSpec | None:
    """Returns the shape and dtype of a variable, given its handle; `None` for a table or another resource."""
    data: Any = getattr(handle, "_handle_data", None)
    if data is None or not data.is_set or not data.shape_and_type:
        return None
    return tf.TensorSpec(tf.TensorShape(data.shape_and_type[0].shape), tf.as_dtype(data.shape_and_type[0].dtype))


def variable_names(function: tf.types.experimental.ConcreteFunction) -> dict[int, str]:
    """Returns the names of the variables that a function reads, by the `id` of their handles."""
    return {id(variable.handle): variable_path(variable) for variable in function.variables}
