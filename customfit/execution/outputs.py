"""The outputs of a block of predictions: collected in the graph step by step, and fetched once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Callable, Union

import numpy as np

from customfit.compat import tf
from customfit.data import Batch, BatchSpec, map_leaves
from customfit.execution.dispatch import as_spec
from customfit.execution.graph import Carried

Outputs = Any  # what a model returns: a tensor, or nested tuples, lists and dicts of tensors
Piece = Union[np.ndarray, tf.Tensor, tf.RaggedTensor, tf.SparseTensor]  # of one output, in one or several steps


@dataclasses.dataclass
class BlockOutputs:
    """The outputs of a block of steps.

    Attributes:
        structure: The structure in which the model returns them.
        pieces: Of each leaf of it, in order: the rows of all steps at once, or the output of each step. There are none
            of an output that is `None`.
        nbytes: How much memory they take.
    """

    structure: Outputs
    pieces: list[list[Piece]]
    nbytes: int

    @staticmethod
    def of_steps(steps: Sequence[Outputs]) -> BlockOutputs:
        """Returns the outputs of steps that ran one by one."""
        leaves = zip(*(tf.nest.flatten(outputs) for outputs in steps))
        pieces = [[leaf for leaf in each if leaf is not None] for each in leaves]
        tensors = tf.nest.flatten(pieces, expand_composites=True)
        return BlockOutputs(steps[0], pieces, sum(np.asarray(each).nbytes for each in tensors))

    def as_tensors(self) -> Outputs:
        """Returns them as one step would have returned the rows of all."""
        joined = [tf.nest.map_structure(_as_tensor, join(pieces)) if pieces else None for pieces in self.pieces]
        return tf.nest.pack_sequence_as(self.structure, joined)


class OutputCollector:
    """A step of prediction as the body of a loop: the loop returns the outputs of all its steps.

    Args:
        step: A graph function from a batch to outputs.
    """

    def __init__(self, step: tf.types.experimental.PolymorphicFunction):
        self._step = step
        self._structures: list[Outputs] = []  # of the outputs, as specs: one for each graph that was traced
        self._leaves: list[_Rows | _Steps | None] = []  # of the graph that is being traced

    def initial(self, batch: Callable[[], Batch | BatchSpec]) -> tuple[Carried, Any]:
        """Returns empty arrays for the outputs: see `LoopBody`."""
        outputs = self._step.get_concrete_function(map_leaves(as_spec, batch())).structured_outputs
        structure = map_leaves(as_spec, outputs)
        self._structures.append(structure)
        self._leaves = _collectors(structure)
        arrays = [[] if leaf is None else leaf.arrays() for leaf in self._leaves]
        return arrays, tf.nest.map_structure(lambda _: tf.TensorShape([]), arrays)

    def __call__(self, batch: Batch, index: tf.Tensor, carried: Carried) -> Carried:
        """Runs the step and writes its outputs into the arrays: see `LoopBody`."""
        outputs = tf.nest.flatten(self._step(batch))
        return [
            [] if leaf is None else [array.write(index, part) for array, part in zip(arrays, leaf.parts(output))]
            for leaf, arrays, output in zip(self._leaves, carried, outputs)
        ]

    def finish(self, carried: Carried) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
        """Returns which structure the outputs have, and the content of each leaf's arrays: see `LoopBody`."""
        contents = [[] if leaf is None else leaf.contents(arrays) for leaf, arrays in zip(self._leaves, carried)]
        return tf.constant(len(self._structures) - 1), contents

    def take_apart(self, result: tuple[tf.Tensor, list[list[tf.Tensor]]]) -> BlockOutputs:
        """Returns the outputs that a loop has returned.

        Args:
            result: What `finish` has returned in the graph.
        """
        number, contents = result
        structure = self._structures[int(number)]
        pieces = [
            [] if leaf is None else leaf.pieces(tensors) for leaf, tensors in zip(_collectors(structure), contents)
        ]
        return BlockOutputs(structure, pieces, sum(np.asarray(each).nbytes for each in tf.nest.flatten(contents)))


def _collectors(structure: Outputs) -> list[_Rows | _Steps | None]:
    return [
        None if spec is None else _Rows(spec) if _has_rows_of_one_shape(spec) else _Steps(spec)
        for spec in tf.nest.flatten(structure)
    ]


def _has_rows_of_one_shape(spec: tf.TypeSpec) -> bool:
    return isinstance(spec, tf.TensorSpec) and bool(spec.shape.rank) and spec.shape[1:].is_fully_defined()


class _Rows:
    """An output whose rows have one shape that is known: they are put one behind the other in the graph."""

    def __init__(self, spec: tf.TensorSpec):
        self._spec = spec

    def arrays(self) -> list[tf.TensorArray]:
        return [_array(self._spec.dtype, self._spec.shape)]

    def parts(self, output: tf.Tensor) -> list[tf.Tensor]:
        return [output]

    def contents(self, arrays: list[tf.TensorArray]) -> list[tf.Tensor]:
        return [arrays[0].concat()]

    def pieces(self, tensors: list[tf.Tensor]) -> list[Piece]:
        return list(tensors)


class _Steps:
    """Any other output: the values of each step, flat, with their shape. Of a ragged tensor, those of its parts."""

    def __init__(self, spec: tf.TypeSpec):
        self._spec = spec
        self._components = tf.nest.flatten(spec, expand_composites=True)

    def arrays(self) -> list[tf.TensorArray]:
        return [
            array
            for spec in self._components
            for array in (_array(spec.dtype, [None]), _array(tf.int64, [None]), _array(tf.int64, []))
        ]

    def parts(self, output: Any) -> list[tf.Tensor]:
        return [
            part
            for tensor in tf.nest.flatten(output, expand_composites=True)
            for part in (tf.reshape(tensor, [-1]), _int64(tf.shape(tensor)), _int64(tf.rank(tensor)))
        ]

    def contents(self, arrays: list[tf.TensorArray]) -> list[tf.Tensor]:
        return [
            content
            for values, sizes, rank in zip(arrays[::3], arrays[1::3], arrays[2::3])
            for content in (values.concat(), sizes.concat(), rank.stack())
        ]

    def pieces(self, tensors: list[tf.Tensor]) -> list[Piece]:
        components = [_split(*tensors[begin : begin + 3]) for begin in range(0, len(tensors), 3)]
        if isinstance(self._spec, tf.TensorSpec):
            return components[0]
        dtypes = [spec.dtype for spec in self._components]
        return [
            tf.nest.pack_sequence_as(self._spec, list(map(tf.convert_to_tensor, step, dtypes)), expand_composites=True)
            for step in zip(*components)
        ]


def _array(dtype: tf.DType, shape: Any) -> tf.TensorArray:
    return tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=shape)


def _int64(sizes: tf.Tensor) -> tf.Tensor:
    """Returns sizes as plain numbers: TensorFlow 2.21 warns of shapes in a `TensorArray`."""
    return tf.cast(sizes, tf.int64)


def _split(values: tf.Tensor, sizes: tf.Tensor, ranks: tf.Tensor) -> list[np.ndarray]:
    """Returns the array of each step."""
    flat, arrays, begin = np.asarray(values), [], 0
    for shape in np.split(np.asarray(sizes), np.cumsum(ranks)[:-1]):
        size = int(np.prod(shape))
        arrays.append(flat[begin : begin + size].reshape(shape))
        begin += size
    return arrays


def join(pieces: Sequence[Piece]) -> Any:
    """Returns pieces of an output as one, as `predict` does.

    Args:
        pieces: At least one.

    Returns:
        A single piece as it is; scalars stacked; the rows of others one behind the other: in a `tf.RaggedTensor` if
        they differ in shape.
    """
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], tf.SparseTensor):
        return tf.sparse.concat(0, pieces)
    if not isinstance(pieces[0], (np.ndarray, tf.Tensor)):
        return tf.concat(pieces, 0)
    arrays = [np.asarray(piece) for piece in pieces]
    if not arrays[0].shape:
        return np.stack(arrays)
    shapes = np.array([array.shape[1:] for array in arrays])
    differ = (shapes != shapes[0]).any(axis=0)
    if not differ.any():
        return np.concatenate(arrays)
    alike = int(np.argmax(differ[::-1]))  # how many of the last axes are
    return tf.ragged.constant(arrays, inner_shape=arrays[0].shape[-alike:] if alike else None).merge_dims(0, 1)


def _as_tensor(piece: Any) -> Any:
    return tf.convert_to_tensor(piece) if isinstance(piece, np.ndarray) else piece
