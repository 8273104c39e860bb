"""A step that was not finite, saved and run again: `NonFinite("raise", dump=folder)`, `debug.replay(folder)`."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Union

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Batch
from customfit.execution import Logs, TrainableModel, VariableSnapshot

BATCH, STATE, MODEL = "batch", "state.npz", "model.keras"

Described = Union[dict[str, Any], None]  # JSON: a structure of leaves, with a number and a dtype for each


def write_batch(folder: str, batch: Batch) -> tf.Tensor:
    """Writes the tensors of a batch, from within a graph.

    Args:
        folder: The folder.
        batch: The batch.

    Returns:
        Zero, as branches of a graph must return something.
    """
    for index, leaf in enumerate(tf.nest.flatten(batch, expand_composites=True)):
        if leaf is not None:
            tf.io.write_file(f"{folder}/{BATCH}/{index}", tf.io.serialize_tensor(leaf))
    return tf.constant(0)


def write_structure(folder: str, batch: Batch) -> None:
    """Writes how the tensors of a batch are nested, and their types, while the step is traced.

    Args:
        folder: The folder. It is created if needed.
        batch: The batch, of symbolic tensors.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "batch.json").write_text(json.dumps(_describe(batch)))


def has_batch(folder: str) -> bool:
    """Whether a folder holds a batch.

    Args:
        folder: The folder.
    """
    return (pathlib.Path(folder) / "batch.json").exists()


def save_state(folder: str, model: TrainableModel) -> None:
    """Writes the model, and the values of all variables that its step depends on.

    Args:
        folder: The folder.
        model: The model.
    """
    path = pathlib.Path(folder)
    np.savez(path / STATE, *[np.asarray(variable) for variable in _state(model)])
    try:
        compat.save_model(model, str(path / MODEL))
    except Exception as error:  # a user's model may fail to save in any way: `replay` then takes the model
        (path / f"{MODEL}.error").write_text(repr(error))


def replay(path: str | os.PathLike[str], model: keras.Model | None = None) -> Logs:
    """Runs a saved step again, eagerly, and checks the result of each operation.

    Args:
        path: The folder of `NonFinite(dump=)`.
        model: The model, compiled as it was. Defaults to the one that was saved. It must be given if that one cannot be
            loaded, as with a class that is not registered with Keras.

    Returns:
        The logs of the step, if every result is finite.

    Raises:
        tf.errors.InvalidArgumentError: At the first operation whose result is not finite, with the stack of the layer
            that called it.
        ValueError: If no step was saved in the folder, or the model must be given.

    Example:

    >>> customfit.debug.replay("runs/bad_step")
    """
    folder = pathlib.Path(path)
    if not has_batch(str(folder)):
        raise ValueError(
            f'`path` must be a folder in which a step was saved by `NonFinite("raise", dump=)`. Received: '
            f"path={str(path)!r}"
        )
    if model is None:
        if not (folder / MODEL).exists():
            reason = (folder / f"{MODEL}.error").read_text()
            raise ValueError(f"`model` must be given, because it could not be saved: {reason}. Received: model=None")
        model = keras.models.load_model(str(folder / MODEL))
    batch = _read(json.loads((folder / "batch.json").read_text()), folder / BATCH)
    if not model.built:
        model(keras.utils.unpack_x_y_sample_weight(batch)[0])
    guard, before = model.gradient_pipeline.guard, VariableSnapshot(_state(model))
    policy, guard.policy = guard.policy, None  # so that the step is not undone
    tf.debugging.enable_check_numerics()
    try:
        with np.load(folder / STATE) as values:
            for variable, value in zip(_state(model), values.values()):
                variable.assign(value)
        return compat.pythonify_logs(model.train_step(batch))
    finally:
        tf.debugging.disable_check_numerics()
        guard.policy = policy
        before.restore()


def _state(model: TrainableModel) -> list[tf.Variable]:
    return [*map(compat.tf_variable, model.trainable_variables), *compat.step_state(model)]


def _describe(batch: Batch, count: Iterator[int] | None = None) -> Described:
    """Returns a batch as JSON can hold it. Leaves are numbered in the order in which `tf.nest` flattens them."""
    count = itertools.count() if count is None else count
    if batch is None:
        next(count)
        return None
    if isinstance(batch, dict):
        return {"dict": {name: _describe(batch[name], count) for name in sorted(batch)}}
    if isinstance(batch, (tuple, list)):
        return {"tuple" if isinstance(batch, tuple) else "list": [_describe(part, count) for part in batch]}
    kind = {tf.RaggedTensor: "ragged", tf.SparseTensor: "sparse"}.get(type(batch), "tensor")
    parts = tf.nest.flatten(batch, expand_composites=True)
    return {kind: [(next(count), part.dtype.name) for part in parts]}


def _read(description: Described, folder: pathlib.Path) -> Batch:
    """Returns the batch that `_describe` has described."""
    if description is None:
        return None
    ((kind, parts),) = description.items()
    if kind == "dict":
        return {name: _read(part, folder) for name, part in parts.items()}
    if kind in ("tuple", "list"):
        return {"tuple": tuple, "list": list}[kind](_read(part, folder) for part in parts)
    tensors = [tf.io.parse_tensor(tf.io.read_file(str(folder / str(index))), dtype) for index, dtype in parts]
    if kind == "ragged":
        return tf.RaggedTensor.from_nested_row_splits(tensors[0], tensors[1:])
    return tf.SparseTensor(*tensors) if kind == "sparse" else tensors[0]
