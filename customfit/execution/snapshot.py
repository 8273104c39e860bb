"""The values that variables had."""

from __future__ import annotations

from customfit.compat import tf
from customfit.execution import replicas


class VariableSnapshot:
    """The values of variables, to be put back.

    Args:
        variables: The variables.
    """

    def __init__(self, variables: list):
        self._values = [(variable, tf.identity(variable)) for variable in variables]

    def restore(self) -> None:
        """Gives the variables the values that they had."""
        for variable, value in self._values:
            variable.assign(value)

    def restore_where(self, condition: tf.Tensor) -> None:
        """The same in a graph, where a condition holds, which must be the same on all replicas."""
        if replicas.replica_count() == 1:
            replicas.run_if(condition, lambda _: self.restore(), [])
            return
        for variable, value in self._values:  # replicas agree on each, which they must not do within a branch
            variable.assign(tf.where(condition, value, variable))
