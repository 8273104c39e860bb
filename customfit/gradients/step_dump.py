"""A step that was not finite, saved and run again: `NonFinite("raise", dump=folder)`, `debug.replay(folder)`."""

from __future__ import annotations

import json
import os
import pathlib

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Batch, map_leaves
from customfit.execution import Logs, TrainableModel, VariableSnapshot, mutable_tables, read_tables, write_tables
from customfit.serialization import pack, read_tensors, unpack, write_tensors

BATCH, WRITTEN, STRUCTURE, STATE, MODEL = "batch", "batch.written", "batch.json", "state", "model.keras"


def write_batch(folder: str, batch: Batch) -> tf.Tensor:
    """Writes the tensors of a batch, from within a graph.

    Args:
        folder: The folder.
        batch: The batch.

    Returns:
        Zero, as branches of a graph must return something.
    """
    leaves = enumerate(tf.nest.flatten(batch, expand_composites=True))
    tensors = {str(index): leaf for index, leaf in leaves if leaf is not None}
    # TensorFlow prunes a branch that only saves, but not one that writes a file.
    with tf.control_dependencies([write_tensors(pathlib.Path(folder, BATCH), tensors)]):
        tf.io.write_file(f"{folder}/{WRITTEN}", "")
    return tf.constant(0)


def write_structure(folder: str, batch: Batch) -> None:
    """Writes the specs of a batch, while the step is traced.

    Args:
        folder: The folder. It is created if needed.
        batch: The batch, of symbolic tensors.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / STRUCTURE).write_text(json.dumps(pack(map_leaves(tf.type_spec_from_value, batch), BATCH, {})))


def has_batch(folder: str) -> bool:
    """Whether a folder holds a batch.

    Args:
        folder: The folder.
    """
    return (pathlib.Path(folder) / WRITTEN).exists()


def save_state(folder: str, model: TrainableModel) -> None:
    """Writes the model, and the values of all variables and tables that its step depends on.

    Args:
        folder: The folder.
        model: The model.
    """
    path = pathlib.Path(folder)
    variables = {str(index): variable for index, variable in enumerate(_state(model))}
    write_tensors(path / STATE, {**variables, **read_tables(mutable_tables(model))})
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
    batch = _read_batch(folder)
    if not model.built:
        model(keras.utils.unpack_x_y_sample_weight(batch)[0])
    guard, tables = model.gradient_pipeline.guard, mutable_tables(model)
    before = VariableSnapshot(_state(model), tables)
    policy, guard.policy = guard.policy, None  # so that the step is not undone
    tf.debugging.enable_check_numerics()
    try:
        values = read_tensors(folder / STATE)
        for index, variable in enumerate(_state(model)):
            variable.assign(values[str(index)])
        write_tables(tables, values)
        return compat.pythonify_logs(model.train_step(batch))
    finally:
        tf.debugging.disable_check_numerics()
        guard.policy = policy
        before.restore()


def _state(model: TrainableModel) -> list[tf.Variable]:
    trainable = compat.variables_in(model.trainable_variables)
    return [*map(compat.tf_variable, trainable), *compat.step_state(model)]


def _read_batch(folder: pathlib.Path) -> Batch:
    specs = unpack(json.loads((folder / STRUCTURE).read_text()), {})
    tensors = read_tensors(folder / BATCH)
    count = len(tf.nest.flatten(specs, expand_composites=True))
    leaves = [tf.constant(tensors[str(index)]) if str(index) in tensors else None for index in range(count)]
    return tf.nest.pack_sequence_as(specs, leaves, expand_composites=True)
