"""What a layer's name means in a model, and which layers are its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from customfit import compat
from customfit.compat import keras, tf


def variables_named(model: Any, name: str) -> list:
    """The variables of all layers of a name, and of what the model holds in an attribute of that name.

    Args:
        model: The model.
        name: The name of a layer at any depth of models within models, or of an attribute of the model that holds a
            layer, a variable, or a list or dict of such.

    Returns:
        The variables: none where the layers have none yet.

    Raises:
        KeyError: If there is nothing of that name. Its argument is a list of the names that there are.
    """
    found = [*(layer for layer in all_layers(model) if layer.name == name), *_attributes(model).get(name, [])]
    if not found:
        raise KeyError(sorted({layer.name for layer in all_layers(model)} | set(_attributes(model))))
    return [variable for item in found for variable in (item.weights if _is_layer(item) else [item])]


def all_layers(model: Any) -> list:
    """The layers of a model, each before those that are in it."""
    return [below for layer in getattr(model, "layers", []) for below in (layer, *all_layers(layer))]


def output_layers(model: Any) -> list:
    """The layers that give a functional or Sequential model its outputs.

    Where such a layer has no weights, as an `Activation` has none, it is the last one before it that has. Where it is
    a model, it is that model's. Of a subclassed model nothing can be known.

    Args:
        model: The model, built.

    Returns:
        The layers, each once.
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


def _outputs_of(layer: Any) -> list:
    return output_layers(layer) if isinstance(layer, keras.Model) else [layer]


def _attributes(model: Any) -> dict[str, list]:
    """What the model's own attributes hold of layers and variables, by the attribute's name."""
    held = {
        name: [item for item in _items(value) if _is_layer(item) or _is_variable(item)]
        for name, value in vars(model).items()
        if not name.startswith("_")
    }
    return {name: items for name, items in held.items() if items}


def _items(value: Any) -> list:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_variable(item: Any) -> bool:
    """Of TensorFlow or Keras 3, whose exported class is not always that of its variables."""
    return callable(getattr(item, "assign", None)) and hasattr(item, "trainable")


def _is_layer(item: Any) -> bool:
    return isinstance(item, keras.layers.Layer)
