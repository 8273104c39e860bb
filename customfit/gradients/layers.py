"""Finds layers and their variables by name, and the output layers of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from customfit import compat
from customfit.compat import keras, tf

Item = Union[keras.layers.Layer, tf.Variable]


def variables_named(model: keras.Model, name: str) -> list[tf.Variable]:
    """Returns the variables of all layers of a name, and of the model's attribute of that name.

    Args:
        model: The model.
        name: The name of a layer at any depth of models within models, or of an attribute of the model that holds a
            layer, a variable, or a list or dict of such.

    Returns:
        The variables; none if the layers have not been built.

    Raises:
        KeyError: If there is nothing of that name. Its argument is the list of names that exist.
    """
    found = [*(layer for layer in all_layers(model) if layer.name == name), *_attributes(model).get(name, [])]
    if not found:
        raise KeyError(sorted({layer.name for layer in all_layers(model)} | set(_attributes(model))))
    return compat.variables_in(weight for item in found for weight in (item.weights if _is_layer(item) else [item]))


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers of a model at any depth, each before its own.

    Args:
        model: The model. Other layers have none.
    """
    return [below for layer in getattr(model, "layers", []) for below in (layer, *all_layers(layer))]


def output_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that produce the outputs of a functional or Sequential model.

    For a layer without weights, such as an `Activation`, the last layer before it that has weights is returned. For a
    model within the model, its output layers are. The output layers of a subclassed model cannot be known.

    Args:
        model: The model, built.

    Returns:
        The layers, each once; none for a subclassed model.
    """
    if isinstance(model, keras.Sequential):
        last = next((layer for layer in reversed(model.layers) if layer.weights), None)
        return [] if last is None else _outputs_of(last)
    found: list = []
    functional: Any = compat.functional_class()
    tensors = list(tf.nest.flatten(model.outputs)) if isinstance(model, functional) else []
    while tensors:
        layer, inputs = compat.producing_layer(tensors.pop())
        if layer.weights:
            found.extend(_outputs_of(layer))
        else:
            tensors.extend(inputs)
    return list({id(layer): layer for layer in found}.values())


def _outputs_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    return output_layers(layer) if isinstance(layer, keras.Model) else [layer]


def _attributes(model: keras.Model) -> dict[str, list[Item]]:
    """Returns the layers and variables in the model's own attributes, by the attribute's name."""
    held = {
        name: [item for item in _items(value) if _is_layer(item) or _is_variable(item)]
        for name, value in vars(model).items()
        if not name.startswith("_")
    }
    return {name: items for name, items in held.items() if items}


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_variable(item: Any) -> bool:
    """Whether it is a variable of TensorFlow or Keras 3, whose exported class is not always that of its variables."""
    return callable(getattr(item, "assign", None)) and hasattr(item, "trainable")


def _is_layer(item: Any) -> bool:
    return isinstance(item, keras.layers.Layer)
