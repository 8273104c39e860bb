"""`StepObservers`: what callbacks do in the graph of each step."""

from __future__ import annotations

import threading
from typing import Callable

from customfit.compat import tf
from customfit.execution import Logs, TrainableModel, has_workers
from customfit.gradients.collector import PredictionCollector, Transform
from customfit.gradients.rates import current_rates
from customfit.gradients.recorder import StepRecorder
from customfit.gradients.schedules import Curve, StepSchedule


class StepObservers:
    """What callbacks have asked for in the steps of a model: to record them, or to set the learning rate before each.

    Attributes:
        recorder: Records the values of each step, for `callbacks.StepHistory`, or `None`.
        schedule: Sets the learning rate before each step, for `callbacks.OneCycle`, or `None`.
        collectors: Collect the predictions of passes of validation, for `callbacks.PredictionMetrics`.
    """

    def __init__(self) -> None:
        self.recorder: StepRecorder | None = None
        self.schedule: StepSchedule | None = None
        self.collectors: list[PredictionCollector] = []
        self._scheduled = threading.local()  # replicas are traced in threads

    @property
    def variables(self) -> list[tf.Variable]:
        """State that is neither saved nor undone with that of the model: the callbacks save what they need of it."""
        owners = [owner for owner in (self.recorder, self.schedule, *self.collectors) if owner is not None]
        return [variable for owner in owners for variable in owner.variables]

    def run(self, model: TrainableModel, step: Callable[[], Logs]) -> Logs:
        """Runs a step of training.

        Args:
            model: The model.
            step: Runs the step, and returns its logs.
        """
        if self.schedule is None or getattr(self._scheduled, "in_step", False):
            return self._recorded(model, step)
        self._scheduled.in_step = True
        try:
            with self.schedule.during_step():
                return self._recorded(model, step)
        finally:
            self._scheduled.in_step = False

    def _recorded(self, model: TrainableModel, step: Callable[[], Logs]) -> Logs:
        if self.recorder is None:
            return step()
        with self.recorder.recording() as whole:
            if not whole:
                return step()
            rates = current_rates(model.optimizer)
            logs = step()
            self.recorder.write(logs, rates, model.results_of("train_step"))
            return logs

    def record_steps(self, model: TrainableModel, every: int, rows: int) -> StepRecorder:
        """Records the values of each step from now on. The steps are traced again for that.

        Args:
            model: The model.
            every: Of how many steps the last is recorded.
            rows: How many rows the buffer must have at least.
        """
        if self.recorder is None or self.recorder.every != every or self.recorder.rows < rows:
            with model.distribute_strategy.scope():
                self.recorder = StepRecorder(every, rows)
            model.forget_steps()
        return self.recorder

    def collect_predictions(self, model: TrainableModel, transform: Transform | None) -> PredictionCollector:
        """Collects the predictions of passes of validation from now on. The steps are traced again for that.

        Args:
            model: The model.
            transform: What is collected of the targets and predictions of a batch.

        Raises:
            NotImplementedError: If other processes evaluate the model too.
        """
        if has_workers(model.distribute_strategy):
            raise NotImplementedError(
                "Predictions cannot be collected from the workers of other processes. Received: a model under "
                f"{type(model.distribute_strategy).__name__}"
            )
        with model.distribute_strategy.scope():
            self.collectors.append(PredictionCollector(transform))
        model.forget_steps()
        return self.collectors[-1]

    def set_schedule(self, model: TrainableModel, rate: Curve | None, momentum: Curve | None = None) -> None:
        """Sets the learning rate before each step from now on. The steps are traced again for that.

        Args:
            model: The model.
            rate: The learning rate, by the share of the updates that are done. `None` leaves the rate as it is.
            momentum: The momentum, likewise.

        Raises:
            ValueError: If the optimizer has a schedule of its own.
        """
        self.schedule = None if rate is None else StepSchedule(rate, momentum, model.optimizer)
        model.forget_steps()
