"""Random ops whose state can be saved, so that a resumed run draws the numbers of an uninterrupted one.

`tf.random.uniform` and similar ops keep their state in the running op, where it cannot be read. Dropout of Keras 2 uses
them, and so may any `call()`. While a step is traced for a run with checkpoints, each such op is replaced by its
stateless counterpart, which draws the same numbers to the bit, with its state in a variable. RANDOMNESS.md says more.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Union

import numpy as np

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch
from customfit.execution import replicas
from customfit.execution.trainable import StepName

PHILOX = 1  # the algorithm of the op and of its counterpart
RESERVED = 256  # by how much the op advances its counter for each number that it draws

State = Union[np.ndarray, tf.Tensor, Sequence[int]]  # two seeds and the counter


class ResumableRandomOps:
    """The states of the random ops in a model's steps.

    Args:
        warns: Whether to warn of ops whose state cannot be kept.

    Attributes:
        states: By name, variables that hold two seeds and the counter of each op.
    """

    def __init__(self, warns: bool = True) -> None:
        self._warns = warns
        self.states: dict[str, tf.Variable] = {}
        self._restored: dict[str, State] = {}

    def restore(self, states: Mapping[str, State]) -> None:
        """Restores the states of ops, including those that are traced later.

        Args:
            states: States by name, as a checkpoint has saved them.
        """
        self._restored = dict(states)
        for name, variable in self.states.items():
            if name in states:
                variable.assign(states[name])

    @contextlib.contextmanager
    def replaced(self, name: StepName, batch: Batch) -> Iterator[None]:
        """Replaces the random ops that are traced within.

        Args:
            name: The step that is traced.
            batch: The batch for which it is traced. Each signature of a batch has ops, and states, of its own.
        """
        if tf.executing_eagerly():
            yield
            return
        signature = ",".join(
            f"{leaf.dtype.name}{leaf.shape}"
            for leaf in tf.nest.flatten(batch)
            if leaf is not None and hasattr(leaf, "shape")
        )
        thread, count = threading.get_ident(), 0

        def replacement(op_name: str, op: Callable[..., tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor:
            nonlocal count
            in_thread = threading.get_ident() == thread
            on_replica = not in_thread and not replicas.is_alone()  # each is traced in a thread of its own
            if tf.executing_eagerly() or not (in_thread or on_replica):
                return op(*args, **kwargs)
            if on_replica or op_name in compat.UNRESUMABLE_RANDOM_OPS:
                if self._warns:
                    _warn(name, op_name, on_replica)
                return op(*args, **kwargs)
            count += 1
            return self._draw(f"{name}({signature})/{count}", op_name, *args, **kwargs)

        with compat.replaced_random_ops(replacement):
            yield

    def _draw(
        self, site: str, op_name: str, shape: Any, *args: Any, seed: int = 0, seed2: int = 0, **kwargs: Any
    ) -> tf.Tensor:
        state = self._state(site, seed, seed2)
        shape = tf.convert_to_tensor(shape)
        first, second, drawn = tf.unstack(state.read_value())
        if op_name == "random_uniform_int":
            kwargs.update(zip(("minval", "maxval"), args))
        elif args:
            kwargs["dtype"] = args[0]
        numbers = compat.RESUMABLE_RANDOM_OPS[op_name](
            shape=shape,
            key=tf.cast(first, tf.uint64)[tf.newaxis],
            counter=tf.cast(tf.stack([drawn, second]), tf.uint64),
            alg=PHILOX,
            **kwargs,
        )
        count = tf.reduce_prod(tf.cast(shape, tf.int64))
        state.assign_add(tf.stack([tf.constant(0, tf.int64), tf.constant(0, tf.int64), RESERVED * count]))
        return numbers

    def _state(self, name: str, seed: int, seed2: int) -> tf.Variable:
        if not (seed or seed2):  # with which the op draws its seeds anew in each process
            seed, seed2 = secrets.randbits(63), secrets.randbits(63)

        def create() -> None:
            initial = self._restored.get(name, [seed, seed2, 0])
            self.states[name] = tf.Variable(initial, dtype=tf.int64, trainable=False)

        if name not in self.states:
            # A function that is traced a second time refuses new variables, but only those of its own thread.
            thread = threading.Thread(target=create)
            thread.start()
            thread.join()
            return self.states[name]
        with tf.init_scope():
            if int(self.states[name][2]) == 0:  # traced again before it has drawn anything
                self.states[name].assign([seed, seed2, 0])
        return self.states[name]


def keeps_random_state(function: tf.types.experimental.ConcreteFunction) -> bool:
    """Whether an operation in a traced function, or in one that it calls, keeps random state in itself.

    Args:
        function: The function.
    """
    graph = function.graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(each.node_def for each in graph.library.function))
    return any("seed2" in node.attr for node in nodes)  # whatever its kind, it is seeded by two attributes


def _warn(name: StepName, op_name: str, on_replica: bool) -> None:
    drawn_by = compat.UNRESUMABLE_RANDOM_OPS.get(op_name, "tf.random")
    warnings.warn(
        f"`{name}` uses `{drawn_by}`{' under a `tf.distribute` strategy' if on_replica else ''}, whose state cannot be "
        "saved: a resumed run draws other numbers. Use a `tf.random.Generator` or `tf.random.stateless_*`.",
        stacklevel=3,
    )
