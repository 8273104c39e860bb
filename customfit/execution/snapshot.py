"""The values of variables at one moment."""

from __future__ import annotations

from collections.abc import Iterable

from customfit.compat import tf
from customfit.execution import replicas


class VariableSnapshot:
    """Holds the values that variables have now, in order to restore them.

    Args:
        variables: The variables.
    """

    def __init__(self, variables: Iterable[tf.Variable]):
        self._values = [(variable, tf.identity(variable)) for variable in variables]

    def restore(self) -> None:
        """Restores the values."""
        for variable, value in self._values:
            variable.assign(value)

    def restore_where(self, condition: tf.Tensor) -> None:
        """Restores the values in a graph, if a condition holds.

        Args:
            condition: A scalar, the same on all replicas.
        """
        if replicas.replica_count() == 1:
            replicas.run_if(condition, lambda _: self.restore(), [])
            return
        for variable, value in self._values:  # an assignment synchronises replicas, which a branch must not do
            variable.assign(tf.where(condition, value, variable))
