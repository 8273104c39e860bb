"""What a checkpoint and the call that goes on from it must have in common."""

from __future__ import annotations

from typing import Any

from customfit import compat
from customfit.compat import keras
from customfit.packing import as_json
from customfit.state import optimizers_of


def fingerprint(model: keras.Model, data: Any, options: dict) -> dict:
    """The options that change the numbers of a training.

    Args:
        model: The model.
        data: The source that is trained on, or `None`.
        options: Further ones, by name.

    Returns:
        What JSON can hold.
    """
    optimizers = [_config(optimizer) for optimizer in optimizers_of(model)]
    return as_json(
        {
            "Keras": compat.GENERATION,
            "loss": _named(getattr(model, "loss", None)),
            "optimizer": [config for config, _ in optimizers],
            "learning rate": [rate for _, rates in optimizers for rate in rates],
            "gradients": {k: v for k, v in model.gradient_pipeline.get_config().items() if k != "nonfinite_dump"},
            "data": None if data is None else data.describe(),
            **options,
        }
    )


def learning_rates(model: keras.Model) -> list[float]:
    """The learning rates of the model's optimizers, where they are numbers."""
    return [rate for optimizer in optimizers_of(model) for rate in _config(optimizer)[1]]


def differences(saved: dict, now: dict, saved_rates: list) -> list[str]:
    """What differs between two fingerprints, in words.

    Args:
        saved: That of the checkpoint.
        now: That of this call.
        saved_rates: The learning rates when the checkpoint was written, which callbacks may have changed. A model that
            goes on in the same process still has them.
    """
    found = []
    for name in [*saved, *(name for name in now if name not in saved)]:
        before, after = saved.get(name), now.get(name)
        if name == "learning rate" and after == saved_rates:
            continue
        if before != after:
            found += _differences(name, before, after)
    return found


def _differences(name: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in names
            if before.get(key) != after.get(key)
            for line in _differences(key, before.get(key), after.get(key))
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [line for one, other in zip(before, after) if one != other for line in _differences(name, one, other)]
    return [f"{name}={after!r}, which was {before!r}"]


def _config(optimizer: Any) -> tuple[dict, list]:
    """An optimizer's options, and its learning rates, which callbacks may change."""
    rates: list = []

    def clean(config: Any) -> Any:
        if isinstance(config, dict):
            cleaned = {}
            for key, value in config.items():
                if key == "learning_rate" and not isinstance(value, dict):
                    rates.append(float(value))
                elif key not in ("name", "registered_name", "module", "build_config"):
                    cleaned[key] = clean(value)
            return cleaned
        return [clean(item) for item in config] if isinstance(config, (list, tuple)) else config

    return {"class": type(optimizer).__name__, **clean(optimizer.get_config())}, rates


def _named(loss: Any) -> Any:
    if isinstance(loss, dict):
        return {name: _named(each) for name, each in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [_named(each) for each in loss]
    if loss is None or isinstance(loss, str):
        return loss
    return getattr(loss, "__name__", None) or type(loss).__name__
