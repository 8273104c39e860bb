"""Any input that `fit()` takes, as a `Source` of blocks of steps."""

from __future__ import annotations

from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.arrays import ArraySource, are_arrays, split_rows, weigh_classes
from customfit.data.datasets import DatasetSource, check_dataset
from customfit.data.source import Block, Source

__all__ = ["ArraySource", "Block", "DatasetSource", "Source", "make_source", "make_validation_source", "split_rows"]


def make_source(
    x: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool | str = False,
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    class_weight: dict | None = None,
    model: keras.Model | None = None,
) -> Source:
    """A `Source` of the batches that `fit` would make of the same arguments.

    Args:
        x: Inputs: arrays, tensors, nested structures of them, a `tf.data.Dataset`, or a generator of batches.
        y: Targets, where `x` is inputs only.
        sample_weight: A weight for each row, where `x` is inputs only.
        batch_size: Rows in a batch, where `x` is not batched yet. Defaults to 32.
        shuffle: Whether rows of arrays come in a new order each epoch.
        steps_per_epoch: Steps in an epoch. Defaults to one pass over the data.
        epochs: How many epochs will be asked for.
        class_weight: A weight for each class id.
        model: The model, which Keras 2 needs for generators.

    Returns:
        An object with `steps`, `spent` and `blocks(size)`.

    Raises:
        ValueError: If there is no data, or its parts do not fit together.
    """
    if x is None:
        raise ValueError("`x` must be given: arrays, a `tf.data.Dataset` or a generator of batches. Received: x=None")
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
        raise ValueError(f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}")
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ValueError(f"`steps_per_epoch` must be a positive integer. Received: steps_per_epoch={steps_per_epoch!r}")
    if are_arrays(x, y, sample_weight) and shuffle in (True, False):
        if class_weight:
            sample_weight = weigh_classes(y, sample_weight, class_weight)
        return ArraySource(x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, steps_per_epoch=steps_per_epoch)
    is_dataset = isinstance(x, tf.data.Dataset)
    if is_dataset:
        check_dataset(x, steps_per_epoch)
    data = compat.keras_data(
        x,
        y,
        sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        shuffle=shuffle and not is_dataset,  # a dataset shuffles itself
        class_weight=class_weight,
        model=model,
    )
    restarts = is_dataset or hasattr(x, "__getitem__")
    return DatasetSource(data, steps_per_epoch, restarts)


def make_validation_source(
    validation_data: Any, *, batch_size: int | None = None, steps: int | None = None, model: keras.Model | None = None
) -> Source:
    """A `Source` of validation batches: `(x, y)`, `(x, y, sample_weight)`, a dataset, or a generator.

    Args:
        validation_data: The data, in one of these forms, or a `Source`.
        batch_size: Rows in a batch. Defaults to 32.
        steps: Batches in a validation pass. Defaults to all.
        model: The model, which Keras 2 needs for generators.

    Returns:
        The source, whose epochs are validation passes.
    """
    if hasattr(validation_data, "blocks"):
        return validation_data
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    return make_source(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, model=model)
