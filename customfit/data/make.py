"""`make_source`: any input that `fit()` takes, as a `Source`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from customfit import compat
from customfit.arguments import as_count
from customfit.compat import keras, tf
from customfit.data.arrays import DEFAULT_BATCH_SIZE, ArraySource
from customfit.data.conversion import as_rows
from customfit.data.datasets import DatasetSource
from customfit.data.first import FirstBatches
from customfit.data.iterables import as_generator, is_iterator, iterable_data
from customfit.data.lengths import batches_in, check_dataset, is_dataset
from customfit.data.rows import are_rows, count_rows, map_leaves, pack, to_tensor
from customfit.data.shares import dataset_share, is_distributed
from customfit.data.source import Batch, Source, is_source
from customfit.data.weights import check_class_weight, match_outputs, weigh_classes
from customfit.workers import Workers


@dataclasses.dataclass(frozen=True)
class ArgumentNames:
    """What the method that the user called names the arguments of `make_source`: errors use those names."""

    x: str = "x"
    steps: str = "steps_per_epoch"
    batch_size: str = "batch_size"
    is_whole: bool = False  # whether `x` may be a tuple that holds targets and weights as well

    def parts(self, y: Any) -> tuple[str, str, str]:
        """The names of inputs, targets and weights."""
        if self.is_whole and y is not None:
            return f"{self.x}[0]", f"{self.x}[1]", f"{self.x}[2]"
        return self.x, "y", "sample_weight"


FIT = ArgumentNames()
EVALUATE = ArgumentNames(steps="steps")
VALIDATION = ArgumentNames("validation_data", "validation_steps", "validation_batch_size", is_whole=True)


def make_source(
    x: Any = None,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool | str | None = None,
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    class_weight: Mapping[int, float] | None = None,
    model: keras.Model | None = None,
    names: ArgumentNames = FIT,
    continues: bool = False,
    **workers: int,
) -> Source:
    """Returns a `Source` of the batches that `fit` would make of the same arguments.

    Args:
        x: Inputs: anything that `fit` takes, any iterable of batches, a function of a `tf.distribute.InputContext` that
            returns a dataset, or a `Source`, which is returned as it is.
        y: Targets, if `x` is inputs only.
        sample_weight: A weight for each row, if `x` is inputs only.
        batch_size: Rows in a batch, if `x` is not batched yet. Defaults to 32.
        shuffle: Whether rows of arrays, or batches of a `Sequence`, come in a new order each epoch; `"batch"` shuffles
            the rows within each batch. `None`: they do not, and a `Source` is free to.
        steps_per_epoch: Steps in an epoch. Defaults to one pass over the data.
        epochs: How many epochs will be asked for.
        class_weight: A weight for each class id.
        model: The model, which Keras 2 needs for generators.
        names: What the caller's arguments are called.
        continues: Whether a pass over validation data continues where the last one stopped.
        **workers: `workers`, `use_multiprocessing` and `max_queue_size`, as `fit` of Keras 2 takes them.

    Raises:
        ValueError: If there is no data, its parts do not fit together, or an argument beside a `Source` is set that
            the source decides.
    """
    if x is None:
        raise ValueError(
            f"`{names.x}` must be given: arrays, a `tf.data.Dataset` or a generator of batches. "
            f"Received: {names.x}=None"
        )
    if is_source(x):
        decided: dict[str, Any] = {
            names.batch_size: batch_size,
            names.steps: steps_per_epoch,
            "class_weight": class_weight,
            **workers,
        }
        if shuffle is not True:  # the default of `custom_fit`
            decided["shuffle"] = shuffle
        _check_alone(x, names, y=y, sample_weight=sample_weight, **decided)
        most = compat.limit_steps(x.steps, names.steps)
        return x if most is None or most == x.steps else FirstBatches(x, most)
    if batch_size is not None:
        batch_size = as_count(names.batch_size, batch_size)
    if steps_per_epoch is not None:
        steps_per_epoch = as_count(names.steps, steps_per_epoch)
    steps_per_epoch = compat.limit_steps(steps_per_epoch, names.steps)
    together = Workers.of(tf.distribute.get_strategy() if model is None else model.distribute_strategy)
    share = dataset_share(x, together)
    if share is not None:
        x = share.dataset
        if class_weight and is_distributed(x):
            raise ValueError(
                "`class_weight` must not be given with a distributed dataset, whose batches are out of reach. Put the "
                f"weights in its batches. Received: class_weight={class_weight!r}"
            )
    if shuffle not in (None, True, False, "batch"):
        raise ValueError(f"`shuffle` must be True, False or 'batch'. Received: shuffle={shuffle!r}")
    shuffle = shuffle or False
    weights_by_class = check_class_weight(class_weight)
    parts = {name: as_rows(part, name) for name, part in zip(names.parts(y), (x, y, sample_weight))}
    _check_not_empty(parts)
    x, y, sample_weight = parts.values()
    if are_rows(x, y, sample_weight):
        count_rows(parts)
        if weights_by_class:
            sample_weight = weigh_classes(y, sample_weight, weights_by_class)
        sample_weight = match_outputs(y, sample_weight, getattr(model, "output_names", None))
        options: dict[str, Any] = dict(batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)
        return ArraySource(x, y, sample_weight, shuffle=shuffle, continues=continues, workers=together, **options)
    options = dict(
        steps_per_epoch=steps_per_epoch, epochs=epochs, class_weight=weights_by_class, model=model, **workers
    )
    if not (is_dataset(x) or _is_keras_data(x)):
        _check_targets_in_batches(x, names, y=y, sample_weight=sample_weight)
        data = compat.keras_data(as_generator(x), **options) if is_iterator(x) else iterable_data(x, **options)
        return DatasetSource(data, steps_per_epoch, restarts=not is_iterator(x), must_have_data=not names.is_whole)
    if is_dataset(x):
        batches = batches_in(x) if share is None else share.steps
        check_dataset(batches, steps_per_epoch, names.x, names.steps)
    # A dataset shuffles itself, and a generator cannot be shuffled.
    shuffle = shuffle and not is_dataset(x) and not is_iterator(x)
    return DatasetSource(
        compat.keras_data(x, y, sample_weight, batch_size=batch_size, shuffle=shuffle, **options),
        steps_per_epoch,
        restarts=not is_iterator(x),
        is_dataset=is_dataset(x),
        epochs=epochs,
        shuffle=shuffle,
        continues=continues,
        must_have_data=not names.is_whole,
        share=share,
    )


def make_evaluation_source(
    x: Any = None, y: Any = None, sample_weight: Any = None, *, steps: int | None = None, **options: Any
) -> Source:
    """Returns a `Source` of the batches that `evaluate` would make of the same arguments.

    Args:
        x: Inputs, batches or a `Source`, as for `make_source`.
        y: Targets, if `x` is inputs only.
        sample_weight: A weight for each row, if `x` is inputs only.
        steps: Batches in the pass. Defaults to all.
        **options: `batch_size`, the model and workers, as for `make_source`.
    """
    return make_source(x, y, sample_weight, steps_per_epoch=steps, names=EVALUATE, **options)


def as_single_batch(x: Any, batch_size: int | None) -> Batch | None:
    """Returns inputs as one batch of tensors, without a `Source`, if they are dense arrays of few rows.

    Args:
        x: Inputs, batches or a `Source`, as for `make_source`.
        batch_size: The most rows that are one batch. Defaults to 32.

    Returns:
        The batch, or `None` if `x` is anything else. Then `make_source` takes it, or says what is wrong with it.
    """
    most = DEFAULT_BATCH_SIZE if batch_size is None else as_count("batch_size", batch_size)
    x = as_rows(x)
    leaves = tf.nest.flatten(x) if tf.nest.is_nested(x) else [x]
    if not all(isinstance(leaf, (np.ndarray, tf.Tensor)) and are_rows(leaf) for leaf in leaves):
        return None
    counts = {leaf.shape[0] if len(leaf.shape) else 0 for leaf in leaves}
    if len(counts) != 1 or not 0 < counts.pop() <= most:
        return None
    return map_leaves(to_tensor, pack(x))


def validation_arguments(
    validation_data: Any, *, batch_size: int | None = None, steps: int | None = None
) -> dict[str, dict[str, Any]]:
    """Returns what `fit` would call `evaluate` with, by the prefix of the logs.

    The prefix is "val_", or "val_<name>_" for each of several named sets.

    Args:
        validation_data: `(x, y)`, `(x, y, sample_weight)`, a dataset, anything else that gives batches, a `Source`, or
            a dict of such by name. (A dict of arrays is inputs, as in `fit`.) `None`: there is none.
        batch_size: Rows in a batch. Defaults to 32. In a dict, it holds for the sets that are not a `Source`.
        steps: Batches in a validation pass. Defaults to all.
    """
    if validation_data is None:
        return {}
    if isinstance(validation_data, dict) and _are_named_sets(validation_data):
        named = {}
        for name, data in validation_data.items():
            rows = None if is_source(data) else batch_size
            for prefix, arguments in validation_arguments(data, batch_size=rows, steps=steps).items():
                named[f"val_{name}_{prefix[len('val_') :]}"] = arguments
        return named
    if isinstance(validation_data, (dict, list, tuple)) and not validation_data:
        raise ValueError(
            "`validation_data` must be `(x, y)`, a dataset or other data; leave it out to train without validation. "
            f"Received: validation_data={validation_data!r}"
        )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation_data)
    return {"val_": dict(x=x, y=y, sample_weight=sample_weight, batch_size=batch_size, steps=steps)}


def _are_named_sets(data: Mapping[str, Any]) -> bool:
    """Whether a dict is sets by name, one of them `(x, y)` or no arrays at all; otherwise it is inputs by name."""
    return bool(data) and (any(isinstance(given, tuple) for given in data.values()) or not are_rows(as_rows(data)))


def make_validation_source(
    x: Any = None, y: Any = None, sample_weight: Any = None, *, steps: int | None = None, **options: Any
) -> Source:
    """Returns a `Source` of validation batches.

    Args:
        x: Inputs, batches or a `Source`, as for `make_source`.
        y: Targets, if `x` is inputs only.
        sample_weight: A weight for each row, if `x` is inputs only.
        steps: Batches in a pass. Defaults to all.
        **options: `batch_size`, the model and workers, as for `make_source`.
    """
    continues = steps is not None and compat.validation_continues()
    return make_source(x, y, sample_weight, steps_per_epoch=steps, names=VALIDATION, continues=continues, **options)


def default_batch_size(validation_data: Any, given: int | None, of_training: int | None) -> int | None:
    """Returns the `batch_size` of validation data: that of training unless given, or none for a `Source`."""
    return of_training if given is None and not is_source(validation_data) else given


def _check_alone(source: Source, names: ArgumentNames, **others: Any) -> None:
    """Refuses arguments that say what a source decides itself."""
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"`{name}` must not be given when `{names.x}` is a `Source`: the source makes its own batches. "
                f"Received: {names.x} of type {type(source).__name__}, {name}={_short(value)}"
            )


def _check_targets_in_batches(x: Any, names: ArgumentNames, **others: Any) -> None:
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"When `{names.x}` yields batches, put the {'targets' if name == 'y' else 'weights'} in each batch, "
                f"not in `{name}`. Received: {names.x} of type {type(x).__name__} and {name} of type "
                f"{type(value).__name__}"
            )


def _short(value: object) -> str:
    return repr(value) if isinstance(value, (bool, int, float, str, dict)) else f"<{type(value).__name__}>"


def _is_keras_data(x: Any) -> bool:
    """Whether Keras has a data adapter for it, or an error of its own."""
    known = isinstance(x, (types.GeneratorType, keras.utils.Sequence)) or compat.is_torch_data_loader(x)
    return known or not hasattr(x, "__iter__") or tf.nest.is_nested(x)


def _check_not_empty(parts: Mapping[str, Any]) -> None:
    """Refuses lists, tuples and dicts with nothing in them, and a `Sequence` of no batch."""
    for name, part in parts.items():
        if isinstance(part, keras.utils.Sequence) and hasattr(part, "__len__") and len(part) == 0:
            raise ValueError(f"`{name}` must have at least one batch. Received: a {type(part).__name__} of length 0")
        if tf.nest.is_nested(part) and not tf.nest.flatten(part):
            raise ValueError(f"`{name}` must not be empty. Received: {name}={part!r}")
