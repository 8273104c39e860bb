"""Undoes a step that was bad: whatever it has changed, wherever that is kept.

In a graph on one device, the graph of the step says what it writes. Elsewhere, what the model tracks is restored.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Callable

from customfit import compat
from customfit.checkpoint import variables_of
from customfit.compat import tf
from customfit.data import Batch
from customfit.execution import (
    CapturedVariable,
    Logs,
    TrainableModel,
    VariableSnapshot,
    captures_of,
    check_resources,
    handles_of,
    mutable_tables,
    replicas,
)

Step = Callable[[Batch], Logs]


class RunningStep(threading.local):
    """The step that this thread runs or traces, if it does. Replicas are traced in threads.

    Attributes:
        is_running: Whether it does.
        updates: How many updates the step has made so far.
    """

    def __init__(self) -> None:
        self.is_running = False
        self.updates = 0
        self._operations: dict[int, tuple[tf.Graph, set[str]]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A context for the run of a step."""
        self.begin()
        self.is_running = True
        try:
            yield
        finally:
            self.is_running = False
            self.begin()  # no graph is held for longer than its step is traced

    def begin(self) -> None:
        """Forgets the updates of the step before, or of an earlier trace."""
        self.updates, self._operations = 0, {}

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """A context for an update by the pipeline, which makes none where the step is bad."""
        if not self.is_running:
            yield
            return
        self.updates += 1
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        before = 0 if graph is None else len(graph.get_operations())
        yield
        if graph is not None:
            _, names = self._operations.setdefault(id(graph), (graph, set()))
            made = graph.get_operations()[before:]
            names.update(each.name for each in made if each.type != "Placeholder")  # those become arguments

    @property
    def operations(self) -> list[set[str]]:
        """The names of the operations of updates, for each graph that has such: a step may call functions."""
        return [names for _, names in self._operations.values()]


def check_undoable(running: RunningStep) -> None:
    """Refuses a second update of a step that could not be undone if it is bad: under a strategy with replicas.

    Args:
        running: What is known of the step while it runs.

    Raises:
        NotImplementedError: If that is so.
    """
    if running.is_running and running.updates > 1 and not replicas.is_alone():
        raise NotImplementedError(
            "Under a `tf.distribute` strategy, `nonfinite` needs a step with one update: where a later one is bad, an "
            "earlier one cannot be undone. Received: a step with several updates."
        )


def run_undoably(
    step: Step, model: TrainableModel, data: Batch, running: RunningStep, kept: Callable[[], Sequence[tf.Variable]]
) -> tuple[Logs, Callable[[tf.Tensor], None]]:
    """Runs a step.

    Args:
        step: The step.
        model: The model.
        data: The batch.
        running: What is known of the step while it runs.
        kept: Returns variables that are not to be undone.

    Returns:
        Its logs, and a function that undoes the step where a condition holds.
    """
    if tf.executing_eagerly() or not replicas.is_alone():
        before = _tracked_state(model, kept())
        created_before = {id(variable) for variable in _metric_variables(model)}
        logs = step(data)

        def undo_where(bad: tf.Tensor) -> None:
            before.restore_where(bad)
            if tf.executing_eagerly() and bad:
                for metric in model.metrics:  # one that the step was the first to update was as new before
                    if any(id(variable) not in created_before for variable in metric.variables):
                        metric.reset_state()

        return logs, undo_where

    def traced(data: Batch) -> Logs:
        running.begin()
        return step(data)

    function = tf.function(compat.autographed(traced), autograph=False)
    concrete = function.get_concrete_function(data)
    captures = captures_of(concrete, running.operations)
    tables = check_resources(captures, model, "`nonfinite` cannot undo")
    left = {handle for variable in kept() for handle in handles_of(variable, model.distribute_strategy)}
    written = captures.writes if running.updates == 1 else {id(variable.handle) for variable in captures.variables}
    changed = [variable for variable in captures.variables if id(variable.handle) in written - left]
    _check_windows(model, running, changed)
    before = VariableSnapshot(changed, tables)
    return function(data), before.restore_where


def _check_windows(model: TrainableModel, running: RunningStep, changed: Sequence[CapturedVariable]) -> None:
    """Refuses to undo weights where a bad step may complete a window, whose other micro-batches are applied in it."""
    if model.gradient_pipeline.accumulation_steps is None:
        return
    weights = {
        handle
        for weight in compat.variables_in(model.trainable_variables)
        for handle in handles_of(compat.tf_variable(weight), model.distribute_strategy)
    }
    if any(id(variable.handle) in weights for variable in changed):
        how = "makes several updates" if running.updates > 1 else "changes weights by itself"
        raise ValueError(
            "`nonfinite` and `gradient_accumulation_steps` go together only in a step that makes one update and "
            f"leaves the weights alone otherwise. Received: a `{type(model).__name__}.train_step` that {how}."
        )


def _metric_variables(model: TrainableModel) -> list[tf.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _tracked_state(model: TrainableModel, kept: Sequence[tf.Variable]) -> VariableSnapshot:
    """Returns the state that the model tracks. On replicas that is all but the weights, which one update leaves."""
    if not replicas.is_alone():
        variables = [each for each in compat.step_state(model) if replicas.can_assign(each)]
    else:
        left = {id(variable) for variable in kept}
        variables = [each for each in variables_of(model).values() if id(each) not in left]
    return VariableSnapshot(variables, mutable_tables(model))
