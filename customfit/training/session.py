"""`TrainingSession`: what a training loop needs besides the loop.

Who owns what:

- The session owns the order of things: what happens between two blocks of steps, and at the two ends of an epoch.
- `Progress` says how far the run is, `Stop` whether and why it ends. Checkpoints save both.
- `Limits` and `SignalHandlers` watch steps, time and signals; the session reports to `Stop` what they find.
- `Validation` knows when and on what to validate, `SessionCheckpoints` when and what to save.
- `BatchHooks` calls the callbacks' batch hooks, and decides when logs become numbers.
- The model owns its compiled steps and its gradient pipeline, which outlive a run. The `Source` owns its position.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

from customfit import compat
from customfit.arguments import as_count
from customfit.callbacks import EarlyStopping, LogEvery, make_early_stopping
from customfit.checkpoint import Checkpoints, Directory
from customfit.compat import CallbackLike, History, keras
from customfit.data import Batch, Block, Source, validation_arguments
from customfit.every import Duration
from customfit.execution import CompiledStep, CompiledSteps, compiled_steps
from customfit.training.agreement import Agreement
from customfit.training.checkpointing import SessionCheckpoints
from customfit.training.chief import Silenced
from customfit.training.dry_run import Callbacks, DryRun
from customfit.training.evaluation import check_model, metric_results
from customfit.training.hooks import BatchHooks, callback_objects, end_callbacks, make_callback_list
from customfit.training.limits import Limits
from customfit.training.pauses import Pauses
from customfit.training.plan import Plan, make_plan
from customfit.training.progress import Logs, Progress
from customfit.training.signals import Terminated
from customfit.training.stop import Stop
from customfit.training.validation import Frequency, Validation, make_sources


class TrainingSession:
    """Callbacks, progress, metrics, validation and early stopping around a loop that its owner writes.

    `custom_fit` is written with it: see `customfit/training/loop.py`. Use it as a context manager, so that
    `on_train_end` fires and the best weights are restored whatever happens in the loop.

    Args:
        model: A compiled `CustomTrainModel`.
        epochs, initial_epoch: How many epochs there are, and the one to start with, counted from 0. Default to 1 and 0.
        steps_per_epoch: Steps in an epoch, for the progress bar. Defaults to `None`: not known.
        workers: Options of `keras.utils.Sequence` data, as `fit` of Keras 2 takes them.
        callbacks, verbose, early_stopping, log_every, max_steps, max_time, dry_run: As in `custom_fit`.
        validation_data, validation_freq, validation_steps, validation_batch_size: As in `custom_fit`.
        checkpoint: As in `custom_fit`. Resumed within an epoch, your loop must start at `step`, as `epochs(data)` does.
        identity: Further options that a checkpoint must agree with, by name.
        on_sigterm: How SIGTERM is handled once the current step is done and training has ended in order: `"return"` as
            if training were over, or `"exit"` with `SystemExit(143)`. Without `with` around the loop it is always
            `"exit"`.
        clock: A clock in seconds that never goes back, for `max_time` and `Every(seconds=)`; only differences count.

    Attributes:
        progress: How far the run is: its `epoch`, its `step` in the epoch, and `total_steps`.
        validation: The passes over the validation data.

    Raises:
        RuntimeError: If the model is not compiled.
        TypeError: If the model has no `CustomTrainMixin`.
        ValueError: If an option is wrong.

    Example:

    ```python
    with TrainingSession(model, epochs=10, validation_data=(x_val, y_val), early_stopping=3) as session:
        for epoch in session.epochs():
            for batch in my_batches(epoch):
                logs = session.train_on(batch)
    print(session.history.history["val_loss"])
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        epochs: int = 1,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        callbacks: Callbacks = None,
        verbose: int | str = "auto",
        validation_data: Any = None,
        validation_freq: Frequency = 1,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        workers: Mapping[str, Any] | None = None,
        early_stopping: int | CallbackLike | None = None,
        log_every: int | None = None,
        max_steps: int | None = None,
        max_time: Duration | None = None,
        checkpoint: Directory | Checkpoints | None = None,
        dry_run: bool | int | DryRun = False,
        identity: Mapping[str, Any] | None = None,
        on_sigterm: Literal["return", "exit"] = "return",
        clock: Callable[[], float] = time.monotonic,
    ):
        check_model(model)
        self.model = model
        self._epochs = as_count("epochs", epochs, 0)
        self._initial_epoch = as_count("initial_epoch", initial_epoch, 0)
        self._steps_per_epoch = steps_per_epoch
        self._agreement = Agreement.of(model.distribute_strategy, on_sigterm, clock)
        self._signals = self._agreement.signals
        self._limits = Limits(max_steps, max_time, self._agreement.now)
        self._dry_run = DryRun.of(dry_run)
        checkpoints = None if checkpoint is None else Checkpoints.of(checkpoint)

        # The validation sets come first: by default early stopping monitors the first of them.
        sets = validation_arguments(validation_data, batch_size=validation_batch_size, steps=validation_steps)
        sources = self._dry_run.validation(make_sources(model, sets, workers or {}))
        verbose = compat.resolve_verbose(verbose) if self._agreement.is_chief else 0
        self._silenced = Silenced([] if self._agreement.is_chief else callback_objects(callbacks))
        self._early_stopping = make_early_stopping(early_stopping, list(sources), verbose=int(verbose != 0))
        own = [LogEvery(log_every, print if self._agreement.is_chief else str)] if log_every is not None else []
        own += [self._early_stopping] if self._early_stopping is not None else []
        self.callbacks = make_callback_list(model, callbacks, own, verbose, self._epochs, steps_per_epoch)
        self._hooks = BatchHooks(self.callbacks, "train")

        # The steps come before what evaluates: a run with checkpoints needs them with resumable random ops.
        self._keep_random_state = checkpoint is not None
        self._steps: CompiledSteps | None = None
        self._train_step()

        # What a checkpoint saves, then what makes checkpoints, then what asks for them.
        self.progress = Progress(self._initial_epoch)
        self._stop = Stop(model, self._early_stopping)
        run, now = (model, self.callbacks, self.progress, self._stop), self._agreement.now
        self.validation = Validation(*run[:2], sources, sets, validation_freq, self.progress, now)
        self._checkpoints = SessionCheckpoints(
            *run, self.validation, self._early_stopping, checkpoints, identity, verbose, now
        )
        watched = self._limits, self._agreement, self.validation, self._checkpoints, self._hooks
        self._pauses = Pauses(self.progress, self._stop, *watched)
        self._trainable_state = compat.compiled_trainable_state(model)
        self._running = self._validated = False
        self._resumed_stopped = False  # within an epoch: no further step of it is trained
        self._epoch_logs: Logs | None = None  # of the epoch so far, once its training is over

    def __enter__(self) -> TrainingSession:
        with contextlib.ExitStack() as undo:
            undo.callback(self._checkpoints.close)
            self._checkpoints.open()
            undo.callback(self._signals.end)
            self._signals.begin()
            undo.enter_context(self._trainable_state)
            self.model.gradient_pipeline.begin()
            self._stop.begin()
            self._agreement.update()
            self._limits.begin()
            self.validation.begin()
            undo.pop_all()  # from here on `__exit__` does
        self._running = True
        try:
            compat.start_training(self.model)
            self.callbacks.on_train_begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if kind is None:
            self._signals.end_together()
        ended_well = kind in (None, GeneratorExit)  # the latter if `epochs()` was left by `break`, without `with`
        with contextlib.ExitStack() as ending:  # all of these happen, whatever raises; the last one first
            ending.callback(self._checkpoints.close)
            ending.callback(self._signals.end)
            ending.callback(self._silenced.close)
            if isinstance(self._early_stopping, EarlyStopping):
                ending.callback(self._early_stopping.restore)
            ending.callback(self._record_end, kind)
            ending.callback(lambda: end_callbacks(self.callbacks, self.progress.final_logs, ended_well))
            ending.callback(self._trainable_state.__exit__, None, None, None)
            ending.callback(lambda: setattr(self, "_running", False))
            if ended_well and self._pauses.in_epoch:
                self.end_epoch()
            if ended_well and self.progress.final_logs is not None:
                compat.finalize_weights(self.model)
        returns = self._stop.is_terminated and self._signals.on_sigterm == "return"
        if kind is None and not returns:
            self._signals.raise_pending()  # what has arrived since the last step
        return returns

    def _record_end(self, kind: type[BaseException] | None) -> None:
        self._pauses.in_epoch = False
        if kind is Terminated or (kind is None and self._signals.pending == signal.SIGTERM):
            self._stop.terminate()
        self.history.stop_reason = self.stop_reason
        self.history.validation = self.progress.validations

    def epochs(self, data: Source | None = None) -> Iterator[int]:
        """Yields the epochs that are left to train, each begun before and ended after the body of your loop.

        After the body come `validate`, where it is due, and `end_epoch`, unless the body has called them. The last
        epoch is the one in which something asks to stop.

        Args:
            data: The `Source` that is trained on, if it is one: it restarts, and without data no epoch begins.
        """
        if not self._running:
            with self:
                yield from self.epochs(data)
            return
        if data is not None:
            data.restart()
        within_epoch = False
        if self._checkpoints.resume(data):
            within_epoch = self.progress.step > 0
            limit = self._limits.reached(self.total_steps)
            self._checkpoints.announce(self._epochs, limit)
            self._stop.reach_limit(None if within_epoch else limit)
            if self.should_stop and not within_epoch:
                return  # the run was over
        else:
            self.progress.epoch = compat.first_epoch(self.model, self._initial_epoch, self._steps_per_epoch)
            if self._dry_run.sanity_validation:
                self.validation.run_before_training(self._dry_run.sanity_validation, self._signals.raise_pending)
        epoch = self.progress.epoch
        while epoch < self._epochs and (within_epoch or data is None or data.has_more()):
            self.begin_epoch(epoch)
            if within_epoch:
                self._checkpoints.restore_again()  # what this second begin of the epoch has changed
                if self.validation.due_within_epoch():
                    self._pauses.validate_within_epoch()
                self._resumed_stopped = self._stop.is_final
            within_epoch = False
            yield epoch
            if self._pauses.in_epoch:
                if self.validates(epoch) and not self._validated:
                    self.validate()
                self.end_epoch()
            self._pauses.raise_pending_signals()
            if self.should_stop:
                break
            epoch += 1

    def begin_epoch(self, epoch: int) -> None:
        """Resets the metrics and fires `on_epoch_begin`."""
        self.progress.begin_epoch(epoch)
        self._epoch_logs = None
        self._pauses.in_epoch = True
        self._validated = self._resumed_stopped = False
        self.model.reset_metrics()
        self.callbacks.on_epoch_begin(epoch)

    def end_epoch(self) -> Logs:
        """Fires `on_epoch_end`: History, callbacks and early stopping see the epoch's logs.

        Returns:
            The logs, as numbers.
        """
        epoch = self.progress.epoch
        logs = {**self._training_logs(), **self.validation.logs_within(epoch), **self.progress.own_logs}
        self._pauses.in_epoch = False
        self.callbacks.on_epoch_end(epoch, logs)
        self.progress.end_epoch(logs)
        self._checkpoints.record_score(logs)
        limit = self._limits.reached(self.total_steps)
        if self._checkpoints.due_after_epoch() or epoch + 1 >= self._epochs or self.should_stop or limit:
            self._pauses.save()
        self._stop.reach_limit(limit)  # time may run out after an epoch's last step
        return logs

    def train_on(self, batch: Batch) -> Logs:
        """Trains one step on a batch that you hold, between `on_train_batch_begin` and `on_train_batch_end`.

        Args:
            batch: What the model's `train_step` takes: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The step's logs, as tensors: reading one waits for the device.
        """
        block = self._train_step().block_of(batch, self.step)
        logs = self.train_block(block)
        assert logs is not None  # there is a batch
        return logs

    def train_block(self, block: Block) -> Logs | None:
        """Trains the steps of a block from a `Source`: like `train_on`, in one graph call.

        Returns:
            The last step's logs, as tensors. `None` if the data has ended before the first step.
        """
        self._hooks.begin(block)
        self._limits.before_block()
        self._checkpoints.before_block(block)
        logs = self._train_step().run(block)
        if logs is not None:
            self.progress.advance(block.begin + block.done, block.done, logs)
            self._stop.request(self.model.gradient_pipeline.check_nonfinite(self.model, self.epoch, self.step))
            self._hooks.end(block, logs)
            self._pauses.after_block(block.done)
        return logs

    def block_size(self, step: int) -> int:
        """How many steps of this epoch may run from this one on in one graph call. `Source.blocks` asks for it.

        While a callback has a batch hook, `steps_per_execution`, else about a tenth of a second's worth. 0 at a limit,
        and never more steps than until a limit, a validation or a checkpoint is due.
        """
        if self._resumed_stopped:
            return 0
        most = self._pauses.steps_until_next(begins_epoch=step == 0)
        size = self._hooks.block_size(step, compat.steps_per_execution(self.model), self._train_step().pace)
        return int(min(size, most))

    def validates(self, epoch: int) -> bool:
        """Whether validation is due after this epoch."""
        return self.validation.due_after_epoch(epoch)

    def validate(self) -> Logs:
        """Runs `test_step` over the validation data. No weight moves.

        Returns:
            The logs, as numbers: `val_loss` and so on. They become part of the epoch's.
        """
        training_logs = self._training_logs()  # before the metrics start again
        validation_logs = self._pauses.validate(self.validation.run)
        training_logs.update(validation_logs)
        self._validated = True
        return validation_logs

    def log(self, **values: Any) -> None:
        """Adds values of your own to this epoch's logs, where History, callbacks and early stopping find them."""
        self.progress.own_logs.update(compat.pythonify_logs(values))

    def plan(self, data: Source) -> Plan:
        """What this session would do with the data, without a step."""
        return make_plan(
            self.model,
            data,
            self.validation,
            self._checkpoints,
            range(self._initial_epoch, self._epochs),
            self._limits.max_steps,
            self._early_stopping,
            self.callbacks.callbacks,
        )

    @property
    def epoch(self) -> int:
        """The current epoch, or between two epochs the next one; counted from 0."""
        return self.progress.epoch

    @property
    def step(self) -> int:
        """Steps trained in the current epoch."""
        return self.progress.step

    @property
    def total_steps(self) -> int:
        """Steps trained in all epochs, including those before a resume."""
        return self.progress.total_steps

    @property
    def should_stop(self) -> bool:
        """Whether a limit, a callback, early stopping or you (`model.stop_training = True`) asked to stop."""
        return self._stop.is_requested

    @property
    def stop_reason(self) -> str | None:
        """Why early stopping, a limit, SIGTERM or `nonfinite="stop"` ended training, in words, or `None`."""
        return self._stop.reason

    @property
    def history(self) -> History:
        """The losses and metrics of each epoch."""
        return next(c for c in self.callbacks.callbacks if isinstance(c, keras.callbacks.History))

    def _train_step(self) -> CompiledStep:
        """The model's compiled `train_step` of this moment: a callback may have compiled the model again."""
        steps = compiled_steps(self.model, self._keep_random_state)
        if steps is not self._steps:
            self._steps = steps
            compat.build_optimizer(self.model)
            self.model.gradient_pipeline.prepare(self.model)
        return steps.train

    def _training_logs(self) -> Logs:
        """This epoch's logs, as numbers: the metrics' results over its steps, and validation once it has run."""
        if self._epoch_logs is None:
            self.model.gradient_pipeline.flush()
            self._hooks.refresh()
            self._epoch_logs = metric_results(self.model, self.progress.step_logs, "train_step")
        return self._epoch_logs
