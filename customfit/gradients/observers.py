"""`StepObservers`: what callbacks do in the graph of each step."""

from __future__ import annotations

from typing import Callable

from customfit.compat import tf
from customfit.execution import Logs, TrainableModel
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
        self._in_step = False  # that is scheduled

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
        if self.schedule is None or self._in_step:
            return self._recorded(model, step)
        self._in_step = True
        try:
            with self.schedule.during_step():
                return self._recorded(model, step)
        finally:
            self._in_step = False

    def _recorded(self, model: TrainableModel, step: Callable[[], Logs]) -> Logs:
        if self.recorder is None:
            return step()
        with self.recorder.recording() as whole:
            if not whole:
                return step()
            rates = current_rates(model.optimizer)
            logs = step()
            self.recorder.write(logs, rates)
            return logs

    def record_steps(self, model: TrainableModel, every: int, rows: int) -> StepRecorder:
        """Records the values of each step from now on. The steps are traced again for that.

        Args:
            model: The model.
            every: Of how many steps the last is recorded.
            rows: How many rows the buffer must have at least.
        """
        if self.recorder is None or self.recorder.every != every or self.recorder.rows < rows:
            self.recorder = StepRecorder(every, rows)
            model.forget_steps()
        return self.recorder

    def collect_predictions(self, model: TrainableModel, transform: Transform | None) -> PredictionCollector:
        """Collects the predictions of passes of validation from now on. The steps are traced again for that.

        Args:
            model: The model.
            transform: What is collected of the targets and predictions of a batch.

        Raises:
            NotImplementedError: If the model is evaluated on several replicas.
        """
        count = model.distribute_strategy.num_replicas_in_sync
        if count > 1:
            raise NotImplementedError(
                f"Predictions cannot be collected in their order on several replicas. Received: {count} replicas."
            )
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
            NotImplementedError: If the model is trained on several replicas.
            ValueError: If the optimizer has a schedule of its own.
        """
        count = model.distribute_strategy.num_replicas_in_sync
        if rate is not None and count > 1:
            raise NotImplementedError(
                "On several replicas the learning rate cannot be set within a step. Use a schedule of "
                f"`keras.optimizers.schedules`. Received: {count} replicas."
            )
        self.schedule = None if rate is None else StepSchedule(rate, momentum, model.optimizer)
        model.forget_steps()
