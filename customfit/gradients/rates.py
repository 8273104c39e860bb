"""The learning rates of an optimizer, or of all that are in it."""

from __future__ import annotations

from customfit import compat
from customfit.compat import keras, tf


def rates_of(optimizer: keras.optimizers.Optimizer | None) -> dict[str, keras.optimizers.Optimizer]:
    """Returns the optimizers that have a learning rate, by the name of the rate in logs.

    Args:
        optimizer: The optimizer of a model: one that scales the loss, or that consists of groups, has others in it.

    Returns:
        `{"learning_rate": optimizer}`, or for groups `{"learning_rate/encoder": ..., "learning_rate/head": ...}`.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    several = getattr(inner, "groups", None) or dict(enumerate(getattr(inner, "optimizers", ())))
    if several:
        return {f"learning_rate/{name}": each for name, each in several.items()}
    return {"learning_rate": inner} if hasattr(inner, "learning_rate") else {}


def current_rates(optimizer: keras.optimizers.Optimizer | None) -> dict[str, tf.Tensor]:
    """Returns the learning rates of the next update, by the names of `rates_of`.

    Args:
        optimizer: The optimizer of a model.
    """
    return {name: compat.learning_rate(each) for name, each in rates_of(optimizer).items()}
