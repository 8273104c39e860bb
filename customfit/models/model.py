"""`CustomTrainModel`: a `keras.Model` whose training steps you can read, and an epoch loop that you can own."""

from __future__ import annotations

from typing import Any

from customfit import compat
from customfit.compat import keras
from customfit.models.mixin import CustomTrainMixin


class _KeepsItsBases(type(keras.Model)):  # type: ignore[misc]
    """Keeps `CustomTrainModel` fit for every use in one process.

    When a class is used as a functional model, Keras puts `Functional` in the place of `Model` among the bases of the
    class and of every class above it, the highest first. Done to a class that others share, this would break those that
    define `call()`. So `CustomTrainModel` keeps its bases, and the class below it gets `CustomTrainFunctional` in its
    place. (Keras 2 also assigns bases that do not change: only the ones that follow a `Functional` count.)
    """

    _functional_wanted = False

    def __setattr__(cls, name: str, value: Any) -> None:
        if name != "__bases__":
            super().__setattr__(name, value)
        elif cls is CustomTrainModel:
            if compat.functional_class() in value:
                _KeepsItsBases._functional_wanted = True
        else:
            if _KeepsItsBases._functional_wanted:
                value = tuple(CustomTrainFunctional if base is CustomTrainModel else base for base in value)
                _KeepsItsBases._functional_wanted = False
            super().__setattr__(name, value)


@compat.register_keras_serializable
class CustomTrainModel(CustomTrainMixin, keras.Model, metaclass=_KeepsItsBases):
    """A `keras.Model` that trains with `fit()`, with `custom_fit()`, or with a loop of yours, to the same numbers.

    Use it as you use `keras.Model`: `CustomTrainModel(inputs, outputs)`, or subclass it and write `call()`.

    Example:

    >>> inputs = keras.Input((64,))
    >>> model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(inputs))
    >>> model.compile("adam", "sparse_categorical_crossentropy", clipnorm=1.0)
    >>> history = model.custom_fit(x, y, epochs=3)
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        # As `keras.Model(inputs, outputs)` is a `Functional`.
        if cls is CustomTrainModel and compat.is_functional_call(args, kwargs):
            cls = CustomTrainFunctional
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def from_model(cls, model: Any) -> CustomTrainModel:
        """Gives a functional or Sequential Keras model, such as a pretrained one, the steps and the loop.

        Args:
            model: The model. Its layers are shared: what trains one, trains the other.

        Returns:
            A `CustomTrainModel` (or of the class that this is called on) of the same layers, to be compiled.

        Raises:
            TypeError: If the model is subclassed: then its class takes `CustomTrainMixin` as a base.
            ValueError: If the model is not built.

        Example:

        >>> model = CustomTrainModel.from_model(keras.applications.MobileNetV2())
        """
        functional_or_sequential: Any = (compat.functional_class(), keras.Sequential)
        if not isinstance(model, functional_or_sequential):
            raise TypeError(
                "The model must be functional or Sequential. A subclassed model gets the loop by its class: "
                f"`class {type(model).__name__}(CustomTrainMixin, keras.Model)`. Received: a {type(model).__name__}"
            )
        if not model.built or not model.inputs:
            raise ValueError(
                "The model must be built: give it a `keras.Input`, or call it on a batch. Received: a model that is not"
            )
        sequential = isinstance(model, keras.Sequential)
        inputs, outputs = (model.inputs, model.outputs) if sequential else (model.input, model.output)
        return cls(inputs, outputs, name=model.name)


@compat.register_keras_serializable
class CustomTrainFunctional(CustomTrainModel, compat.functional_class()):  # type: ignore[misc]
    """What `CustomTrainModel(inputs, outputs)` makes."""


@compat.register_keras_serializable
class CustomTrainSequential(CustomTrainMixin, keras.Sequential):
    """A `keras.Sequential` with the training step and loop of `CustomTrainModel`.

    Example:

    >>> model = CustomTrainSequential([keras.layers.Dense(10, activation="softmax")])
    """
