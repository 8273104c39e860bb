"""Values to files and back: JSON for what it can hold, TensorFlow's checkpoint format for arrays. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from customfit.compat import tf

JSON = Any  # what JSON can hold: `None`, bools, numbers, strings, and lists and dicts of such


def pack(value: object, name: str, tensors: dict[str, Any]) -> JSON:
    """A value as JSON can hold it; arrays in it go into `tensors`.

    Raises:
        TypeError: If there is something else in it than numbers, strings, arrays, and lists and dicts of such.
    """
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable)):
        tensors[name] = tf.convert_to_tensor(value)
        return {"~": "scalar" if isinstance(value, np.generic) else "array", "of": name}
    if isinstance(value, (tf.TensorSpec, tf.SparseTensorSpec, tf.RaggedTensorSpec)):
        shape = None if value.shape.rank is None else value.shape.as_list()
        ranks = [value.ragged_rank, value.row_splits_dtype.name] if isinstance(value, tf.RaggedTensorSpec) else []
        return {"~": type(value).__name__, "of": [shape, value.dtype.name, *ranks]}
    if isinstance(value, dict):
        items = [
            [pack(key, f"{name}/key{i}", tensors), pack(item, f"{name}/{i}", tensors)]
            for i, (key, item) in enumerate(value.items())
        ]
        return {"~": "dict", "of": items}
    if isinstance(value, (list, tuple)):
        items = [pack(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return items if isinstance(value, list) else {"~": "tuple", "of": items}
    raise TypeError(f"A state must be numbers, strings, arrays, lists and dicts. Received: {name}={value!r}")


def unpack(value: JSON, tensors: dict[str, np.ndarray]) -> Any:
    """What `pack` was given."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind, of = value["~"], value["of"]
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in of}
    if kind in ("TensorSpec", "SparseTensorSpec", "RaggedTensorSpec"):
        shape, dtype, *ranks = of
        return getattr(tf, kind)(shape, tf.as_dtype(dtype), *(ranks[:1] + [tf.as_dtype(name) for name in ranks[1:]]))
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in of)
    return tensors[of][()] if kind == "scalar" else tensors[of]


def write_tensors(prefix: Path, tensors: dict[str, Any]) -> tf.Operation | None:
    """Writes tensors in TensorFlow's checkpoint format.

    Returns:
        The operation, in a graph: what follows must depend on it, or it does not run. `None` where it has run.
    """
    with tf.device("cpu:0"):
        return tf.raw_ops.SaveV2(
            prefix=str(prefix),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=[tf.convert_to_tensor(tensor) for tensor in tensors.values()],
        )


def read_tensors(prefix: Path) -> dict[str, np.ndarray]:
    """Reads what `write_tensors` wrote."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def as_json(value: object) -> JSON:
    """A value as it comes back from JSON, with a description of what JSON cannot hold."""
    return json.loads(json.dumps(value, default=_described))


def _described(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return getattr(value, "__name__", None) or type(value).__name__
