"""A pass of `test_step` over data: what validation and `custom_evaluate` are."""

from __future__ import annotations

import warnings
from typing import Callable

from customfit import compat
from customfit.compat import keras
from customfit.data import Source
from customfit.execution import StepName, compiled_steps
from customfit.training.hooks import BatchHooks


class Evaluation:
    """Passes over validation or test data, between the hooks of callbacks. No weight moves.

    Args:
        model: A compiled model with `CustomTrainMixin`.
        callbacks: The `CallbackList`.
        progress: Whether the progress bar shows them.
    """

    def __init__(self, model: keras.Model, callbacks: keras.callbacks.CallbackList, *, progress: bool):
        self._model = model
        self._callbacks = callbacks
        self._hooks = BatchHooks(callbacks, "test", progress=progress)
        self._steps_per_execution = compat.steps_per_execution(model)

    def run(self, data: Source, after_block: Callable[[], None] = lambda: None) -> dict:
        """Makes a pass over the data, from where it is: `data.restart()` comes first, unless a pass continues the last.

        Args:
            data: The data.
            after_block: Called after each block of steps; what it raises ends the pass.

        Returns:
            The logs, as numbers.
        """
        compat.reset_test_counter(self._model)
        self._callbacks.on_test_begin()
        self._model.reset_metrics()
        logs: dict = {}
        has_run = False  # a generator may be used up: then there is nothing to report
        for block in data.blocks(self._block_size):
            self._hooks.begin(block)
            step_logs = compiled_steps(self._model).test.run(block)
            if step_logs is not None:
                logs, has_run = step_logs, True
                self._hooks.end(block, logs)
            after_block()
        self._hooks.refresh()
        logs = compat.pythonify_logs(metric_results(self._model, logs, "test_step")) if has_run else {}
        self._callbacks.on_test_end(logs)
        for callback in self._callbacks.callbacks:
            if hasattr(callback, "test_logs"):
                logs.update(callback.test_logs())
        return logs

    def _block_size(self, step: int) -> int:
        return self._hooks.block_size(step, self._steps_per_execution, compiled_steps(self._model).test.pace)


def metric_results(model: keras.Model, step_logs: dict, step: StepName) -> dict:
    """The metrics' results, as numbers; as in `fit`, a step's own logs where a user's step returns something else.

    Args:
        model: The model.
        step_logs: The logs of the last step.
        step: Which step of the model returned them.
    """
    logs = compat.epoch_logs(step_logs)
    if not all(getattr(metric, "built", True) for metric in model.metrics):
        return logs  # of `compile(metrics=)`, but the user's own step has never updated them
    results = compat.pythonify_logs(model.get_metrics_result())
    if logs and results.keys() != logs.keys():
        return logs
    if "loss" in logs and model.results_of(step) is None and _has_no_value(model, "loss"):
        warnings.warn(
            f'`{step}` returns a "loss", but does not update the metric "loss" of the model. That one is logged, as in '
            f"`fit`, and is 0. Call `self.track_loss(loss, x)` in `{step}`, or update the metric if it is your own.",
            stacklevel=2,
        )
    return results


def _has_no_value(model: keras.Model, name: str) -> bool:
    """Whether what is logged by that name is a mean that nothing has updated since it was reset."""
    of_name = [metric for metric in model.metrics if metric.name == name]
    return bool(of_name) and isinstance(of_name[-1], keras.metrics.Mean) and not float(of_name[-1].count.numpy())


def check_model(model: keras.Model) -> None:
    """Refuses a model that a session cannot train.

    Raises:
        RuntimeError: If it is not compiled.
        TypeError: If it has no `CustomTrainMixin`.
    """
    if not hasattr(model, "gradient_pipeline"):
        raise TypeError(
            "The model must be a `CustomTrainModel`, or of a class with `CustomTrainMixin`. "
            f"Received: a {type(model).__name__}"
        )
    if not compat.is_compiled(model):
        raise RuntimeError("The model must be compiled before it is trained: call `model.compile()` first.")
