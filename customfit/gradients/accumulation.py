"""Gradient accumulation: the gradients of several micro-batches make one update, as those of one large batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from customfit.compat import tf
from customfit.execution import replicas
from customfit.gradients.clipping import Gradient


class Accumulator:
    """The sum of the gradients of the micro-batches so far, each times its rows.

    The loss of a batch is the mean over its rows. So the gradient of the large batch is the mean of those of its
    micro-batches, in which each counts as many times as it has rows. (Not so where rows are masked within the loss:
    there each micro-batch's mean is its own.) Slices are summed into dense rows.

    Args:
        variables: The variables that the gradients are of.
        steps: How many micro-batches make one update.

    Attributes:
        variables: What it holds: the sums, the rows and the number of micro-batches.
    """

    def __init__(self, variables: Sequence[Any], steps: int):
        self._steps = steps
        self._sums = [
            replicas.variable(tf.zeros(variable.shape, variable.dtype), f"accumulated_gradient_{index}", summed=True)
            for index, variable in enumerate(variables)
        ]
        self._rows = replicas.variable(0.0, "accumulated_rows", summed=True)
        self._count = replicas.variable(tf.constant(0, tf.int64), "accumulated_steps")
        self.variables = [*self._sums, self._rows, self._count]

    def add(self, gradients: Sequence[Gradient], rows: tf.Tensor) -> tf.Tensor:
        """Adds the gradients of a micro-batch of so many rows. Returns how many micro-batches there are."""
        rows = tf.cast(rows, tf.float32)
        for total, gradient in zip(self._sums, gradients):
            if isinstance(gradient, tf.IndexedSlices):
                values = gradient.values * tf.cast(rows, gradient.dtype)
                if replicas.replica_count() == 1:
                    total.scatter_add(tf.IndexedSlices(values, gradient.indices))
                else:  # what each replica has of its own takes no slices
                    total.assign_add(tf.tensor_scatter_nd_add(tf.zeros_like(total), gradient.indices[:, None], values))
            elif gradient is not None:
                total.assign_add(gradient * tf.cast(rows, gradient.dtype))
        self._rows.assign_add(rows)
        return self.skip()

    def skip(self) -> tf.Tensor:
        """Counts a micro-batch, of which nothing is added. Returns how many there are."""
        self._count.assign_add(1)
        return self.count()

    def count(self) -> tf.Tensor:
        """How many micro-batches there are."""
        return self._count.read_value()

    def is_full(self) -> tf.Tensor:
        """Whether there are as many micro-batches as make an update."""
        return self._count >= self._steps

    def has_rows(self) -> tf.Tensor:
        """Whether there is anything to apply, on any replica: not where all micro-batches were skipped."""
        return replicas.on_any_replica(self._rows > 0)

    def pop(self, among: Sequence[Gradient]) -> list[Gradient]:
        """The gradients of all micro-batches so far, over all replicas; then it is empty.

        Args:
            among: Gradients that are `None` where there never is one.
        """
        sums = [None if gradient is None else total.read_value() for total, gradient in zip(self._sums, among)]
        *sums, rows = replicas.sum_over_replicas([*sums, self._rows.read_value()])
        # Each replica's loss is divided by their number already, and here the sum over them by all of their rows.
        rows = tf.maximum(rows, 1.0) / replicas.replica_count()
        gradients = [None if total is None else total / tf.cast(rows, total.dtype) for total in sums]
        with tf.control_dependencies([gradient for gradient in gradients if gradient is not None]):
            self.clear()
        return gradients

    def clear(self) -> tf.Tensor:
        """Forgets all micro-batches. Returns how many there are."""
        for variable in self.variables:
            variable.assign(tf.zeros_like(variable))
        return tf.constant(0, tf.int64)
