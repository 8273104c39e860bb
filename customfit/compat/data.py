"""Training data as `fit` of this generation reads it: Keras's data adapters, and the rules around them.

`keras_data` passes anything that `fit` accepts through the adapters that `fit` itself uses. They are private in both
generations, but their signatures have not changed since Keras 3.0 and 2.4. The predicates state how `fit` differs
between generations for data that the package reads without an adapter.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from customfit.compat.versions import IS_KERAS_3, KERAS_VERSION, keras, module_beside_model, tf


def casts_tensors() -> bool:
    """Whether `fit` casts float tensors to `floatx`, as Keras 3 does. Every generation casts NumPy arrays."""
    return IS_KERAS_3


def gathers_composite_tensors() -> bool:
    """Whether `fit` shuffles ragged and sparse tensors in the same order as arrays. Keras 2 uses another order."""
    return IS_KERAS_3


def streams_epochs() -> bool:
    """Whether `fit` reads all epochs from one iterator, and stops training when it is exhausted, as Keras 2 does.

    Keras 3 ends only the epoch, and starts the next one from the beginning of the data.
    """
    return not IS_KERAS_3


def is_torch_loader(data: Any) -> bool:
    """Whether Keras 3 reads the data as a torch `DataLoader`. To Keras 2 it is an iterable like any other."""
    names = [(cls.__name__, cls.__module__) for cls in type(data).__mro__]
    return IS_KERAS_3 and any(name == "DataLoader" and "torch.utils.data" in module for name, module in names)


def cardinality(dataset: tf.data.Dataset | tf.distribute.DistributedDataset) -> int:
    """Returns the number of batches of a dataset. A distributed one has it as a property."""
    return int(dataset.cardinality() if isinstance(dataset, tf.data.Dataset) else dataset.cardinality)


class KerasData(NamedTuple):
    """A dataset of batches made by Keras's own data adapters, and what `fit` would do with it in each epoch.

    Attributes:
        dataset: The dataset.
        iterators: Gives a fresh iterator of the dataset for each `next`.
        num_batches: The number of batches in an epoch, if it is known.
        spans_epochs: Whether one iterator serves all epochs, each of which continues where the last one stopped.
        on_epoch_begin: To call when an epoch begins.
        on_epoch_end: To call when an epoch ends.
        on_restart: To call before the first epoch, and before each pass over validation data.
    """

    dataset: tf.data.Dataset
    iterators: Iterator[Iterator[Any]]
    num_batches: int | None
    spans_epochs: bool
    on_epoch_begin: Callable[[], None]
    on_epoch_end: Callable[[], None]
    on_restart: Callable[[], None]


def keras_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    shuffle: bool | str = False,
    class_weight: dict[int, float] | None = None,
    model: keras.Model | None = None,
    **workers: int | bool,
) -> KerasData:
    """Returns a dataset of anything that `fit` accepts. The arguments are those of `fit`."""
    options = dict(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        shuffle=shuffle,
        class_weight=class_weight,
    )
    if not IS_KERAS_3:
        return _keras_2_data(epochs=epochs, model=model, **options, **workers)
    if workers:
        raise ValueError(
            "`workers`, `use_multiprocessing` and `max_queue_size` must be given to the `keras.utils.PyDataset`, "
            f"not to `custom_fit`, in Keras 3. Received: {workers}"
        )
    return _keras_3_data(**options)


def _keras_3_data(**options: Any) -> KerasData:
    with _refused_if_empty():
        adapter = importlib.import_module("keras.src.trainers.data_adapters").get_data_adapter(**options)
    dataset, num_batches = adapter.get_tf_dataset(), _finite(adapter.num_batches)
    return KerasData(
        dataset=dataset,
        iterators=_iterators(dataset, unused_after=KERAS_VERSION >= (3, 7) and num_batches is not None),
        num_batches=num_batches,
        spans_epochs=options["steps_per_epoch"] is not None,
        on_epoch_begin=getattr(adapter, "on_epoch_begin", _nothing),
        on_epoch_end=adapter.on_epoch_end,
        on_restart=adapter.on_epoch_end if KERAS_VERSION >= (3, 7) else _nothing,
    )


def _keras_2_data(**options: Any) -> KerasData:
    with _refused_if_empty():
        handler = module_beside_model("data_adapter").get_data_handler(**options)
    adapter = handler._adapter
    return KerasData(
        dataset=handler._dataset,
        iterators=_iterators(handler._dataset, unused_before=adapter.should_recreate_iterator()),
        num_batches=handler.inferred_steps,
        spans_epochs=not adapter.should_recreate_iterator(),
        on_epoch_begin=_nothing,
        on_epoch_end=adapter.on_epoch_end,
        on_restart=_nothing,
    )


@contextlib.contextmanager
def _refused_if_empty() -> Iterator[None]:
    """Raises one error if there is no data. The adapters read a generator's first batches, and each raises its own."""
    try:
        yield
    except (StopIteration, IndexError) as error:
        raise ValueError(f"The data must give at least one batch. Received: none ({error!r})") from error


def _nothing() -> None:
    pass


def _iterators(
    dataset: tf.data.Dataset, unused_before: bool = False, unused_after: bool = False
) -> Iterator[Iterator[Any]]:
    """Yields iterators as `fit` makes them. Some it never reads, but each advances the seed of `shuffle(seed=)`."""
    if unused_before:
        iter(dataset)
    while True:
        yield iter(dataset)
        if unused_after:
            iter(dataset)


def _finite(count: float | None) -> int | None:
    return None if count is None or math.isinf(count) or count < 0 else int(count)
