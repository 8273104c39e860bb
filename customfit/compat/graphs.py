"""The graph of a functional model: which layer was called on what, and the masks that tensors carry."""

from __future__ import annotations

from typing import Any, Callable

from customfit.compat.models import LayerCall, producing_call
from customfit.compat.versions import IS_KERAS_3, keras, tf


def layer_calls(model: keras.Model) -> list[LayerCall]:
    """Returns the calls of layers in a functional model, each after those whose results it takes.

    Args:
        model: A functional or Sequential model that is built. Its `Input`s are calls without inputs.
    """
    calls: dict[int, LayerCall | None] = {}  # by their first output
    left = [(tensor, False) for tensor in reversed(model.outputs)]
    while left:  # depth first, without recursion: models may be deeper than Python's stack
        tensor, inputs_are_done = left.pop()
        call = producing_call(tensor)
        key = id(call.outputs[0])
        if inputs_are_done and calls[key] is None:
            del calls[key]  # so that the dict has them in the order in which they are done
            calls[key] = call
        elif not inputs_are_done and key not in calls:
            calls[key] = None
            left.append((tensor, True))
            left += [(each, False) for each in reversed(call.inputs)]
    return [call for call in calls.values() if call is not None]


def keras_mask(tensor: tf.Tensor) -> tf.Tensor | None:
    """Returns the mask that Keras has attached to a tensor, or `None`."""
    return getattr(tensor, "_keras_mask", None)


def set_keras_mask(tensor: tf.Tensor, mask: Any) -> None:
    """Attaches a mask to a tensor, unless it is `None`."""
    if mask is not None:
        tensor._keras_mask = mask


def call_in_training(model: keras.Model, values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Calls a functional model, that is part of another one, with `training=True`. Masks pass through it.

    Keras 2 tells layers by what surrounds a call that this is training. In Keras 3 that would drop the masks.

    Args:
        model: The model.
        values: Its inputs.

    Returns:
        Its outputs.
    """
    masks = [keras_mask(value) for value in values]
    mask = None if all(mask is None for mask in masks) else masks
    call: Callable[..., Any] = model.call if IS_KERAS_3 else model
    if len(values) == 1:
        values, mask = values[0], mask[0] if mask else None
    return tf.nest.flatten(call(values, training=True, mask=mask))
