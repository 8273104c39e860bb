"""Gradual unfreezing: layers that are trained from a later epoch on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from customfit import compat
from customfit.arguments import as_count, did_you_mean
from customfit.compat import keras

Names = Union[str, Sequence[str]]


class Unfreeze(keras.callbacks.Callback):
    """Freezes layers when training begins, and trains each from its epoch on: gradual unfreezing.

    No `compile()` is needed. The optimizer keeps its state and its count of updates, and has slots for the frozen
    layers from the start. A frozen `BatchNormalization` uses its moving statistics and leaves them alone, as in Keras.
    The step is traced again when a layer is unfrozen. With `checkpoint=` a run resumes in whichever stage it was. It
    works under `fit()` too. After training, the layers of epochs that were not reached stay frozen.

    Args:
        schedule: The names of layers to train from an epoch on, by the epoch, counted from 0. A layer within a model
            within the model is found, too; the name of such a model stands for all its layers.

    Raises:
        TypeError: If the model is not a `CustomTrainModel`.
        ValueError: If an epoch is wrong, there is no layer of a name, a name is given twice, the model is not built, or
            its optimizer was built without these layers.

    Example:

    >>> unfreeze = customfit.callbacks.Unfreeze({2: "block5", 4: ["block3", "block4"]})
    >>> model.custom_fit(x, y, epochs=8, callbacks=[unfreeze])  # the head alone in the first two epochs
    """

    restores_first = True  # which of a model's variables are trained is part of how a checkpoint lists them

    def __init__(self, schedule: Mapping[int, Names]):
        super().__init__()
        self.schedule = {
            as_count("epoch", epoch, 1): [names] if isinstance(names, str) else list(names)
            for epoch, names in schedule.items()
        }
        named = [name for names in self.schedule.values() for name in names]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice or not named:
            received = f"{', '.join(twice)} twice" if twice else repr(schedule)
            raise ValueError(f"`schedule` must name layers, each once. Received: {received}")
        self._stages: dict[int, list[Any]] = {}  # the layers, by their epoch
        self._epoch = 0

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "gradient_pipeline", None) is None:
            raise TypeError(f"`Unfreeze` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}")
        if not model.built:
            raise ValueError(
                "`Unfreeze` needs a model that is built: call it on a batch first. Received: one without weights"
            )
        layers = {layer.name: layer for layer in _all_layers(model)}
        for name in (name for names in self.schedule.values() for name in names):
            if name not in layers:
                raise ValueError(
                    f"`schedule` must name layers of the model.{did_you_mean(name, layers)} Received: {name!r}"
                )
        self._stages = {epoch: [layers[name] for name in names] for epoch, names in self.schedule.items()}
        # Frozen only once training has begun: `fit` of Keras 2 then sets what was trainable at `compile()`.
        for layer in (layer for layers in self._stages.values() for layer in layers):
            layer.trainable = True
        with model.distribute_strategy.scope():
            unknown = compat.build_for(model.optimizer, model.trainable_variables)
        if unknown:
            raise ValueError(
                "`Unfreeze` needs an optimizer that has not been built without these layers: call `model.compile()` "
                f"with a new one. Received: an optimizer without {', '.join(map(compat.variable_path, unknown[:3]))}"
            )

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._train(0)

    def _train(self, epoch: int) -> None:
        """Trains the layers of this epoch and of those before, and no others."""
        self._epoch, changed = epoch, False
        for first, layers in self._stages.items():
            for layer in layers:
                changed = changed or layer.trainable != (epoch >= first)
                layer.trainable = epoch >= first
        if changed:
            self.model.gradient_pipeline.forget_updates()
            self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._train(epoch)

    def get_state(self) -> dict[str, int]:
        """Returns the epoch, for a checkpoint of `custom_fit`."""
        return {"epoch": self._epoch}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Trains the layers of the epoch that was saved.

        Args:
            state: What `get_state` returned.
        """
        self._train(state["epoch"])


def _all_layers(model: Any) -> list[Any]:
    """Returns the layers of a model at any depth."""
    return [below for layer in getattr(model, "layers", []) for below in (layer, *_all_layers(layer))]
