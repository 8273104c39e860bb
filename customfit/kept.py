"""The values that variables had."""

from __future__ import annotations

from customfit.compat import tf


class KeptValues:
    """The values of variables, to be put back.

    Args:
        variables: The variables.
    """

    def __init__(self, variables: list):
        self._values = [(variable, tf.identity(variable)) for variable in variables]

    def put_back(self) -> None:
        """Gives the variables the values that they had."""
        for variable, value in self._values:
            variable.assign(value)
