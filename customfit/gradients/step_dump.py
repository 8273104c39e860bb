"""A step that was not finite, saved to be looked at: `NonFinite("raise", dump=folder)`."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import VariableSnapshot

BATCH, STATE, MODEL = "batch", "state.npz", "model.keras"


def write_batch(folder: str, batch: Any) -> tf.Tensor:
    """Writes a batch into a folder, from within a graph."""
    for index, leaf in enumerate(tf.nest.flatten(batch, expand_composites=True)):
        if leaf is not None:
            tf.io.write_file(f"{folder}/{BATCH}/{index}", tf.io.serialize_tensor(leaf))
    return tf.constant(0)


def write_structure(folder: str, batch: Any) -> None:
    """Writes what the batch is made of, when the step is traced: how leaves were nested, and their types."""
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "batch.json").write_text(json.dumps(_described(batch)))


def has_batch(folder: str) -> bool:
    """Whether a batch was written there."""
    return (pathlib.Path(folder) / "batch.json").exists()


def save_state(folder: str, model: Any) -> None:
    """Writes the model and all that a step depends on, as it is now."""
    path = pathlib.Path(folder)
    np.savez(path / STATE, *[np.asarray(variable) for variable in _state(model)])
    try:
        compat.save_model(model, str(path / MODEL))
    except Exception as error:  # whatever in a user's model cannot be saved: the state is, and replay takes a model
        (path / f"{MODEL}.error").write_text(repr(error))


def replay(path: Any, model: keras.Model | None = None) -> dict:
    """Runs a saved step again, eagerly and with every operation's result checked.

    Args:
        path: The folder of `NonFinite(dump=)`.
        model: The model, compiled as it was. Defaults to the one that was saved; it must be given if that could not be
            loaded, as with a class that Keras does not know.

    Returns:
        The logs of the step, if nothing in it was found that is not finite.

    Raises:
        tf.errors.InvalidArgumentError: From the first operation whose result is not finite, with the stack of the layer
            that called it.

    Example:

    >>> customfit.debug.replay("runs/bad_step")
    """
    folder = pathlib.Path(path)
    if not has_batch(str(folder)):
        raise ValueError(f"`path` must be a folder in which a step was saved. Received: path={str(path)!r}")
    if model is None:
        if not (folder / MODEL).exists():
            reason = (folder / f"{MODEL}.error").read_text()
            raise ValueError(f"`model` must be given, since it could not be saved ({reason}). Received: model=None")
        model = keras.models.load_model(str(folder / MODEL))
    batch = _read(json.loads((folder / "batch.json").read_text()), folder / BATCH)
    if not model.built:
        model(keras.utils.unpack_x_y_sample_weight(batch)[0])
    guard, kept = model.gradient_pipeline.guard, VariableSnapshot(_state(model))
    policy, guard.policy = guard.policy, None  # the step is to be seen as it was
    tf.debugging.enable_check_numerics()
    try:
        with np.load(folder / STATE) as values:
            for variable, value in zip(_state(model), values.values()):
                variable.assign(value)
        return compat.pythonify_logs(model.train_step(batch))
    finally:
        tf.debugging.disable_check_numerics()
        guard.policy = policy
        kept.restore()


def _state(model: Any) -> list:
    return [*map(compat.tf_variable, model.trainable_variables), *compat.step_state(model)]


def _described(batch: Any, count: Iterator[int] | None = None) -> Any:
    """A structure of leaves, for JSON. Leaves are numbered in the order in which `tf.nest` flattens them."""
    count = itertools.count() if count is None else count
    if batch is None:
        next(count)
        return None
    if isinstance(batch, dict):
        return {"dict": {name: _described(batch[name], count) for name in sorted(batch)}}
    if isinstance(batch, (tuple, list)):
        return {"tuple" if isinstance(batch, tuple) else "list": [_described(part, count) for part in batch]}
    kind = {tf.RaggedTensor: "ragged", tf.SparseTensor: "sparse"}.get(type(batch), "tensor")
    parts = tf.nest.flatten(batch, expand_composites=True)
    return {kind: [(next(count), part.dtype.name) for part in parts]}


def _read(description: Any, folder: pathlib.Path) -> Any:
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
