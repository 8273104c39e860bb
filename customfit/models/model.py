"""`CustomTrainModel`: a `keras.Model` whose training steps you can read, and an epoch loop that you can own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from customfit import compat
from customfit.compat import keras
from customfit.models.mixin import CustomTrainMixin, ModelType
from customfit.models.remat import in_blocks

if TYPE_CHECKING:
    from typing_extensions import Self


@compat.register_keras_serializable
class CustomTrainModel(CustomTrainMixin, keras.Model):
    """A `keras.Model` that trains with `fit()`, with `custom_fit()`, or with a loop of yours, to the same numbers.

    Use it as you use `keras.Model`: `CustomTrainModel(inputs, outputs)`, or subclass it and write `call()`.

    Example:

    >>> inputs = keras.Input((64,))
    >>> model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(inputs))
    >>> model.compile("adam", "sparse_categorical_crossentropy", clipnorm=1.0)
    >>> history = model.custom_fit(x, y, epochs=3)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # As `keras.Model(inputs, outputs)` is a `Functional`.
        if cls is CustomTrainModel and compat.is_functional_call(args, kwargs):
            cls = CustomTrainFunctional
        return super().__new__(cls, *args, **kwargs)

    @classmethod
    def from_model(cls, model: keras.Model) -> Self:
        """Gives a functional or Sequential Keras model, such as a pretrained one, the steps and the loop.

        Args:
            model: The model. Its layers are shared: what trains one, trains the other.

        Returns:
            A `CustomTrainModel` (or of the class that this is called on) of the same layers, to be compiled.

        Raises:
            TypeError: If the model is subclassed. Then write `class Mine(Theirs, CustomTrainModel)`.
            ValueError: If the model is not built.

        Example:

        >>> model = CustomTrainModel.from_model(keras.applications.MobileNetV2())
        """
        functional_or_sequential: Any = (compat.functional_class(), keras.Sequential)
        if not isinstance(model, functional_or_sequential):
            raise TypeError(
                "The model must be functional or Sequential. A subclassed model gets the loop from its class: "
                f"`class Mine({type(model).__name__}, CustomTrainModel)`. Received: a {type(model).__name__}"
            )
        if not model.built or not model.inputs:
            raise ValueError(
                "The model must be built: give it a `keras.Input`, or call it on a batch. Received: an unbuilt model"
            )
        sequential = isinstance(model, keras.Sequential)
        inputs, outputs = (model.inputs, model.outputs) if sequential else (model.input, model.output)
        return cls(inputs, outputs, name=model.name)


ModelType.shared = CustomTrainModel


@compat.register_keras_serializable
class CustomTrainFunctional(CustomTrainModel, compat.functional_class()):  # type: ignore[misc]
    """What `CustomTrainModel(inputs, outputs)` returns."""

    @in_blocks
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Runs the layers: `keras.Model.call`, in blocks if `compile(remat=)` asks for it."""
        return super().call(inputs, training=training, mask=mask, **kwargs)


ModelType.functional = CustomTrainFunctional


@compat.register_keras_serializable
class CustomTrainSequential(keras.Sequential, CustomTrainModel):
    """A `keras.Sequential` with the training step and loop of `CustomTrainModel`.

    Example:

    >>> model = CustomTrainSequential([keras.layers.Dense(10, activation="softmax")])
    """

    @in_blocks
    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Runs the layers: `keras.Sequential.call`, in blocks if `compile(remat=)` asks for it."""
        return super().call(inputs, training=training, mask=mask, **kwargs)
