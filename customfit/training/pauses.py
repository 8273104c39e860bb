"""`Pauses`: what happens between two blocks of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from customfit.training.agreement import Agreement
from customfit.training.checkpointing import SessionCheckpoints
from customfit.training.hooks import BatchHooks
from customfit.training.limits import Limits
from customfit.training.observers import Moment, session_observers
from customfit.training.progress import Logs, Progress
from customfit.training.signals import Terminated
from customfit.training.stop import Stop
from customfit.training.validation import Validation


class Pauses:
    """Between two blocks of steps: validation, limits, checkpoints, signals, in this order.

    Args:
        progress: How far the run is.
        stop: Whether and why it ends. Limits are reported there.
        limits: How many steps may still run.
        agreement: What all workers know alike: which signals are pending.
        validation: When to validate within an epoch.
        checkpoints: When to save.
        hooks: The batch hooks, whose progress bar is refreshed before a validation.

    Attributes:
        in_epoch: Whether an epoch is open.
    """

    def __init__(
        self,
        progress: Progress,
        stop: Stop,
        limits: Limits,
        agreement: Agreement,
        validation: Validation,
        checkpoints: SessionCheckpoints,
        hooks: BatchHooks,
    ):
        self.in_epoch = False
        self._progress = progress
        self._stop = stop
        self._limits = limits
        self._signals = agreement.signals
        self._validation = validation
        self._checkpoints = checkpoints
        self._hooks = hooks
        self._agreement = agreement

    def steps_until_next(self, begins_epoch: bool) -> float:
        """How many steps may run before something is due. 0 at a limit, which is then recorded.

        Args:
            begins_epoch: Whether they are the first of an epoch.
        """
        done = self._progress.total_steps
        left = self._limits.steps_left(done, begins_epoch)
        if left == 0:
            self._end_by_limit()
            return 0
        dues = [self._validation.steps_until_due(), self._checkpoints.steps_until_due()]
        return min(left, *dues, *(observer.steps_until_due(done) for observer in session_observers))

    def after_block(self, steps: int) -> None:
        """Does what is due after a block of so many steps."""
        self._agreement.update()
        self._limits.after_block(steps)
        self._checkpoints.heartbeat()
        if self._validation.due_within_epoch():
            self.validate_within_epoch()
        if self._limits.reached(self._progress.total_steps):
            self._end_by_limit()
        if self._checkpoints.due_after_block():
            self.save()
        self.raise_pending_signals()
        self._tell_observers("step")

    def validate_within_epoch(self) -> None:
        """Validates. The training metrics continue afterwards where they were."""
        self._hooks.refresh()
        logs = self.validate(self._validation.run_within_epoch)
        self._checkpoints.record_score(logs)

    def validate(self, run: Callable[[Callable[[], None]], Logs]) -> Logs:
        """Makes a validation pass that signals can end.

        Args:
            run: Makes the pass. It is given what to call between blocks of validation steps.

        Returns:
            The logs of the pass.
        """
        with self._saved_if_interrupted():
            return run(self.between_validation_blocks)

    def between_validation_blocks(self) -> None:
        """Raises pending signals, and shows other processes that this one is alive."""
        self._checkpoints.heartbeat()
        self._tell_observers("validating")
        self._agreement.update()
        self._signals.raise_pending()

    def raise_pending_signals(self) -> None:
        """Raises a signal that has arrived, after saving."""
        if self._signals.pending is not None:
            self.save()
        self._signals.raise_pending()

    def save(self) -> None:
        """Makes a checkpoint of this moment, within an epoch or after one."""
        if self.in_epoch or not self._stop.at_limit:  # at a limit the open epoch is saved, not its end
            self._checkpoints.save()

    def _end_by_limit(self) -> None:
        """Records that a limit is reached, and saves the open epoch: a later call may continue in it."""
        if not self._stop.at_limit:
            self._stop.reach_limit(self._limits.reached(self._progress.total_steps))
            self.save()

    @contextlib.contextmanager
    def _saved_if_interrupted(self) -> Iterator[None]:
        """Saves the moment before a validation that a signal ends: it is due again in the resumed run."""
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            if not self._signals.at_once:
                self.save()
            raise

    def _tell_observers(self, moment: Moment) -> None:
        for observer in session_observers:
            observer.on_moment(moment, self._progress.total_steps)
