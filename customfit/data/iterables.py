"""Iterables of batches that `fit` does not take: a `zip`, a torch `DataLoader` on Keras 2, anything with `__iter__`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import tf
from customfit.data.source import Batch


def is_iterator(data: object) -> bool:
    """Whether the data can be iterated over only once."""
    return hasattr(data, "__next__")


def as_generator(batches: Iterable[Batch]) -> Iterator[tuple]:
    """Yields the batches of one pass in the form in which Keras takes a generator's: tuples of arrays."""
    for batch in batches:
        batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        yield tf.nest.map_structure(_to_array, batch)


def _to_array(leaf: Any) -> Any:
    return np.asarray(leaf) if hasattr(leaf, "__array__") and not tf.is_tensor(leaf) else leaf


def iterable_data(batches: Iterable[Batch], steps_per_epoch: int | None, **options: Any) -> compat.KerasData:
    """Returns an iterable, which can be iterated over many times, in the form of the data that `fit` takes.

    It is read from its start in each epoch, and an epoch has as many batches as it then gives.

    Args:
        batches: What to iterate over.
        steps_per_epoch: Steps in an epoch, or `None` for a whole pass.
        **options: Of `compat.keras_data`.
    """

    def one_pass() -> compat.KerasData:
        return compat.keras_data(as_generator(batches), steps_per_epoch=steps_per_epoch, **options)

    first = one_pass()
    passes = [first]  # the adapter has read its first batches already: another one would read them again

    return dataclasses.replace(
        first,
        new_iterator=lambda: iter((passes.pop() if passes else one_pass()).dataset),
        count_batches=lambda: len(batches) if isinstance(batches, Sized) else None,
        recounts="epoch",
        most_after=lambda found: None,
        spans_epochs=steps_per_epoch is not None,
        unused_first=False,
        renews_at_end=False,
        wraps_epochs=False,
    )
