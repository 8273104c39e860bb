"""How gradients update one list of variables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Callable

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import TrainableModel, replicas
from customfit.gradients.accumulation import Accumulator
from customfit.gradients.clipping import Clip, Gradient
from customfit.gradients.metrics import GradientMetrics
from customfit.gradients.nonfinite import NonFiniteGuard, all_finite


class Update:
    """Applies gradients to one list of variables by one optimizer, and owns the state that this needs.

    Args:
        model: The model.
        variables: The variables.
        optimizer: Their optimizer.
        clip: The clip, or `None`.
        accumulation_steps: How many micro-batches make one update; `None` if each batch does.
        guard: Counts steps that the optimizer skips.
        metrics: Measures the update.

    Attributes:
        optimizer: As the argument.
        trained: The variables that it updates.
        accumulator: The gradients of micro-batches, or `None`.
        first_name: The index that `guard` gave to the first of the variables.
    """

    def __init__(
        self,
        model: TrainableModel,
        variables: Sequence[tf.Variable],
        optimizer: keras.optimizers.Optimizer,
        clip: Clip | None,
        accumulation_steps: int | None,
        guard: NonFiniteGuard,
        metrics: GradientMetrics,
    ):
        self._model = model
        self.trained = list(variables)
        self.optimizer = optimizer
        self._clip = clip
        self._guard = guard
        self._metrics = metrics
        if clip is not None:
            clip.build(model)
        self.accumulator = None if accumulation_steps is None else Accumulator(variables, accumulation_steps)
        self.first_name = guard.add_names(variables)
        self._has_gradient: list[bool] = []  # by variable, once there were micro-batches
        self._flush: Callable[[], object] | None = None

    def forget_trace(self) -> None:
        """Drops the graph of `flush`, because what an update does has changed."""
        self._flush = None

    @property
    def is_plain(self) -> bool:
        """Whether the optimizer alone does all that is asked for."""
        return not (
            self._model.changes_gradients
            or self.accumulator is not None
            or self._guard.policy
            or self._metrics
            or compat.has_dynamic_loss_scale(self.optimizer)  # the steps that it skips are counted
        )

    @property
    def variables(self) -> list[tf.Variable]:
        """The state: of the clip and of the accumulator."""
        return [
            *(self._clip.variables if self._clip is not None else []),
            *(self.accumulator.variables if self.accumulator is not None else []),
        ]

    def add(self, gradients: Sequence[Gradient], rows: tf.Tensor | int, good: tf.Tensor | None = None) -> None:
        """Adds gradients to those of earlier micro-batches, if there are any, and applies them once they suffice.

        Args:
            gradients: Gradients, summed over replicas already unless there are micro-batches.
            rows: Rows of the batch.
            good: Whether the gradients are to be used. Defaults to yes.
        """
        accumulator = self.accumulator
        if accumulator is None:
            if good is None:
                self._apply(gradients)
            else:
                has_gradient = [gradient is not None for gradient in gradients]
                present = [gradient for gradient in gradients if gradient is not None]
                replicas.run_if(good, lambda present: self._apply(_with_none(present, has_gradient)), present)
            return
        self._has_gradient = [gradient is not None for gradient in gradients]
        if good is None:
            accumulator.add(gradients, rows)
        else:
            # If a bad step is to end training, later steps of the block are not counted either.
            skip = accumulator.count if self._guard.ends_training else accumulator.skip
            tf.cond(good, lambda: accumulator.add(gradients, rows), skip)
        self._apply_accumulated(accumulator, accumulator.is_full())

    def flush(self) -> None:
        """Applies the micro-batches that there are, if any."""
        if self.accumulator is None or not self._has_gradient:
            return
        if self._flush is None:
            strategy = self._model.distribute_strategy
            flush_replica = functools.partial(self._apply_accumulated, self.accumulator, tf.constant(True))
            self._flush = tf.function(lambda: strategy.run(flush_replica), autograph=False)
        self._flush()

    def _apply_accumulated(self, accumulator: Accumulator, due: tf.Tensor) -> None:
        """Applies the micro-batches if an update is due. If all of them were bad, they are only forgotten."""
        has_rows = accumulator.has_rows()
        replicas.run_if(due & has_rows, lambda _: self._apply(accumulator.pop(self._has_gradient)), [])
        tf.cond(due & tf.logical_not(has_rows), accumulator.clear, accumulator.count)

    def _apply(self, gradients: Sequence[Gradient]) -> None:
        """Transforms, clips and applies the gradients of an update, which are summed over replicas."""
        gradients = list(self._model.transform_gradients(list(gradients), self.trained))
        clipped = gradients if self._clip is None else self._clip(gradients, self.trained)
        optimizer = self.optimizer
        finite = None
        if compat.has_dynamic_loss_scale(optimizer):
            finite = all_finite(clipped)
            self._guard.count_skipped(tf.logical_not(finite))
            self._metrics.count_skipped(tf.logical_not(finite))
        with self._metrics.measuring(gradients, clipped, self.trained, optimizer, finite):
            compat.apply_gradients(optimizer, clipped, self.trained, reduced=True)


def _with_none(present: Sequence[Gradient], has_gradient: Sequence[bool]) -> list[Gradient]:
    """Returns the gradients with `None` in the places of variables that have none."""
    rest = iter(present)
    return [next(rest) if has else None for has in has_gradient]
