"""`Progress`: how far a training run is."""

from __future__ import annotations

import dataclasses
from typing import Any

from customfit import compat

Logs = dict[str, Any]  # by the metric's name: numbers, or tensors that nobody has read yet


@dataclasses.dataclass
class Progress:
    """How far a run is. The session holds it once; a checkpoint saves it as it is and puts it back as it is.

    Attributes:
        epoch: The current epoch, or between two epochs the next one; counted from 0.
        step: Steps trained in that epoch; 0 between two epochs.
        total_steps: Steps trained in all epochs.
        step_logs: The logs of the last step.
        own_logs: Values added to this epoch's logs by `session.log()`.
        final_logs: The logs of the last epoch that ended, or `None`.
        validations: The logs of each validation within an epoch, with its step and epoch.
        validation_passes: Passes over the validation data, within epochs and after them.
        sanity_batches: Batches of each validation set that were read before the first epoch.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    step_logs: Logs = dataclasses.field(default_factory=dict)
    own_logs: Logs = dataclasses.field(default_factory=dict)
    final_logs: Logs | None = None
    validations: list[Logs] = dataclasses.field(default_factory=list)
    validation_passes: int = 0
    sanity_batches: int = 0

    def begin_epoch(self, epoch: int) -> None:
        """Starts an epoch."""
        self.epoch, self.step, self.step_logs, self.own_logs = epoch, 0, {}, {}

    def end_epoch(self, logs: Logs) -> None:
        """Ends the current epoch. The next one is up."""
        self.epoch, self.step, self.own_logs, self.final_logs = self.epoch + 1, 0, {}, logs

    def advance(self, step: int, steps: int, logs: Logs) -> None:
        """Records a block of steps.

        Args:
            step: The step of the epoch that comes next.
            steps: How many steps the block had.
            logs: The logs of its last step.
        """
        self.step, self.step_logs = step, logs
        self.total_steps += steps

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint saves: all of it, the logs as numbers."""
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**state, "step_logs": compat.pythonify_logs(self.step_logs)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        for name, value in state.items():
            setattr(self, name, value)
