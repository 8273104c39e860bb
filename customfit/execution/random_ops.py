"""Random numbers that a resumed run draws as the one left alone would have.

`tf.random.uniform` and its like keep their state in the running op, where nobody can read it: so does the dropout of
Keras 2, and any `call()` that draws by `tf.random`. While a step is traced for a run with checkpoints, such an op is
made as its stateless twin, whose numbers are the same to the bit, with its state in a variable.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.execution import replicas

PHILOX = 1  # the algorithm of both
RESERVED = 256  # how many numbers the op moves on for each that it draws


class ResumableRandomOps:
    """The states of the random ops in a model's steps.

    Attributes:
        states: By name, variables that hold two seeds and how far the op has drawn.
    """

    def __init__(self) -> None:
        self.states: dict[str, tf.Variable] = {}
        self._restored: dict[str, Any] = {}

    def restore(self, states: dict[str, Any]) -> None:
        """Has ops go on from these states, also those that are traced later."""
        self._restored = dict(states)
        for name, variable in self.states.items():
            if name in states:
                variable.assign(states[name])

    @contextlib.contextmanager
    def counted(self, name: str, batch: Any) -> Iterator[None]:
        """While this lasts, random ops that are traced keep their state here.

        Args:
            name: The step's name.
            batch: The batch that it is traced for: steps of other signatures draw for themselves.
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

        def replacement(op_name: str, op: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            here = threading.get_ident() == thread
            on_replica = not here and replicas.replica_count() > 1  # each is traced in a thread of its own
            if tf.executing_eagerly() or not (here or on_replica):
                return op(*args, **kwargs)
            if on_replica or op_name in compat.UNCOUNTED_RANDOM_OPS:
                drawn_by = compat.UNCOUNTED_RANDOM_OPS.get(op_name, "tf.random")
                warnings.warn(
                    f"`{name}` draws by `{drawn_by}`{' on several replicas' if on_replica else ''}, whose state cannot "
                    "be kept: a run that is taken up draws other numbers. `tf.random.Generator` and "
                    "`tf.random.stateless_*` can be.",
                    stacklevel=2,
                )
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
        numbers = compat.COUNTED_RANDOM_OPS[op_name](
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
        def make() -> None:
            initial = self._restored.get(name, [seed, seed2, 0])
            self.states[name] = tf.Variable(initial, dtype=tf.int64, trainable=False)

        if name not in self.states:
            # A function that is being traced for the second time refuses variables, but only of its own thread.
            maker = threading.Thread(target=make)
            maker.start()
            maker.join()
            return self.states[name]
        with tf.init_scope():
            if int(self.states[name][2]) == 0:  # traced again before it has drawn anything
                self.states[name].assign([seed, seed2, 0])
        return self.states[name]
