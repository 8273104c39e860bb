"""Calls of traced functions with little Python.

A call of a `tf.function` finds the trace that fits its arguments, binds the arguments to it, and packs what it returns:
for a small step that is more work than the step. Here a batch's signature is looked up in a dict, and the trace is
called as an operation with its flat tensors. BLOCKS.md has the figures.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import tf
from customfit.data import map_leaves

MOST_SIGNATURES = 10_000  # each takes half a kilobyte: where every batch has another length, they come without end

Structure = Any  # a tensor, an iterator, or nested tuples, lists and dicts of them, with `None` for what is left out


class DirectFunction:
    """A function of tensors, traced once for each signature, whose traces are called directly.

    Args:
        function: The function. It is given tensors, and returns tensors.
    """

    def __init__(self, function: Callable[..., Structure]):
        self._function = tf.function(function, reduce_retracing=True, autograph=False)
        self._by_signature: dict[Hashable, _Trace] = {}
        self._by_function: dict[int, _Trace] = {}  # one that leaves the number of rows open serves many signatures
        # An operation has its inputs on its own device. A function has each of them where it is used.
        self._has_accelerator = compat.has_accelerator()

    def __call__(self, *arguments: Structure) -> Structure:
        """Calls the function.

        Args:
            *arguments: As the function takes them.
        """
        if self._has_accelerator or tf.config.functions_run_eagerly():
            return self._function(*arguments)
        key = signature(arguments)
        trace = self._by_signature.get(key)
        if trace is None:
            trace = self._trace(key, arguments)
        leaves = tf.nest.flatten(arguments, expand_composites=True)
        return trace([leaf for leaf in leaves if leaf is not None])

    def _trace(self, key: Hashable, arguments: tuple[Structure, ...]) -> _Trace:
        function = self._function.get_concrete_function(*map_leaves(as_spec, arguments))
        if len(self._by_signature) >= MOST_SIGNATURES:
            self._by_signature.clear()
        if id(function) not in self._by_function:
            self._by_function[id(function)] = _Trace(function)
        trace = self._by_signature[key] = self._by_function[id(function)]
        return trace


def signature(structure: Structure) -> Hashable:
    """Returns what decides which trace a structure of tensors needs: how it is nested, dtypes and shapes.

    Args:
        structure: The structure.
    """
    if isinstance(structure, tf.Tensor):
        return structure.dtype, structure.shape
    if isinstance(structure, (tuple, list)):
        return type(structure), *map(signature, structure)
    if isinstance(structure, dict):
        return dict, *((name, signature(structure[name])) for name in sorted(structure))
    return as_spec(structure)


def as_tensors(batch: Structure) -> Structure:
    """Returns a batch of arrays and tensors as one of tensors.

    Args:
        batch: A structure of what TensorFlow converts.
    """
    if batch is None or isinstance(batch, tf.Tensor):
        return batch
    if isinstance(batch, np.ndarray):
        return tf.constant(batch)
    if type(batch) is tuple:
        return tuple(map(as_tensors, batch))
    if tf.nest.is_nested(batch):
        return map_leaves(as_tensors, batch)
    return batch if tf.is_tensor(batch) else tf.convert_to_tensor(batch)


def as_spec(leaf: tf.Tensor | tf.TypeSpec | None) -> tf.TypeSpec | None:
    """Returns the spec of a tensor, and a spec or `None` as it is."""
    return leaf if leaf is None or isinstance(leaf, tf.TypeSpec) else tf.type_spec_from_value(leaf)


class _Trace:
    """A traced function, called as an operation with flat tensors.

    Where it has no control flow, TensorFlow can run it in one thread. That saves a small step half of its time, and a
    large one can do less in parallel. So the first calls try both ways, and the faster one stays; the numbers are the
    same. In one thread, an error does not tell which operation has failed. So the first call is made the other way.

    Args:
        function: The traced function.
    """

    EXECUTORS = ("DEFAULT", "")  # in parallel; as TensorFlow thinks best, which is in one thread where that is possible
    TRIALS = 6  # of each, the first of which does not count

    def __init__(self, function: tf.types.experimental.ConcreteFunction):
        self._function = function
        self._dtypes = [output.dtype for output in function.outputs]
        self._pack = _packer(function.structured_outputs)
        self._chosen: str | None = None
        self._seconds: dict[str, list[float]] = {executor: [] for executor in self.EXECUTORS}

    def __call__(self, tensors: Sequence[tf.Tensor]) -> Structure:
        if self._chosen is not None:
            return self._call(tensors, self._chosen)
        executor = min(self.EXECUTORS, key=lambda each: len(self._seconds[each]))
        begin = time.perf_counter()
        outputs = self._call(tensors, executor)
        self._seconds[executor].append(time.perf_counter() - begin)
        if all(len(seconds) == self.TRIALS for seconds in self._seconds.values()):
            self._chosen = min(self.EXECUTORS, key=lambda each: min(self._seconds[each][1:]))
        return outputs

    def _call(self, tensors: Sequence[tf.Tensor], executor: str) -> Structure:
        function = self._function
        try:
            outputs = tf.raw_ops.StatefulPartitionedCall(
                args=[*tensors, *function.captured_inputs], Tout=self._dtypes, f=function, executor_type=executor
            )
        except tf.errors.OpError as error:
            compat.locate_error(error, function)
            raise
        return self._pack(outputs)


def _packer(structure: Structure) -> Callable[[Sequence[tf.Tensor]], Structure]:
    """Returns what packs flat outputs into a structure."""
    if isinstance(structure, dict) and all(isinstance(leaf, (tf.Tensor, tf.TensorSpec)) for leaf in structure.values()):
        places = {name: place for place, name in enumerate(sorted(structure))}
        return lambda outputs: {name: outputs[places[name]] for name in structure}

    return lambda outputs: pack(structure, outputs)


def pack(structure: Structure, tensors: Sequence[tf.Tensor]) -> Structure:
    """Packs flat tensors into a structure, in which a leaf may be `None`, ragged or sparse.

    Args:
        structure: The structure, of specs or tensors.
        tensors: A tensor for each leaf that is not `None`, and for each part of one that is ragged or sparse.
    """
    left = iter(tensors)
    leaves = tf.nest.flatten(structure, expand_composites=True)
    filled = [None if leaf is None else next(left) for leaf in leaves]
    return tf.nest.pack_sequence_as(structure, filled, expand_composites=True)
