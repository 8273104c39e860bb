"""Weights of rows: one array for every output, by name of the outputs, by class."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from customfit.arguments import did_you_mean
from customfit.compat import keras, tf


def weigh_classes(y: Any, sample_weight: Any, class_weight: Mapping[float, float]) -> np.ndarray:
    """Returns sample weights in which each row counts as its class does, times its own weight if it has one.

    Args:
        y: Class ids of shape `(rows,)` or `(rows, 1)`, or one-hot rows of shape `(rows, classes)`.
        sample_weight: Weights of shape `(rows,)` or `(rows, 1)`, or `None`.
        class_weight: A weight for each class id; a class that is missing counts 1.

    Returns:
        Weights of the shape of the class ids.

    Raises:
        ValueError: If there are several targets, or none.
    """
    if y is None or tf.nest.is_nested(y):
        raise ValueError(
            "`class_weight` must be used with the targets of a single output. Received: "
            f"{'no targets' if y is None else 'several targets'} in `y`"
        )
    y = np.asarray(y)
    ids = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(y.shape[: max(1, y.ndim - 1)])
    weights = np.ones(ids.shape, dtype=keras.backend.floatx())
    for class_id, weight in class_weight.items():
        weights[np.round(ids).astype("int64") == int(class_id)] = weight
    if sample_weight is None:
        return weights
    sample_weight = np.asarray(sample_weight)
    if sample_weight.ndim > ids.ndim and sample_weight.shape[-1] == 1:
        sample_weight = sample_weight[..., 0]
    return weights * sample_weight.reshape(sample_weight.shape + (1,) * (ids.ndim - sample_weight.ndim))


def check_class_weight(class_weight: Any) -> dict[float, float] | None:
    """Returns `class_weight` as a dict from class ids to weights, or `None` if there is none.

    Raises:
        ValueError: If it is anything else.
    """
    if class_weight is None:
        return None
    must = "`class_weight` must be a dict from class ids to weights, as in {0: 1.0, 1: 2.5}."
    if isinstance(class_weight, str):
        raise ValueError(
            f"{must} Weights that balance the classes can be computed by "
            f"`sklearn.utils.class_weight.compute_class_weight`. Received: class_weight={class_weight!r}"
        )
    if not callable(getattr(class_weight, "items", None)):  # a `Series` has it, too
        advice = " For a list of weights by class, pass `dict(enumerate(class_weight))`."
        received = f"class_weight of type {type(class_weight).__name__}"
        raise ValueError(f"{must}{advice if hasattr(class_weight, '__len__') else ''} Received: {received}")
    found = dict(class_weight.items())
    for class_id, weight in found.items():
        if not isinstance(class_id, (numbers.Real, np.bool_)):
            advice = " The ids are those in `y`, not the names of the classes."
            raise ValueError(f"{must}{advice} Received: a key {class_id!r} of type {type(class_id).__name__}")
        if not isinstance(weight, numbers.Real) and getattr(weight, "shape", None) != ():
            raise ValueError(f"{must} Received: a weight {weight!r} of type {type(weight).__name__}")
    return found or None


def match_outputs(y: Any, sample_weight: Any, output_names: Sequence[str] | None) -> Any:
    """Returns sample weights in the structure of `y`, if there are several outputs.

    One array holds for every output. In a dict, an output that is missing has no weights.

    Args:
        y: Targets.
        sample_weight: Weights, or `None`.
        output_names: The names of the model's outputs, if they are known.

    Raises:
        ValueError: If a name is that of no output.
    """
    if sample_weight is None or not tf.nest.is_nested(y):
        return sample_weight
    if not tf.nest.is_nested(sample_weight):
        return tf.nest.map_structure(lambda _: sample_weight, y)
    if not isinstance(sample_weight, Mapping):
        if not isinstance(y, Mapping) and len(sample_weight) != len(y):
            raise ValueError(
                f"`sample_weight` must have an array, or `None`, for each of the {len(y)} outputs. Received: a "
                f"{type(sample_weight).__name__} of {len(sample_weight)}"
            )
        return sample_weight
    names = list(y) if isinstance(y, Mapping) else list(output_names or ())
    if len(names) != len(y):
        raise ValueError(
            "`sample_weight` must be a list, one array an output, when `y` is one and the model's outputs have no "
            f"names. Received: sample_weight with keys {', '.join(map(repr, sample_weight))}"
        )
    for name in sample_weight:
        if name not in names:
            raise ValueError(
                f"`sample_weight` must be by the names of outputs: {', '.join(map(repr, names))}."
                f"{did_you_mean(str(name), map(str, names))} Received: sample_weight with a key {name!r}"
            )
    if isinstance(y, Mapping):
        return {name: sample_weight.get(name) for name in names}
    return type(y)(sample_weight.get(name) for name in names)
