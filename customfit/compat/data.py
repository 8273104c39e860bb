"""Training data as `fit` of this generation reads it: Keras's data adapters, and the rules around them.

`keras_data` passes anything that `fit` accepts through the adapters that `fit` itself uses. They are private in both
generations, but their signatures have not changed since Keras 3.0 and 2.4. The predicates state how `fit` differs
between generations for data that the package reads without an adapter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from customfit.compat.versions import IS_KERAS_3, KERAS_VERSION, keras, module_beside_model, tf


def fit_casts_tensors() -> bool:
    """Whether `fit` casts float tensors to `floatx`, as Keras 3 does. Every generation casts NumPy arrays."""
    return IS_KERAS_3


def shuffles_ragged_like_dense() -> bool:
    """Whether `fit` shuffles ragged and sparse tensors in the same order as arrays. Keras 2 uses another order."""
    return IS_KERAS_3


# Inputs of datasets that all iterators of a dataset share, and the operations that stand for one of their own.
_SHARED = {
    "ShuffleDatasetV3": (4, "DummySeedGenerator"),
    "ShuffleAndRepeatDatasetV2": (5, "DummySeedGenerator"),
    "CacheDatasetV2": (2, "DummyMemoryCache"),
}


def copied_dataset(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset of the same elements. Reading it does not change the order in which the original shuffles.

    What Python functions in the dataset keep is shared.
    """
    variant = tf.data.experimental.to_variant(dataset)
    serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)  # without a warning
    graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    for node in list(graph.node):
        if node.op in _SHARED:
            place, dummy = _SHARED[node.op]
            node.input[place] = graph.node.add(name=f"{node.name}/own", op=dummy).name
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def epochs_share_iterator() -> bool:
    """Whether `fit` reads all epochs from one iterator, and stops training when it is exhausted, as Keras 2 does.

    Keras 3 ends only the epoch, and starts the next one from the beginning of the data.
    """
    return not IS_KERAS_3


def limit_epochs(epochs: int) -> int:
    """Returns `epochs`, or fewer if `keras.config.set_max_epochs` bounds all training, as Keras 3.10 and newer can."""
    return _limited("epochs", epochs, "max_epochs")


def limit_steps(steps: int | None, name: str) -> int | None:
    """Returns `steps`, or fewer if `keras.config.set_max_steps_per_epoch` bounds all training and evaluation.

    Args:
        steps: Steps in an epoch, or `None` for all.
        name: The argument that says so.
    """
    return _limited(name, steps, "max_steps_per_epoch")


def _limited(name: str, count: Any, limit: str) -> Any:
    get_limit = getattr(getattr(keras, "config", None), limit, None)
    most = get_limit() if get_limit else None
    if not most or (count is not None and count <= most):
        return count
    warnings.warn(f"Limiting {name} to {most}, as set by `keras.config.set_{limit}({most})`.", stacklevel=3)
    return most


def is_torch_data_loader(data: Any) -> bool:
    """Whether Keras 3 reads the data as a torch `DataLoader`. To Keras 2 it is an iterable like any other."""
    names = [(cls.__name__, cls.__module__) for cls in type(data).__mro__]
    return IS_KERAS_3 and any(name == "DataLoader" and "torch.utils.data" in module for name, module in names)


def cardinality(dataset: tf.data.Dataset | tf.distribute.DistributedDataset) -> int:
    """Returns the number of batches of a dataset. A distributed one has it as a property, or does not have it."""
    if isinstance(dataset, tf.data.Dataset):
        return int(dataset.cardinality())
    return int(getattr(dataset, "cardinality", tf.data.UNKNOWN_CARDINALITY))


@dataclasses.dataclass(frozen=True)
class KerasData:
    """A dataset of batches made by Keras's own data adapters, and how `fit` of this generation iterates over it.

    A run is a call of `fit` or a pass over validation data. Which iterators `fit` makes matters even if it never reads
    them, because each one advances the seed of a `shuffle(seed=)` in the dataset.

    Attributes:
        dataset: The dataset.
        new_iterator: Makes an iterator of it.
        count_batches: The number of batches in a pass now, or `None` if it is not known.
        recounts: When `fit` counts them again: for each "run", each "epoch", or "never".
        most_after: If the number is not known, how many batches `fit` reads at most in later epochs when one had so
            many. `None`: as many as there are.
        spans_epochs: Whether one iterator serves all epochs, each of which continues where the last one stopped.
        ends_training: Whether training stops when data runs out before the end of an epoch.
        unused_first: Whether each run begins with an iterator that is never read.
        renews_at_end: Whether a new iterator is made as soon as all batches of a known number have been read, even if
            no epoch follows.
        wraps_epochs: Whether the iterator of an epoch is made before `on_epoch_begin` of the callbacks, and the data's
            `on_epoch_end` is called after theirs, and not after the epoch in which training was stopped.
        on_run_begin: To call when a run begins.
        on_epoch_begin: To call when an epoch begins.
        on_epoch_end: To call when an epoch ends.
    """

    dataset: tf.data.Dataset
    new_iterator: Callable[[], tf.data.Iterator]
    count_batches: Callable[[], int | None]
    recounts: str
    most_after: Callable[[int], int | None]
    spans_epochs: bool
    ends_training: bool
    unused_first: bool
    renews_at_end: bool
    wraps_epochs: bool
    on_run_begin: Callable[[], None]
    on_epoch_begin: Callable[[], None]
    on_epoch_end: Callable[[], None]


def validation_continues() -> bool:
    """Whether a pass of `validation_steps` continues where the last one stopped, as in Keras 3.0 to 3.6.

    In Keras 2 and from 3.7 on, each pass starts with the first batch.
    """
    return IS_KERAS_3 and KERAS_VERSION < (3, 7)


def keras_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    shuffle: bool | str = False,
    class_weight: Mapping[int, float] | None = None,
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
    return _keras_3_data(1 if model is None else int(model.steps_per_execution or 1), **options)


def _keras_3_data(steps_per_execution: int, **options: Any) -> KerasData:
    with _refused_if_empty():
        adapter = importlib.import_module("keras.src.trainers.data_adapters").get_data_adapter(**options)
    dataset, renews = adapter.get_tf_dataset(), KERAS_VERSION >= (3, 7)
    return KerasData(
        dataset=dataset,
        new_iterator=lambda: iter(dataset),
        count_batches=lambda: _finite(adapter.num_batches),
        recounts="run" if renews else "never",
        # It counts executions, and the one that finds the data's end as well.
        most_after=lambda found: steps_per_execution * (math.ceil(found / steps_per_execution) + 1),
        spans_epochs=options["steps_per_epoch"] is not None,
        ends_training=False,
        unused_first=False,
        renews_at_end=renews,
        wraps_epochs=False,
        on_run_begin=adapter.on_epoch_end if renews else _nothing,
        on_epoch_begin=getattr(adapter, "on_epoch_begin", _nothing),
        on_epoch_end=adapter.on_epoch_end,
    )


def _keras_2_data(**options: Any) -> KerasData:
    x = options["x"]
    if options["steps_per_epoch"] is None and hasattr(x, "element_spec") and not isinstance(x, tf.data.Dataset):
        return _keras_2_passes(x)
    with _refused_if_empty():
        handler = module_beside_model("data_adapter").get_data_handler(**options)
    adapter, dataset = handler._adapter, handler._dataset
    recreates = adapter.should_recreate_iterator()

    def count_batches() -> int | None:
        size = adapter.get_size()
        return _finite(cardinality(dataset)) if size is None else size

    return dataclasses.replace(
        _keras_2_passes(dataset),
        count_batches=count_batches,
        recounts="epoch" if recreates else "never",
        spans_epochs=not recreates,
        unused_first=recreates,
        on_epoch_end=adapter.on_epoch_end,
    )


def _keras_2_passes(dataset: Any) -> KerasData:
    """A dataset whose passes are epochs. `fit` refuses a distributed one; this is what it does with others."""
    return KerasData(
        dataset=dataset,
        new_iterator=lambda: iter(dataset),
        count_batches=lambda: _finite(cardinality(dataset)),
        recounts="epoch",
        most_after=lambda found: found,
        spans_epochs=False,
        ends_training=True,
        unused_first=False,
        renews_at_end=False,
        wraps_epochs=True,
        on_run_begin=_nothing,
        on_epoch_begin=_nothing,
        on_epoch_end=_nothing,
    )


@contextlib.contextmanager
def _refused_if_empty() -> Iterator[None]:
    """Raises one error if there is no data. The adapters read a generator's first batches, and each raises its own."""
    try:
        yield
    except (StopIteration, IndexError) as error:
        raise ValueError("The data must give at least one batch. Received: none") from error


def _nothing() -> None:
    pass


def _finite(count: float | None) -> int | None:
    return None if count is None or math.isinf(count) or count < 0 else int(count)
