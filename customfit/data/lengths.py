"""How many batches an epoch has, as `fit` counts them, and when to say that it leaves some out."""

from __future__ import annotations

import math
import warnings
from typing import Any

from customfit import compat
from customfit.compat import tf


class EpochLength:
    """How many batches an epoch has: as many as were asked for, or as a pass has.

    If nobody knows how many a pass has, they are counted in the first one.

    Args:
        data: The data, with the rules by which `fit` counts.
        asked: `steps_per_epoch`, or `None`.

    Attributes:
        asked: `steps_per_epoch`, or `None`.
        count: Batches in a pass, or `None` if that is not known yet.
        steps: Steps in an epoch, as far as is known.
    """

    def __init__(self, data: compat.KerasData, asked: int | None):
        self._data = data
        self.asked = asked
        self.count = data.count_batches()
        self.steps = asked or self.count
        self._has_warned = False

    @property
    def most(self) -> int | None:
        """How many steps an epoch has at most, or `None` if only the data ends it."""
        return self.asked or self.count

    def recount(self) -> None:
        """Counts the batches of a pass again, before the first epoch of a run."""
        self.count = self._data.count_batches()
        self.steps = self.most or self.steps

    def begin_epoch(self) -> None:
        """Counts them again before an epoch, if `fit` does so and the data can tell."""
        if self._data.recounts == "epoch":
            self.count = self._data.count_batches() or self.count
            self.steps = self.most or self.steps

    def end_data(self, read: int, seen: int) -> bool:
        """Records that a pass has ended before an epoch had its steps, if those were known.

        Args:
            read: Batches read in the pass.
            seen: Batches read in the epoch.

        Returns:
            Whether the epoch is shorter than it should be.
        """
        was_known = self.count is not None
        if not was_known and (self.asked is None or self._data.renews_at_end):
            self.count = self._data.most_after(read)
        if self.asked is not None:
            return True
        if was_known and (self._data.ends_training or self._data.count_batches() is not None):
            return True
        self.steps = seen
        return False

    def warn_if_longer(self) -> None:
        """Warns if a pass is known to have more batches than an epoch reads of it."""
        now = self._data.count_batches()
        if self.asked is None and self.count is not None and now is not None and now > self.count:
            self._warn(f"now has {now} batches")

    def warn_if_more(self, iterator: Any, seen: int) -> None:
        """Warns if there are more batches in a pass of which `fit` reads only as many as earlier ones had.

        It can only be seen by reading one of them: to be asked when no later epoch can differ by that.

        Args:
            iterator: That of the pass.
            seen: Batches read in the epoch.
        """
        was_counted = self.asked is None and seen == self.count and self._data.count_batches() is None
        if was_counted and not self._has_warned and iterator.get_next_as_optional().has_value():
            self._warn("now has more batches")

    def _warn(self, has: str) -> None:
        if not self._has_warned:
            warnings.warn(
                f"The data {has}, and an epoch reads only {self.count}: they are counted once, as in `fit` of this "
                "Keras. Pass `steps_per_epoch` or `validation_steps`, or train each length with a call of its own.",
                stacklevel=2,
            )
        self._has_warned = True


def is_dataset(data: object) -> bool:
    """Whether it is a `tf.data.Dataset`, or one that is distributed already."""
    return hasattr(data, "element_spec")


def batches_in(dataset: tf.data.Dataset) -> float | None:
    """The number of batches, infinite for a dataset that repeats without end; `None` if it is not known."""
    cardinality = compat.cardinality(dataset)
    if cardinality == tf.data.INFINITE_CARDINALITY:
        return math.inf
    return None if cardinality == tf.data.UNKNOWN_CARDINALITY else cardinality


def check_dataset(batches: float | None, steps: int | None, name: str, steps_name: str) -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch.

    Args:
        batches: What `batches_in` has found.
        steps: Steps in an epoch.
        name: The argument that it was given as.
        steps_name: The argument that gives `steps`.
    """
    if batches == 0:
        raise ValueError(f"`{name}` must have at least one batch. Received: a dataset of cardinality 0")
    if batches == math.inf and steps is None:
        raise ValueError(
            f"`{steps_name}` must be given for a dataset that repeats without end. Received: {steps_name}=None"
        )
