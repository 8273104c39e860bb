"""Iterables of batches that `fit` does not take: a `zip`, a torch `DataLoader` on Keras 2, anything with `__iter__`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import tf


def is_iterator(data: Any) -> bool:
    """Whether the data can be gone through once only."""
    return hasattr(data, "__next__")


def as_generator(batches: Iterable) -> Iterator[tuple]:
    """One pass over the batches, in the form in which Keras takes a generator: tuples of arrays."""
    for batch in batches:
        batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        yield tf.nest.map_structure(_to_array, batch)


def _to_array(leaf: Any) -> Any:
    return np.asarray(leaf) if hasattr(leaf, "__array__") and not tf.is_tensor(leaf) else leaf


def iterable_data(batches: Iterable, steps_per_epoch: int | None, **options: Any) -> compat.KerasData:
    """An iterable that can be gone through many times, read from its start in each epoch.

    Args:
        batches: What to iterate over.
        steps_per_epoch: Steps in an epoch, or `None` for a whole pass.
        **options: Of `compat.keras_data`.

    Returns:
        The data, as Keras's adapter of generators reads it.
    """

    def one_pass() -> compat.KerasData:
        return compat.keras_data(as_generator(batches), steps_per_epoch=steps_per_epoch, **options)

    first = one_pass()  # the adapter has looked at its first batches: to make a second one would look at them again

    def iterators() -> Iterator:
        yield iter(first.dataset)
        while True:
            yield iter(one_pass().dataset)

    return first._replace(
        iterators=iterators(),
        num_batches=steps_per_epoch or (len(batches) if isinstance(batches, Sized) else None),
        spans_epochs=steps_per_epoch is not None,
    )
