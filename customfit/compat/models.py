"""Models, layers and variables: what kind they are, how they are saved, and what `compile()` has set.

Keras exports neither the class of functional models nor the graph of layers behind a symbolic tensor, and its
generations keep the options of `compile()` under different names. The functions here hide both.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from customfit.compat.versions import IS_KERAS_3, keras, module_beside_model, tf

if TYPE_CHECKING:
    from typing import Union

    Variable = Union[tf.Variable, keras.Variable]

Class = TypeVar("Class", bound=type)


def functional_class() -> type[keras.Model]:
    """Returns the class of `keras.Model(inputs, outputs)`, which Keras exports under no public name."""
    return module_beside_model("functional").Functional


def has_all_weights(model: keras.Model) -> bool:
    """Whether all weights of a model are sure to exist: it is made of layers, and has been built."""
    return isinstance(model, (functional_class(), keras.Sequential)) and model.built


def known_outputs(model: keras.Model) -> list[keras.KerasTensor]:
    """Returns the symbolic outputs of a model that is made of layers and has been built; of any other, none."""
    return tf.nest.flatten(getattr(model, "outputs", [])) if has_all_weights(model) else []


def is_functional_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether `keras.Model(*args, **kwargs)` asks for a functional model, by the rule that Keras documents."""
    return len(args) == 2 or ("outputs" in kwargs and (len(args) == 1 or "inputs" in kwargs))


def producing_layer(tensor: keras.KerasTensor) -> tuple[keras.layers.Layer, list[Any]]:
    """Returns the layer that made a symbolic tensor, and the symbolic tensors on which the layer was called."""
    call = producing_call(tensor)
    return call.layer, call.inputs


class LayerCall(NamedTuple):
    """A call of a layer in a functional model.

    Attributes:
        layer: The layer, or in Keras 3 any operation.
        inputs: The symbolic tensors that it was called on.
        outputs: The symbolic tensors that it returned.
    """

    layer: keras.layers.Layer
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]


def producing_call(tensor: keras.KerasTensor) -> LayerCall:
    """Returns the call of a layer that made a symbolic tensor."""
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    inputs = list(node.keras_inputs if hasattr(node, "keras_inputs") else node.input_tensors)
    return LayerCall(layer, inputs, tf.nest.flatten(node.output_tensors))


def register_keras_serializable(cls: Class) -> Class:
    """Registers a class of ours, so that `load_model` finds it without `custom_objects`."""
    getattr(keras, "saving", keras.utils).register_keras_serializable(package="customfit")(cls)
    keras.utils.get_custom_objects()[cls.__name__] = cls  # a whole model in an `.h5` file has its class without package
    return cls


def keeps_compile_options(path: str, overwrite: bool = True, save_format: str | None = None, **options: Any) -> bool:
    """Whether `model.save` with these arguments writes what `get_compile_config` returns: only in Keras's own format.

    Keras 2.12 writes it where `save_format` says so, later releases wherever the path ends in ".keras".
    """
    del overwrite, options
    is_default = IS_KERAS_3 or not tf.__version__.startswith("2.12")
    return save_format in ("keras", "keras_v3") or (save_format is None and is_default and path.endswith(".keras"))


def save_model(model: keras.Model, path: str) -> None:
    """Saves a model as a `.keras` file. Keras 2 needs to be told the format; on TensorFlow 2.12 it is no default."""
    takes_format = "save_format" in inspect.signature(keras.models.save_model).parameters
    options: dict[str, Any] = {"save_format": "keras_v3"} if takes_format else {}
    model.save(path, **options)


def deserialize_keras_object(config: Mapping[str, Any]) -> Any:
    """Calls `keras.saving.deserialize_keras_object`, which TensorFlow 2.12 does not export."""
    public = getattr(keras.saving, "deserialize_keras_object", None)
    if public is not None:
        return public(config)
    return importlib.import_module("keras.saving.serialization_lib").deserialize_keras_object(config)


def compile_options(options: dict[str, Any]) -> dict[str, Any]:
    """Returns keyword arguments of `Model.compile` as this generation understands them."""
    knows_auto = inspect.signature(keras.Model.compile).parameters["jit_compile"].default == "auto"
    if options.get("jit_compile") == "auto" and not knows_auto:
        # Keras 2 would treat the string as true and compile with XLA.
        return {**options, "jit_compile": None}
    return options


def is_compiled(model: keras.Model) -> bool:
    """Whether `compile()` was called on the model."""
    return bool(model.compiled if IS_KERAS_3 else model._is_compiled)


def steps_per_execution(model: keras.Model) -> int:
    """Returns the model's `steps_per_execution`, which has been a public property of Keras 2 only since 2.15."""
    public = IS_KERAS_3 or hasattr(keras.Model, "steps_per_execution")
    value: Any = model.steps_per_execution if public else model._steps_per_execution
    if value is None:
        return 1
    return int(value.numpy() if isinstance(value, tf.Variable) else value)  # a mirrored variable is no number itself


def jit_compile(model: keras.Model) -> bool:
    """Whether the model's steps are compiled with XLA. Keras has resolved "auto" by the time of this call."""
    return bool(model.jit_compile)


def variables_in(weights: Iterable[Any]) -> list[Variable]:
    """Returns the variables among weights. Keras 2 lists the vocabulary of a lookup layer among them as well."""
    return [weight for weight in weights if hasattr(weight, "assign")]


def tf_variable(variable: Variable) -> tf.Variable:
    """Returns the `tf.Variable` behind a variable. Keras 3 wraps it in a class of its own."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def variable_path(variable: Variable) -> str:
    """Returns the name of a variable, after the names of the layers that it is part of: "dense/kernel"."""
    return getattr(variable, "path", None) or variable.name.partition(":")[0]
