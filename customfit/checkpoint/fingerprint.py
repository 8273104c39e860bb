"""What a checkpoint and the call that resumes from it must have in common."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from customfit import compat
from customfit.checkpoint.variables import optimizers_of
from customfit.compat import keras, tf
from customfit.serialization import as_json


def fingerprint(model: keras.Model, data: Any, options: dict) -> dict:
    """Returns the options that change the numbers of a run.

    Args:
        model: The model.
        data: The source that is trained on, or `None`.
        options: Further ones, by name.
    """
    optimizers = [_config(optimizer) for optimizer in optimizers_of(model)]
    return as_json(
        {
            "Keras": compat.GENERATION,
            **_layers(model.layers),
            **_constant_tables(model),
            "loss": _loss(getattr(model, "loss", None)),
            "loss_weights": _plain(_compile_config(model).get("loss_weights")),
            "jit_compile": compat.jit_compile(model),
            "replicas": model.distribute_strategy.num_replicas_in_sync,
            "optimizer": [config for config, _ in optimizers],
            "learning rate": None if _has_trained(model) else [rate for _, rates in optimizers for rate in rates],
            "gradients": {k: v for k, v in model.gradient_pipeline.get_config().items() if k != "nonfinite_dump"},
            "data": None if data is None else data.describe(),
            **options,
        }
    )


def learning_rates(model: keras.Model) -> list[float]:
    """Returns the learning rates of the model's optimizers, where they are numbers."""
    return [rate for optimizer in optimizers_of(model) for rate in _config(optimizer)[1]]


def differences(saved: dict, now: dict, saved_rates: list) -> list[str]:
    """Returns what differs between two fingerprints, in words.

    Args:
        saved: The fingerprint in the checkpoint.
        now: The fingerprint of this call.
        saved_rates: The learning rates when the checkpoint was written, which callbacks may have changed. A model that
            continues in the same process still has them.
    """
    found = []
    for name in [*saved, *(name for name in now if name not in saved)]:
        before, after = saved.get(name), now.get(name)
        if name == "learning rate" and (before is None or after is None or after == saved_rates):
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

    def without_rates(config: Any) -> Any:
        if isinstance(config, dict):
            rates.extend(
                float(value) for key, value in config.items() if key == "learning_rate" and not isinstance(value, dict)
            )
            return {
                key: without_rates(value)
                for key, value in config.items()
                if key != "learning_rate" or isinstance(value, dict)
            }
        return [without_rates(item) for item in config] if isinstance(config, (list, tuple)) else config

    return {"class": type(optimizer).__name__, **_plain(without_rates(_config_of(optimizer)))}, rates


def _has_trained(model: keras.Model) -> bool:
    """Whether callbacks may have moved the learning rates since `compile()`."""
    begun = [optimizer for optimizer in optimizers_of(model) if compat.optimizer_variables(optimizer)]
    counts = [getattr(optimizer, "iterations", None) for optimizer in begun]
    return any(count is not None and int(count.numpy()) > 0 for count in counts)


def _layers(layers: list) -> dict:
    """What layers compute: their options without names and initial values, and those of layers within them."""
    found = {}
    for index, layer in enumerate(layers):
        options = {key: value for key, value in _config_of(layer).items() if not key.endswith("_initializer")}
        inner = _layers(layer.layers) if hasattr(layer, "layers") else _plain(options)
        found[f"layer {index} ({type(layer).__name__})"] = {**inner, "dtype": layer.compute_dtype}
    return found


def _constant_tables(model: keras.Model) -> dict[str, str]:
    """Checksums of the tables that no step changes: the vocabularies of lookup layers."""
    owners: dict[int, tuple[str, Any]] = {}
    for owner in (model, *model.layers):
        for table in tf.train.TrackableView(owner).descendants():
            if isinstance(table, tf.lookup.StaticHashTable):
                owners[id(table)] = (type(owner).__name__, table)
    return {f"table {i} ({name})": _entries(table) for i, (name, table) in enumerate(owners.values())}


def _entries(table: tf.lookup.StaticHashTable) -> str:
    entries = sorted(zip(*(part.numpy().tolist() for part in table.export())))
    return f"{len(entries)} entries with checksum {zlib.crc32(repr(entries).encode())}"


def _loss(loss: Any) -> Any:
    if isinstance(loss, dict):
        return {name: _loss(each) for name, each in loss.items()}
    if isinstance(loss, (list, tuple)):
        return [_loss(each) for each in loss]
    if loss is None or isinstance(loss, str):
        return loss
    if hasattr(loss, "__name__"):
        return loss.__name__
    return {"class": type(loss).__name__, **_plain(_config_of(loss))}


def _config_of(thing: Any) -> dict:
    """Its options, as far as it says them."""
    try:
        return thing.get_config()
    except (AttributeError, NotImplementedError):  # a class of the user's, which has none
        return {}


def _compile_config(model: keras.Model) -> dict:
    try:
        return model.get_compile_config() or {}
    except (TypeError, ValueError, NotImplementedError):  # something of the user's that cannot be serialised
        return {}


def _plain(config: Any) -> Any:
    """What JSON can hold of options and is the same in each process: no names, and of other objects their class."""
    if isinstance(config, dict):
        left_out = ("name", "registered_name", "module", "build_config", "shared_object_id")
        return {str(key): _plain(value) for key, value in config.items() if key not in left_out}
    if isinstance(config, (list, tuple)):
        return [_plain(item) for item in config]
    if config is None or isinstance(config, (str, bool, int, float)):
        return config
    return config.item() if isinstance(config, np.generic) else type(config).__name__
