"""The updates of a step that calls its optimizers itself, on their way into the pipeline; and the logs of that step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Callable

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import Logs, TrainableModel
from customfit.gradients.clipping import Gradient


class StepUpdates:
    """Sends what a running step hands to its optimizers through the pipeline. Implements `compat.UpdateHandler`.

    Args:
        apply: Takes true gradients, variables, their optimizer, the loss or `None`, and how many rows there are.
        count_rows: Returns how many rows the step's batch has.
    """

    def __init__(self, apply: Callable[..., None], count_rows: Callable[[], tf.Tensor | int]):
        self._apply = apply
        self._count_rows = count_rows
        self._losses: dict[int, tf.Tensor] = {}  # by the id of the optimizer that scales them

    def scale(self, optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> None:
        """Notes the loss: see `compat.UpdateHandler`."""
        self._losses[id(optimizer)] = loss

    def update(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: list[Gradient],
        variables: list[tf.Variable],
        summed: bool,
    ) -> None:
        """Updates variables: see `compat.UpdateHandler`."""
        true = compat.true_gradients(optimizer, _in_this_graph(gradients), summed)
        self._apply(true, variables, optimizer, self._losses.get(id(optimizer)), self._count_rows())


def _in_this_graph(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Returns the gradients as tensors of the current graph, all of which an optimizer requires of one.

    A step may call its optimizer in a function or a branch, which is a graph of its own.
    """
    if tf.executing_eagerly():
        return list(gradients)
    copy = functools.partial(tf.nest.map_structure, tf.identity, expand_composites=True)
    return [None if gradient is None else copy(gradient) for gradient in gradients]


def logs_undone_where(bad: tf.Tensor, logs: Logs, model: TrainableModel) -> Logs:
    """Returns the logs of a step; where it was bad and has been undone, with the results of metrics as they are now.

    Args:
        bad: Whether it was.
        logs: Its logs, as it returned them.
        model: The model.
    """
    if not isinstance(logs, dict) or not all(getattr(metric, "built", True) for metric in model.metrics):
        return logs  # a step of the user's that never updates the metrics of `compile()`
    results = model.get_metrics_result()
    same = [name for name, log in logs.items() if name in results and tf.is_tensor(log)]
    return {**logs, **{name: tf.where(bad, tf.cast(results[name], logs[name].dtype), logs[name]) for name in same}}
