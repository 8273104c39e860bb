"""`make_source`: any input that `fit()` takes, as a `Source`."""

from __future__ import annotations

import types
from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.data.arrays import ArraySource
from customfit.data.datasets import DatasetSource, check_dataset
from customfit.data.iterables import as_generator, is_iterator, iterable_data
from customfit.data.rows import are_rows, as_rows, weigh_classes
from customfit.data.source import Source


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
    resident_share: float = 0.5,
    **workers: Any,
) -> Source:
    """A `Source` of the batches that `fit` would make of the same arguments.

    Args:
        x: Inputs: anything that `fit` takes, or any iterable of batches.
        y: Targets, where `x` is inputs only.
        sample_weight: A weight for each row, where `x` is inputs only.
        batch_size: Rows in a batch, where `x` is not batched yet. Defaults to 32.
        shuffle: Whether rows of arrays, or batches of a `Sequence`, come in a new order each epoch; `"batch"` shuffles
            the rows within each batch.
        steps_per_epoch: Steps in an epoch. Defaults to one pass over the data.
        epochs: How many epochs will be asked for.
        class_weight: A weight for each class id.
        model: The model, which Keras 2 needs for generators.
        resident_share: Of the device's free memory, how much arrays may take to live there; else they are streamed.
        **workers: `workers`, `use_multiprocessing` and `max_queue_size`, as `fit` of Keras 2 takes them.

    Returns:
        An object with `steps`, `restart()`, `has_more()` and `blocks(size)`.

    Raises:
        ValueError: If there is no data, or its parts do not fit together.
    """
    _check(x, batch_size, shuffle, steps_per_epoch)
    options: dict = dict(steps_per_epoch=steps_per_epoch, epochs=epochs)
    x, y, sample_weight = as_rows(x), as_rows(y), as_rows(sample_weight)
    if are_rows(x, y, sample_weight):
        if class_weight:
            sample_weight = weigh_classes(y, sample_weight, class_weight)
        return ArraySource(
            x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, resident_share=resident_share, **options
        )
    options.update(class_weight=class_weight, model=model, **workers)
    is_dataset = hasattr(x, "element_spec")
    if is_dataset:
        check_dataset(x, steps_per_epoch)
    if is_dataset or not hasattr(x, "__iter__") or _is_keras_data(x) or tf.nest.is_nested(x):
        restarts = not is_iterator(x)
        shuffle = shuffle and not is_dataset and restarts  # a dataset shuffles itself
        data = compat.keras_data(x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, **options)
        return DatasetSource(data, steps_per_epoch, restarts, is_dataset, epochs, shuffle)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"`{name}` must be part of the batches where `x` is an iterable of them. Received: x of type "
                f"{type(x).__name__} and {name} of type {type(value).__name__}"
            )
    if is_iterator(x):
        return DatasetSource(compat.keras_data(as_generator(x), **options), steps_per_epoch, restarts=False)
    return DatasetSource(iterable_data(x, **options), steps_per_epoch, restarts=True)


def check_worker_options(options: dict) -> None:
    """Refuses a keyword argument that is none of those about workers that `fit` of Keras 2 has."""
    for name in options:
        if name not in ("workers", "use_multiprocessing", "max_queue_size"):
            raise TypeError(f"custom_fit() got an unexpected keyword argument {name!r}")


def _is_keras_data(x: Any) -> bool:
    return isinstance(x, (types.GeneratorType, keras.utils.Sequence)) or compat.is_torch_loader(x)


def _check(x: Any, batch_size: Any, shuffle: Any, steps_per_epoch: Any) -> None:
    if x is None:
        raise ValueError("`x` must be given: arrays, a `tf.data.Dataset` or a generator of batches. Received: x=None")
    for name, value in (("batch_size", batch_size), ("steps_per_epoch", steps_per_epoch)):
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < 1):
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    if shuffle not in (True, False, "batch"):
        raise ValueError(f"`shuffle` must be True, False or 'batch'. Received: shuffle={shuffle!r}")


def make_validation_sources(
    validation_data: Any, *, batch_size: int | None = None, steps: int | None = None, **options: Any
) -> dict[str, Source]:
    """Sources of validation batches, by the prefix of their logs: "val_", or "val_<name>_" for each of named sets.

    Args:
        validation_data: `(x, y)`, `(x, y, sample_weight)`, a dataset, anything else that gives batches, a `Source`, or
            a dict of such by name. (A dict of arrays is inputs, as in `fit`.)
        batch_size: Rows in a batch. Defaults to 32.
        steps: Batches in a validation pass. Defaults to all.
        **options: The model and workers, as for `make_source`.

    Returns:
        The sources, whose epochs are validation passes.
    """
    if isinstance(validation_data, dict) and validation_data and not are_rows(as_rows(validation_data)):
        return {
            f"val_{name}_{prefix[len('val_') :]}": source
            for name, data in validation_data.items()
            for prefix, source in make_validation_sources(data, batch_size=batch_size, steps=steps, **options).items()
        }
    if hasattr(validation_data, "blocks"):
        return {"val_": validation_data}
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    return {"val_": make_source(x, y, sample_weight, batch_size=batch_size, steps_per_epoch=steps, **options)}
