"""Trains a model to find something out, and leaves model, optimizer, metrics, data and random states as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.checkpoint import random_states, set_random_states, variables_of
from customfit.compat import keras, tf
from customfit.data import make_source
from customfit.execution import VariableSnapshot, compiled_steps, mutable_tables

# What a call of `custom_fit` sets on a model, besides variables.
_ATTRIBUTES = ("history", "stop_training", "train_function", "test_function", "_compiled_steps")


def unread(x: Any, y: Any) -> tuple[Any, Any]:
    """Returns data that can be read without changing what was given.

    Args:
        x: Arrays; a `tf.data.Dataset`, of which a copy is returned that shuffles by itself; or a function that makes
            data.
        y: Targets, if `x` is inputs only.

    Returns:
        `x` and `y`.

    Raises:
        ValueError: If reading it would change it, as a generator.
    """
    if callable(x) and not hasattr(x, "__getitem__"):
        made = x()
        return made if isinstance(made, tuple) else (made, y)
    if isinstance(x, tf.data.Dataset):
        return compat.copied_dataset(x), y
    if hasattr(x, "__next__") or not (_is_rows(x) and _is_rows(y)):
        raise ValueError(
            "`x` must be arrays, a `tf.data.Dataset`, or a function that makes the data: reading anything else would "
            f"change it. Pass `lambda: make_data()`. Received: x of type {type(x).__name__}"
        )
    return x, y


def _is_rows(data: Any) -> bool:
    leaves = tf.nest.flatten(data) if isinstance(data, (dict, list, tuple)) else [data]
    return all(leaf is None or hasattr(leaf, "shape") or isinstance(leaf, (int, float, str)) for leaf in leaves)


@contextlib.contextmanager
def restored(model: keras.Model, x: Any, y: Any, batch_size: int | None) -> Iterator[None]:
    """A context for training that leaves no trace.

    Args:
        model: The model, compiled.
        x: The data that will be trained on. A model without weights is built for it first.
        y: Targets, if `x` is inputs only.
        batch_size: Rows in a batch.
    """
    kept = {name: vars(model)[name] for name in _ATTRIBUTES if name in vars(model)}
    pipeline, optimizer = model.gradient_pipeline, model.optimizer
    kept_of_pipeline = pipeline.observers.recorder, pipeline.observers.schedule
    random_before = random_states()
    compat.build_optimizer(model)
    first = VariableSnapshot(variables_of(model).values(), mutable_tables(model))
    was_built = model.built
    spec = getattr(make_source(x, y, batch_size=batch_size, model=model), "element_spec", None)
    if spec is not None:
        compiled_steps(model).train.build(spec)  # all there is to restore exists from here on
    if not was_built:
        random_before = random_states()  # its weights have been drawn, as they would have been in training
    first.restore()
    before = VariableSnapshot(variables_of(model).values(), mutable_tables(model))
    try:
        yield
    finally:
        before.restore()
        pipeline.observers.recorder, pipeline.observers.schedule = kept_of_pipeline
        model.gradient_pipeline = pipeline
        assert model.optimizer is optimizer
        for name in _ATTRIBUTES:
            if name in kept:
                setattr(model, name, kept[name])
            elif name in vars(model):
                delattr(model, name)
        if random_states()["eager"] == random_before["eager"]:
            random_before = {**random_before, "eager": None}  # restoring it would start each eager op anew
        set_random_states(random_before)
