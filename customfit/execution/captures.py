"""The state that a step uses, wherever it is kept: the resources that its graph captures.

A variable may be an attribute of the model, or stand in a list, a plain object, a closure or a global. The graph of the
step knows it in any case, by its handle.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution.snapshot import Table, mutable_tables
from customfit.execution.trainable import TrainableModel

READS_A_VARIABLE = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"}
PYTHON_FUNCTIONS = {"PyFunc": "tf.numpy_function", "EagerPyFunc": "tf.py_function"}
READS_A_TABLE = {"LookupTableFindV2", "LookupTableSizeV2", "LookupTableExportV2"}


class CapturedVariable:
    """A variable that a graph captures, of which nothing but its handle need be known.

    It can be read and assigned in eager code and in graphs, and TensorFlow takes it as a tensor.

    Args:
        handle: The handle.
        spec: The shape and dtype.
        name: The variable's name; "variable" where it has none.
    """

    def __init__(self, handle: tf.Tensor, spec: tf.TensorSpec, name: str):
        self.handle = handle
        self.shape = spec.shape
        self.dtype = spec.dtype
        self.name = name

    def read_value(self) -> tf.Tensor:
        """Returns the value."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)

    def numpy(self) -> np.ndarray:
        """Returns the value. It waits for the device."""
        return self.read_value().numpy()

    def assign(self, value: tf.Tensor | np.ndarray) -> None:
        """Sets the value."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=tf.convert_to_tensor(value, self.dtype))


tf.register_tensor_conversion_function(
    CapturedVariable, lambda captured, dtype=None, name=None, as_ref=False: captured.read_value()
)


@dataclasses.dataclass
class Captures:
    """What the graph of a step captures.

    Attributes:
        variables: Its variables, in the order in which the step first uses them.
        others: Its other resources: by the `id` of the handle, the types of the operations that use it.
        writes: The `id`s of the handles of variables that it may change.
        python_functions: What it calls Python functions by, if it does: these may keep anything.
    """

    variables: list[CapturedVariable]
    others: dict[int, set[str]]
    writes: set[int]
    python_functions: set[str]


def captures_of(
    function: tf.types.experimental.ConcreteFunction, apart_from: Sequence[Collection[str]] = ()
) -> Captures:
    """Returns what a traced function captures.

    Args:
        function: The function.
        apart_from: Operations that are not counted in `writes`: for each graph that has such, their names.
    """
    names, users = compat.variable_names(function), _Users(function, apart_from)
    python_functions = {name for op, name in PYTHON_FUNCTIONS.items() if op in users.operations}
    captures = Captures([], {}, set(), python_functions)
    for handle, placeholder in compat.captured_handles(function):
        spec, used_by = compat.variable_spec(handle), users.of(placeholder.op.name)
        if used_by and all(user.startswith("Collective") for user in used_by):
            continue  # a token by which TensorFlow orders sums over replicas
        if spec is None:
            captures.others[id(handle)] = used_by
            continue
        captures.variables.append(CapturedVariable(handle, spec, names.get(id(handle), "variable")))
        if used_by - READS_A_VARIABLE:
            captures.writes.add(id(handle))
    return captures


def check_resources(captures: Captures, model: keras.Model | TrainableModel, cannot: str) -> dict[str, Table]:
    """Refuses what a step changes besides variables, unless it is a table that the model tracks.

    Args:
        captures: What the step captures.
        model: The model.
        cannot: What cannot be done, for the error, such as "`checkpoint` cannot save".

    Returns:
        The tables that the step changes, by name.

    Raises:
        ValueError: If it changes another table, or draws from an iterator.

    Warns:
        UserWarning: If it uses another resource, or a Python function.
    """
    tracked = {id(table.resource_handle): (name, table) for name, table in mutable_tables(model).items()}
    changed, step = {}, f"`{type(model).__name__}`'s step"
    for handle, users in captures.others.items():
        users = {user for user in users if user not in READS_A_TABLE and "Summary" not in user}
        by = ", ".join(sorted(users))
        if users and handle in tracked:
            changed[tracked[handle][0]] = tracked[handle][1]
        elif any(user.startswith("LookupTable") for user in users):
            raise ValueError(
                f"{cannot} a lookup table that the model does not track. Assign it to an attribute of the model before "
                "it is compiled, and use it as that:\n"
                "    self.table = table\n"
                "    self.table.insert(keys, values)\n"
                f"Received: a table that {step} changes by {by}."
            )
        elif any(user.startswith("Iterator") for user in users):
            raise ValueError(
                f"{cannot} the position of an iterator. Pass its data beside the other, and unpack each batch:\n"
                "    model.custom_fit(tf.data.Dataset.zip((data, more_data)), ...)\n"
                "    batch, more = data\n"
                f"Received: an iterator that {step} draws from by {by}."
            )
        elif users:
            warnings.warn(f"{cannot} a resource that {step} uses by {by}.", stacklevel=2)
    if captures.python_functions:
        by = ", ".join(f"`{name}`" for name in sorted(captures.python_functions))
        warnings.warn(
            f"{cannot} what a Python function keeps, and {step} calls one by {by}. If it keeps nothing, say so: "
            "`tf.numpy_function(..., stateful=False)`.",
            stacklevel=2,
        )
    return changed


def handles_of(variable: tf.Variable | CapturedVariable, strategy: tf.distribute.Strategy) -> list[int]:
    """Returns the `id`s of a variable's handles: one, or one for each replica of this process."""
    return [id(part.handle) for part in strategy.experimental_local_results(variable)]


class _Users:
    """Finds the operations that use a tensor, in a graph and in all functions that it calls.

    Args:
        function: The function of the graph.
        apart_from: Operations to leave out: for each graph that has such, their names.

    Attributes:
        operations: The types of all operations.
    """

    def __init__(self, function: tf.types.experimental.ConcreteFunction, apart_from: Sequence[Collection[str]]):
        graph = function.graph.as_graph_def()
        self._functions = {each.signature.name: each for each in graph.library.function}
        self._apart_from = [set(names) for names in apart_from]
        self._found: dict[tuple[str, str], set[str]] = {}
        self._users: dict[str, dict[str, list[tuple[Any, int]]]] = {}
        self._index("", graph.node)
        nodes = [graph.node, *(each.node_def for each in graph.library.function)]
        self.operations = {node.op for some in nodes for node in some}

    def of(self, tensor: str, function: str = "") -> set[str]:
        """Returns the types of the operations that use a tensor.

        Args:
            tensor: Its name.
            function: The function that it belongs to. Defaults to the graph itself.
        """
        key = function, tensor
        if key not in self._found:
            self._found[key] = set()  # for functions that call themselves
            if function not in self._users:
                self._index(function, self._functions[function].node_def)
            for node, place in self._users[function].get(tensor, []):
                self._found[key] |= self._of_node(node, place)
        return self._found[key]

    def _of_node(self, node: Any, place: int) -> set[str]:
        # The condition of an `If` and the index of a `Case` come first, and are not passed on.
        place -= node.op in ("If", "StatelessIf", "Case", "StatelessCase")
        called = [self._functions[name] for name in _called_by(node) if name in self._functions]
        if not called:
            return {node.op}
        return set().union(*(self.of(each.signature.input_arg[place].name, each.signature.name) for each in called))

    def _index(self, function: str, nodes: Collection[Any]) -> None:
        users: dict[str, list[tuple[Any, int]]] = {}
        names = {node.name for node in nodes}
        left_out = set().union(*(some for some in self._apart_from if some <= names))
        for node in nodes:
            for place, tensor in enumerate(node.input if node.name not in left_out else ()):
                users.setdefault(tensor.partition(":")[0], []).append((node, place))
        self._users[function] = users


def _called_by(node: Any) -> list[str]:
    """Returns the names of the functions that a node calls."""
    functions = [value.func for value in node.attr.values() if value.HasField("func")]
    functions += [each for value in node.attr.values() if value.HasField("list") for each in value.list.func]
    return [function.name for function in functions]
