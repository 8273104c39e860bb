"""A pass of `predict_step` over data: what `custom_predict` is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Batch, Source
from customfit.execution import BlockOutputs, FixedPace, Piece, compiled_prediction, join
from customfit.training.hooks import BatchHooks

MAX_BLOCK_BYTES = 2**22  # of outputs: those of a block are there twice, in the graph and as its result
GROWTH = 1.125


class Prediction:
    """A pass over data, between the hooks of callbacks.

    Args:
        model: A model with `CustomTrainMixin`, compiled or not.
        callbacks: The `CallbackList`.
    """

    def __init__(self, model: keras.Model, callbacks: keras.callbacks.CallbackList):
        self._model = model
        self._callbacks = callbacks
        self._hooks = BatchHooks(callbacks, "predict")
        self._steps_per_execution = compat.steps_per_execution(model)
        self._step = compiled_prediction(model)
        self._most_steps = 1  # in a block, by the memory that outputs take: not known before the first step

    def run(self, data: Source) -> Any:
        """Makes the pass.

        Args:
            data: The data, from its start.

        Returns:
            The outputs for all of it, as `predict` returns them.

        Raises:
            ValueError: If there is no data.
        """
        compat.start_prediction(self._model)
        self._callbacks.on_predict_begin()
        predictions = Predictions(data.steps)
        for block in data.blocks(self._block_size):
            self._hooks.begin(block)
            outputs = self._step.run(block)
            if outputs is None:
                continue
            predictions.add(outputs, block.done)
            self._most_steps = max(1, MAX_BLOCK_BYTES * block.done // max(1, outputs.nbytes))
            self._hooks.end(block, {"outputs": outputs.as_tensors()} if self._hooks.calls_every_step else {})
            if compat.stops_predicting(self._model):
                break
        self._hooks.refresh()
        self._callbacks.on_predict_end()
        return predictions.result()

    def _block_size(self, step: int) -> int:
        pace = FixedPace(min(self._step.pace.steps, self._most_steps))
        return self._hooks.block_size(step, self._steps_per_execution, pace)


def predict_batch(model: keras.Model, batch: Batch) -> Any:
    """Returns the outputs for one batch, as `predict` does, without a pass around it.

    Args:
        model: A model with `CustomTrainMixin`, compiled or not.
        batch: Tensors of rows, or a nested structure of them.
    """
    return tf.nest.map_structure(_to_numpy, compiled_prediction(model).of_batch(batch))


def _to_numpy(output: Any) -> Any:
    if not isinstance(output, tf.Tensor):
        return output
    array = output.numpy()
    return array if output.shape.rank else compat.scalar_output(array)


class Predictions:
    """The outputs of all steps of a pass.

    Args:
        steps: How many steps the pass has, or `None` if that is not known.
    """

    def __init__(self, steps: int | None):
        self._steps = steps
        self._structure: Any = None
        self._outputs: list[OutputRows] | None = None

    def add(self, block: BlockOutputs, steps: int) -> None:
        """Adds the outputs of a block.

        Args:
            block: The outputs.
            steps: How many steps it had.
        """
        if self._outputs is None:
            self._structure = block.structure
            self._outputs = [OutputRows(1 if self._steps is None else self._steps / steps) for _ in block.pieces]
        for output, pieces in zip(self._outputs, block.pieces):
            output.add(pieces)

    def result(self) -> Any:
        """Returns them in the structure in which the model returns those of a step."""
        if self._outputs is None:
            raise ValueError("The data must give at least one batch. Received: none")
        return tf.nest.pack_sequence_as(self._structure, [output.result() for output in self._outputs])


class OutputRows:
    """The rows of one output, in one array that is made when the first of them come.

    Ragged and sparse tensors, and rows that differ in shape, are kept as they come and joined in the end.

    Args:
        share: How many times as many rows as come first there will probably be.
    """

    def __init__(self, share: float):
        self._share = share
        self._array: np.ndarray | None = None
        self._rows = 0  # of the array that are filled
        self._ends: list[int] = []  # of the pieces in it
        self._others: list[Piece] = []
        self._is_scalar = False  # whether a step has one number

    def add(self, pieces: Sequence[Piece]) -> None:
        """Adds rows.

        Args:
            pieces: Of one step or several each.
        """
        for piece in pieces:
            if isinstance(piece, (tf.RaggedTensor, tf.SparseTensor)):
                self._others.append(piece)
                continue
            rows = np.asarray(piece)
            if not self._ends and not self._others:
                self._is_scalar = rows.ndim == 0
                first = sum(1 if self._is_scalar else len(each) for each in pieces)
                self._array = _empty(first, self._share, rows)
            self._append(rows[np.newaxis] if self._is_scalar else rows)

    def result(self) -> Any:
        """Returns all rows as `predict` does; `None` if there were none."""
        if self._array is None:
            return join(self._others) if self._others else None
        _resize(self._array, self._rows)
        return compat.scalar_output(self._array[0]) if self._is_scalar and self._rows == 1 else self._array

    def _append(self, rows: np.ndarray) -> None:
        if self._array is not None and rows.shape[1:] != self._array.shape[1:]:
            self._others, self._array = np.split(self._array[: self._rows], self._ends[:-1]), None
        if self._array is None:
            self._others.append(rows)
            return
        end = self._rows + len(rows)
        if end > len(self._array):
            _resize(self._array, max(end, int(len(self._array) * GROWTH)))
        self._array[self._rows : end] = rows
        self._rows = end
        self._ends.append(end)


def _empty(rows: int, share: float, like: np.ndarray) -> np.ndarray:
    """Returns an array for `share` times so many rows; for these alone if there is no memory for more."""
    try:
        return np.empty((math.ceil(rows * share), *like.shape[1:]), like.dtype)
    except MemoryError:  # fewer may come: `steps` is the most that there are
        return np.empty((rows, *like.shape[1:]), like.dtype)


def _resize(array: np.ndarray, rows: int) -> None:
    """Gives an array so many rows, in place: a large one is moved by the system, and not copied."""
    if rows != len(array):
        array.resize((rows, *array.shape[1:]), refcheck=False)
