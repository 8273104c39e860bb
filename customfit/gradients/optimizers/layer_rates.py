"""One optimizer whose learning rate is a share of itself in some layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from customfit import compat
from customfit.compat import keras, tf
from customfit.gradients.optimizers.assignment import OptimizerLike
from customfit.gradients.optimizers.groups import OptimizerGroups

Ratios = Union[Mapping[str, float], Sequence[tuple[str, float]]]
REST = "other"


@compat.register_keras_serializable
class ScaledSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A share of another schedule.

    Args:
        schedule: The other schedule.
        ratio: The share.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, ratio: float):
        super().__init__()
        self.schedule = schedule
        self.ratio = ratio

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate at a step."""
        return self.schedule(step) * self.ratio

    def get_config(self) -> dict[str, Any]:
        """Returns the other schedule, serialized, and the share."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule), "ratio": self.ratio}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ScaledSchedule:
        """Creates the same schedule."""
        return cls(keras.optimizers.schedules.deserialize(dict(config["schedule"])), config["ratio"])


@compat.register_keras_serializable
class LayerRates(OptimizerGroups):
    """An optimizer whose learning rate is a share of itself in some layers, as in fine-tuning.

    It is `OptimizerGroups` with a copy of one optimizer for each ratio, and one for all layers that have none. Setting
    `learning_rate`, or a callback that does, changes all rates by the same factor. A schedule is scaled.

    Args:
        optimizer: The optimizer, as in `keras.optimizers.get`, new. Its rate is that of all layers without a ratio.
        ratios: Ratios by the name of a layer at any depth, or of an attribute of a subclassed model; or pairs of a
            pattern and the ratio of the variables whose path it matches: see `OptimizerGroups`. To train a layer not at
            all, set `layer.trainable = False`.
        name: The optimizer's name.

    Raises:
        ValueError: If a ratio is not a positive number, or the optimizer is not valid.

    Example:

    >>> model.compile(LayerRates(keras.optimizers.Adam(1e-3), {"encoder": 0.1}), "mse")
    """

    def __init__(self, optimizer: OptimizerLike, ratios: Ratios, name: str = "layer_rates"):
        by_layer = isinstance(ratios, Mapping)
        pairs = list(ratios.items() if isinstance(ratios, Mapping) else ratios)
        for key, ratio in pairs:
            if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < float("inf"):
                raise ValueError(f"`ratios` must be positive numbers. Received: {key!r}: {ratio!r}")
        base = keras.optimizers.get(dict(optimizer) if isinstance(optimizer, Mapping) else optimizer)
        rest = REST if REST not in dict(pairs) else f"{REST} layers"
        groups = [(rest, base), *((key, _with_rate(base, ratio)) for key, ratio in pairs)]
        super().__init__(dict(groups) if by_layer else groups, name)
        self._state.rest = rest
        self._state.ratios = [[key, ratio] for key, ratio in pairs]

    def get_config(self) -> dict[str, Any]:
        """Returns the name, the optimizer of layers without a ratio, serialized, and the ratios."""
        base = next(iter(self.groups.values()))
        return {
            "name": self.name,
            "by_layer": self._state.by_layer,
            "optimizer": keras.optimizers.serialize(base),
            "ratios": self._state.ratios,
            "is_legacy_optimizer": False,  # Keras 2 reads this when it loads an optimizer
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, object] | None = None) -> LayerRates:
        """Creates an optimizer of the same configuration, without state.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            The optimizer.
        """
        ratios = [(key, ratio) for key, ratio in config["ratios"]]
        with keras.utils.custom_object_scope(custom_objects or {}):
            return cls(config["optimizer"], dict(ratios) if config["by_layer"] else ratios, name=config["name"])


def _with_rate(optimizer: keras.optimizers.Optimizer, ratio: float) -> keras.optimizers.Optimizer:
    """Returns a copy of an optimizer, without state, whose learning rate is a share of its own."""
    config = optimizer.get_config()
    rate = config["learning_rate"]
    if isinstance(rate, Mapping):
        rate = ScaledSchedule(keras.optimizers.schedules.deserialize(dict(rate)), ratio)
    else:
        rate = float(rate) * ratio
    return type(optimizer).from_config({**config, "learning_rate": rate})
