"""What a checkpoint and the call that resumes from it must have in common."""

from __future__ import annotations

import zlib
from typing import Any

from customfit import compat
from customfit.checkpoint.options import Described, config_of, describe, plain
from customfit.checkpoint.variables import optimizers_of
from customfit.compat import keras, tf
from customfit.serialization import as_json
from customfit.workers import Workers


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
            "release": compat.keras_release(),
            "layers": _layers(model.layers),
            **_constant_tables(model),
            **_losses(getattr(model, "loss", None)),
            "loss_weights": plain(_compile_config(model).get("loss_weights")),
            "jit_compile": compat.jit_compile(model),
            "replicas": model.distribute_strategy.num_replicas_in_sync,
            "workers": Workers.of(model.distribute_strategy).count,
            **{f"optimizer {i}" if i > 1 else "optimizer": config for i, (config, _) in enumerate(optimizers, 1)},
            "learning_rate": None if _has_trained(model) else [rate for _, rates in optimizers for rate in rates],
            "gradients": {k: v for k, v in model.gradient_pipeline.get_config().items() if k != "nonfinite_dump"},
            "data": None if data is None else data.describe(),
            **options,
        }
    )


def learning_rates(model: keras.Model) -> list[float]:
    """Returns the learning rates of the model's optimizers, where they are numbers."""
    return [rate for optimizer in optimizers_of(model) for rate in _config(optimizer)[1]]


def _config(optimizer: Any) -> tuple[Described, list[float]]:
    """An optimizer's options, and its learning rates, which callbacks may change."""
    rates: list[float] = []

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

    return describe(optimizer, without_rates(config_of(optimizer))), rates


def _has_trained(model: keras.Model) -> bool:
    """Whether callbacks may have moved the learning rates since `compile()`."""
    begun = [optimizer for optimizer in optimizers_of(model) if compat.optimizer_variables(optimizer)]
    counts = [getattr(optimizer, "iterations", None) for optimizer in begun]
    return any(count is not None and int(count.numpy()) > 0 for count in counts)


def _layers(layers: list) -> list[dict[str, Any]]:
    """What layers compute: their options, and those of layers within them. Their names are for people."""
    found = []
    for layer in layers:
        inner = {"layers": _layers(layer.layers)} if hasattr(layer, "layers") else {}
        found.append({"name": layer.name, **inner, **describe(layer, {} if inner else _layer_config(layer))})
    return found


def _layer_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """A layer's config, with what some releases leave out and others write in another way."""
    regularizer = getattr(layer, "activity_regularizer", None)
    regularizer = regularizer and {"class_name": type(regularizer).__name__, "config": config_of(regularizer)}
    return {**config_of(layer), "activity_regularizer": regularizer, "dtype": layer.compute_dtype}


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


def _losses(loss: Any) -> dict[str, Any]:
    """The loss, or that of each output, by what it is called in an error."""
    if isinstance(loss, dict):
        return {f"loss of {output}": _loss(each) for output, each in loss.items()}
    if isinstance(loss, (list, tuple)):
        return {f"loss of output {number}": _loss(each) for number, each in enumerate(loss, 1)}
    return {"loss": _loss(loss)}


def _loss(loss: Any) -> Any:
    if loss is None or isinstance(loss, str):
        return loss
    return loss.__name__ if hasattr(loss, "__name__") else describe(loss)


def _compile_config(model: keras.Model) -> dict:
    try:
        return model.get_compile_config() or {}
    except (TypeError, ValueError, NotImplementedError):  # something of the user's that cannot be serialized
        return {}
