"""Gradient accumulation: several micro-batches make one update, as one large batch would."""

from __future__ import annotations

from collections.abc import Sequence

from customfit.compat import tf
from customfit.execution import replicas
from customfit.gradients.clipping import Gradient


class Accumulator:
    """Sums the gradients of micro-batches, each times its number of rows.

    The loss of a batch is the mean over its rows. So the gradient of the large batch is the mean of the gradients of
    its micro-batches, weighted by their rows. (If the loss masks rows, each micro-batch is averaged over its own.)
    Slices are summed into dense rows.

    Args:
        variables: The variables of the gradients.
        steps: How many micro-batches make one update.

    Attributes:
        variables: The state: the sums, the rows and the number of micro-batches.
    """

    def __init__(self, variables: Sequence[tf.Variable], steps: int):
        self._steps = steps
        self._sums = [
            replicas.variable(tf.zeros(variable.shape, variable.dtype), f"accumulated_gradient_{index}", summed=True)
            for index, variable in enumerate(variables)
        ]
        self._rows = replicas.variable(0.0, "accumulated_rows", summed=True)
        self._count = replicas.variable(tf.constant(0, tf.int64), "accumulated_steps")
        self.variables = [*self._sums, self._rows, self._count]

    def add(self, gradients: Sequence[Gradient], rows: tf.Tensor | int) -> tf.Tensor:
        """Adds a micro-batch.

        Args:
            gradients: Its gradients, one a variable.
            rows: How many rows it has.

        Returns:
            How many micro-batches there are.
        """
        rows = tf.cast(rows, tf.float32)
        # A replica's loss was divided by the number of replicas, which may be another one when the run resumes.
        weight = rows * replicas.replica_count()
        for total, gradient in zip(self._sums, gradients):
            if isinstance(gradient, tf.IndexedSlices):
                values = gradient.values * tf.cast(weight, gradient.dtype)
                if replicas.is_alone():
                    total.scatter_add(tf.IndexedSlices(values, gradient.indices))
                else:  # a replica's own copy of a variable has no `scatter_add`
                    total.assign(tf.tensor_scatter_nd_add(total.read_value(), gradient.indices[:, None], values))
            elif gradient is not None:
                total.assign_add(gradient * tf.cast(weight, gradient.dtype))
        self._rows.assign_add(rows)
        return self.skip()

    def skip(self) -> tf.Tensor:
        """Counts a micro-batch without adding it. Returns how many there are."""
        self._count.assign_add(1)
        return self.count()

    def count(self) -> tf.Tensor:
        """Returns how many micro-batches there are."""
        return self._count.read_value()

    def is_full(self) -> tf.Tensor:
        """Whether there are enough micro-batches for an update."""
        return self._count >= self._steps

    def has_rows(self) -> tf.Tensor:
        """Whether any replica has something to apply: it has not if all micro-batches were skipped."""
        return replicas.on_any_replica(self._rows > 0)

    def pop(self, has_gradient: Sequence[bool]) -> list[Gradient]:
        """Returns the mean gradients of the micro-batches over all replicas, and forgets the micro-batches.

        Args:
            has_gradient: For each variable, whether it has a gradient. The others get `None`.
        """
        sums = [total.read_value() if has else None for total, has in zip(self._sums, has_gradient)]
        *sums, rows = replicas.sum_over_replicas([*sums, self._rows.read_value()])
        rows = tf.maximum(rows, 1.0)
        gradients = [None if total is None else total / tf.cast(rows, total.dtype) for total in sums]
        with tf.control_dependencies([gradient for gradient in gradients if gradient is not None]):
            self.clear()
        return gradients

    def clear(self) -> tf.Tensor:
        """Forgets all micro-batches. Returns how many there are: none."""
        for variable in self.variables:
            variable.assign(tf.zeros_like(variable))
        return tf.constant(0, tf.int64)
