"""The values of variables, and the entries of tables, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Union

import numpy as np

from customfit.compat import keras, tf
from customfit.execution import replicas
from customfit.execution.trainable import TrainableModel

Table = Union[tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable]
_TABLES = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)
_PARTS = ("keys", "values")


def mutable_tables(model: keras.Model | TrainableModel) -> dict[str, Table]:
    """Returns the lookup tables that a step can change, by names that are the same in the next process.

    Args:
        model: The model that tracks them.
    """
    tracked = tf.train.TrackableView(model).descendants()
    tables = (found for found in tracked if isinstance(found, _TABLES))
    return {f"table/{index}": table for index, table in enumerate(tables)}


def read_tables(tables: Mapping[str, Table]) -> dict[str, tf.Tensor]:
    """Returns the keys and values of tables, by the names of the tables and "/keys" or "/values".

    Args:
        tables: The tables by name.
    """
    return {f"{name}/{part}": tensor for name, table in tables.items() for part, tensor in zip(_PARTS, table.export())}


def write_tables(tables: Mapping[str, Table], entries: Mapping[str, tf.Tensor | np.ndarray]) -> None:
    """Replaces the entries of tables.

    Args:
        tables: The tables by name.
        entries: What `read_tables` returned.
    """
    for name, table in tables.items():
        keys, values = (entries[f"{name}/{part}"] for part in _PARTS)
        table.remove(table.export()[0])
        table.insert(tf.convert_to_tensor(keys, table.key_dtype), tf.convert_to_tensor(values, table.value_dtype))


class VariableSnapshot:
    """Holds the values of variables and the entries of tables, in order to restore them.

    Args:
        variables: The variables.
        tables: Tables by name. Defaults to none.
    """

    def __init__(self, variables: Iterable[tf.Variable], tables: Mapping[str, Table] | None = None):
        self._values = [(variable, tf.identity(variable)) for variable in variables]
        self._tables = dict(tables or {})
        self._entries = read_tables(self._tables)

    def restore(self) -> None:
        """Restores the values and entries."""
        for variable, value in self._values:
            variable.assign(value)
        self._restore_tables()

    def restore_where(self, condition: tf.Tensor) -> None:
        """Restores the values in a graph, if a condition holds.

        Args:
            condition: A scalar, the same on all replicas.
        """
        if replicas.is_alone():
            replicas.run_if(condition, lambda _: self.restore(), [])
            return
        for variable, value in self._values:  # an assignment synchronizes replicas, which a branch must not do
            variable.assign(tf.where(condition, value, variable))
        if self._tables:  # which the replicas share: each restores the same entries
            tf.cond(condition, self._restore_tables, lambda: tf.constant(0))

    def _restore_tables(self) -> tf.Tensor:
        write_tables(self._tables, self._entries)
        return tf.constant(0)
