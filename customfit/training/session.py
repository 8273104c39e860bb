"""`TrainingSession`: what a training loop needs besides the loop."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.callbacks import EarlyStopping, LogEvery, make_early_stopping
from customfit.checkpoint import Progress, random_variables
from customfit.compat import keras
from customfit.data import Block, FirstBatches, Source, make_validation_sources
from customfit.execution import VariableSnapshot, compiled_steps, has_workers
from customfit.training.checkpointing import Resumption
from customfit.training.dry_run import DryRun
from customfit.training.evaluation import Evaluation, metric_results
from customfit.training.hooks import BatchHooks, make_callback_list
from customfit.training.limits import Limits
from customfit.training.plan import Plan, make_plan
from customfit.training.signals import SignalHandlers, Terminated
from customfit.training.validation import Validation, metric_variables


class TrainingSession:
    """Callbacks, progress, metrics, validation and early stopping around a loop that its owner writes.

    `custom_fit` is written with it; see `customfit/loop.py`. Use it as a context manager, so that `on_train_end` fires
    and the best weights come back whatever happens in the loop.

    Args:
        model: A compiled `CustomTrainModel`, or another model with `CustomTrainMixin`.
        epochs: The epoch at which training ends. Defaults to 1.
        initial_epoch: The epoch at which it begins. Defaults to 0.
        steps_per_epoch: Steps in an epoch, for the progress bar. Defaults to `None`: not known.
        callbacks: Callbacks as in `fit`, or a `CallbackList`.
        verbose: `0`, `1`, `2` or `"auto"`, as in `fit`.
        validation_data: Data for `validate`: as in `fit`, a `Source`, or a dict of such by name, whose logs are then
            `val_<name>_loss` and so on.
        validation_freq: After which epochs to validate: every so many, or a list of epochs counted from 1.
        validation_interval: After how many steps to validate, counted over all epochs, instead of after epochs.
        validation_steps: Batches in a validation pass. Defaults to all.
        validation_batch_size: Rows in a batch of validation data. Defaults to 32.
        workers: Options of `keras.utils.Sequence` data, as `fit` of Keras 2 takes them.
        early_stopping: A patience in epochs, a dict of options, an `EarlyStopping`, or Keras's own.
        log_every: Prints a line of metrics every so many steps.
        max_steps: The step at which training ends, counted over all epochs.
        max_time: For how long to train: seconds, a `datetime.timedelta` or "HH:MM:SS".
        checkpoints: A `Checkpointer`, or the directory of one. Where it takes up an epoch in its middle, `step` says
            at which step your loop has to go on; `epochs(data)` sees to that.
        dry_run: How the training is tried out first, on few batches.
        identity: Further options that a checkpoint must agree with, by name.
        on_sigterm: What becomes of SIGTERM once the step is done and training has ended in order: "return" as if
            training were over, or "exit" with `SystemExit(143)`, as always without `with` around the loop.

    Attributes:
        history: The `History` of the run.
        epoch: The current epoch.
        step: Steps trained in the current epoch.
        total_steps: Steps trained in all epochs.

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
        callbacks: Any = None,
        verbose: int | str = "auto",
        validation_data: Any = None,
        validation_freq: Any = 1,
        validation_interval: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        workers: dict | None = None,
        early_stopping: Any = None,
        log_every: int | None = None,
        max_steps: int | None = None,
        max_time: Any = None,
        checkpoints: Any = None,
        identity: dict | None = None,
        on_sigterm: str = "return",
        dry_run: DryRun | None = None,
    ):
        if not hasattr(model, "_compiled_steps"):
            raise TypeError(
                "The model must be a `CustomTrainModel`, or of a class with `CustomTrainMixin` before its Keras model. "
                f"Received: a {type(model).__name__}"
            )
        if not compat.is_compiled(model):
            raise RuntimeError("The model must be compiled before it is trained: call `model.compile()` first.")
        for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
                raise ValueError(f"`{name}` must be an integer, 0 or more. Received: {name}={value!r}")
        self._limits = Limits(max_steps, max_time)
        if max_time is not None and has_workers(model.distribute_strategy):
            raise ValueError(
                "`max_time` must not be set with several workers, whose clocks differ: one would wait for those that "
                f"have ended. Use `max_steps`. Received: max_time={max_time!r}"
            )
        self._signals = SignalHandlers(on_sigterm)
        self.model = model
        self.steps_per_execution = compat.steps_per_execution(model)
        self.epoch: Any = None
        self.step = 0
        self.total_steps = 0
        self._epochs = epochs
        self._initial_epoch = initial_epoch
        self._steps_per_epoch = steps_per_epoch
        validation_sources: dict[str, Source] = {}
        if validation_data is not None:
            validation_sources = make_validation_sources(
                validation_data,
                batch_size=validation_batch_size,
                steps=validation_steps,
                model=model,
                **(workers or {}),
            )
        self._dry_run = dry_run or DryRun()
        validation_sources = self._dry_run.validation(validation_sources)
        verbose = compat.verbosity(verbose)
        self._stopping = make_early_stopping(early_stopping, list(validation_sources), verbose=int(verbose != 0))
        own = [LogEvery(log_every)] if log_every is not None else []
        own += [self._stopping] if self._stopping is not None else []
        self.callbacks = make_callback_list(model, callbacks, own, verbose, epochs, steps_per_epoch)
        self._hooks = BatchHooks(self.callbacks, "train")
        self._train_step = compiled_steps(model, counts_randomness=checkpoints is not None).train
        compat.build_optimizer(model)
        model.gradient_pipeline.prepare(model)
        evaluation = Evaluation(model, self.callbacks, progress=False)
        self._validation = Validation(evaluation, validation_sources, validation_freq, validation_interval)
        self._resumption = Resumption(
            model, self.callbacks.callbacks, self._validation, self._stopping, checkpoints, identity
        )
        self._trainable_state = compat.compiled_trainable_state(model)
        self._running = False
        self._in_epoch = False
        self._stopped_before = False  # within the epoch that was taken up: no step of it is left
        self._first_epoch = lambda: initial_epoch
        self._step_logs: dict = {}  # of the last step; tensors
        self._epoch_logs: dict | None = None  # of the epoch so far, once its training is over
        self._extra_logs: dict = {}
        self._final_logs: dict | None = None
        self._limit: str | None = None  # which one was reached
        self._reason_before: str | None = None  # why the training that was taken up had stopped
        self._terminated = False

    # ------------------------------------------------------------------------------------------ begin and end

    def __enter__(self) -> TrainingSession:
        with contextlib.ExitStack() as undo:
            undo.callback(self._resumption.close)
            self._resumption.open()
            undo.callback(self._signals.end)
            self._signals.begin()
            undo.enter_context(self._trainable_state)
            self.model.gradient_pipeline.begin()
            self._limits.begin()
            undo.pop_all()  # from here on `__exit__` does
        self._running, self._terminated = True, False
        try:
            self._first_epoch = compat.start_training(self.model, self._initial_epoch, self._steps_per_epoch)
            self.callbacks.on_train_begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, error, traceback) -> bool:
        ended_well = kind in (None, GeneratorExit)  # the latter where `epochs()` was left by `break`, without `with`
        self._terminated = kind is Terminated
        try:
            if ended_well and self._in_epoch:
                self.end_epoch()
            if ended_well and self._final_logs is not None:
                compat.finish_training(self.model)
        finally:
            self._running = self._in_epoch = False
            self._trainable_state.__exit__(None, None, None)
            try:
                self._end_callbacks(ended_well)
            finally:
                self._terminated = self._terminated or (kind is None and self._signals.pending == signal.SIGTERM)
                self.history.stop_reason = self.stop_reason
                self.history.validation = self._validation.done
                try:
                    if isinstance(self._stopping, EarlyStopping):
                        self._stopping.restore()  # even where another callback's `on_train_end` raised before it
                finally:
                    self._signals.end()
                    self._resumption.close()
        returns = self._terminated and self._signals.on_sigterm == "return"
        if kind is None and not returns:
            self._signals.raise_pending()  # what has come since the last step
        return returns

    def epochs(self, data: Source | None = None) -> Iterator[int]:
        """The epochs that are left to train, each begun before and ended after the body of your loop.

        An epoch begins with metrics at zero and `on_epoch_begin`. After the body come `validate`, where it is due, and
        `end_epoch`, unless the body has called them. The last epoch is the one in which something asks to stop.

        Args:
            data: The `Source` that is trained on, if it is one: it begins anew, and without data no epoch begins.
        """
        if not self._running:
            with self:
                yield from self.epochs(data)
            return
        if data is not None:
            data.restart()
        progress = self._go_on(self._resumption.begin(data))
        epoch = self._first_epoch() if progress is None else progress.epoch
        if progress is None:
            self._validate_for_sanity()
        while epoch < self._epochs and not self._is_over(progress):
            within_epoch = progress is not None and progress.step > 0
            if data is not None and not within_epoch and not data.has_more():
                break
            self.begin_epoch(epoch)
            if within_epoch:
                self._go_on_within_epoch()
            progress = None
            yield epoch
            if self._in_epoch:
                if self.validates(epoch) and not self._validated:
                    self.validate()
                self.end_epoch()
            self._raise_pending_signals()
            if self.should_stop:
                break
            epoch += 1

    def begin_epoch(self, epoch: int) -> None:
        """Sets the metrics to zero and fires `on_epoch_begin`."""
        self.epoch, self.step = epoch, 0
        self._step_logs, self._epoch_logs, self._extra_logs = {}, None, {}
        self._in_epoch, self._validated, self._stopped_before = True, False, False
        self.model.reset_metrics()
        self.callbacks.on_epoch_begin(epoch)

    def end_epoch(self) -> dict:
        """Fires `on_epoch_end`: History, callbacks and early stopping see the epoch's logs.

        Returns:
            The logs, as numbers.
        """
        logs = {**self._training_logs(), **self._validation.logs_within(self.epoch), **self._extra_logs}
        self._in_epoch = False
        self.callbacks.on_epoch_end(self.epoch, logs)
        self._final_logs = logs
        self._resumption.rate(logs)
        limit = self._limits.reached(self.total_steps)
        if self._resumption.after_epoch() or self.epoch + 1 >= self._epochs or self.should_stop or limit:
            self._save()
        self._limit = self._limit or limit  # the time may run out after an epoch's last step
        return logs

    # -------------------------------------------------------------------------------------- steps and validation

    def train_on(self, batch: Any) -> dict:
        """One `train_step` on a batch that you hold, between `on_train_batch_begin` and `on_train_batch_end`.

        Args:
            batch: What the model's `train_step` takes: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The step's logs, as tensors: reading one waits for the device.
        """
        block = self._train_step.block_of(batch, self.step)
        self._resumption.note_batch(block)
        logs = self.train_block(block)
        assert logs is not None  # there is a batch
        return logs

    def train_block(self, block: Block) -> dict | None:
        """The steps of a block from a `Source`, as `train_on` but in one graph call.

        Returns:
            The last step's logs, as tensors; `None` where the data has ended before the first step.
        """
        self._hooks.begin(block)
        self._limits.before_block()
        logs = self._train_step.run(block)
        if logs is not None:
            self.step = block.begin + block.done
            self.total_steps += block.done
            self._step_logs = logs
            self.model.gradient_pipeline.check_nonfinite(self.model, self.epoch, self.step)
            self._hooks.end(block, logs)
            self._after_block(block.done)
        return logs

    def block_size(self, step: int) -> int:
        """How many steps of this epoch may run from this one on in one graph call: what `Source.blocks` asks.

        While a callback has a batch hook, `steps_per_execution`; else about a tenth of a second's worth. None where a
        limit is reached, and never more than there are until a limit, a validation or a checkpoint is due.
        """
        if self._stopped_before:
            return 0
        left = self._limits.steps_left(self.total_steps, begins_epoch=step == 0)
        if left == 0:
            self._end_by_limit()
            return 0
        size = self._hooks.block_size(step, self.steps_per_execution, self._train_step.pace)
        dues = (part.steps_until_due(self.total_steps) for part in (self._validation, self._resumption))
        return int(min(size, left, *dues))

    def validates(self, epoch: int) -> bool:
        """Whether `validation_freq` has this epoch validated."""
        return self._validation.due_after_epoch(epoch)

    def validate(self) -> dict:
        """Runs `test_step` over the validation data; no weight moves.

        Returns:
            The logs, as numbers: `val_loss` and so on. They become part of the epoch's.
        """
        training_logs = self._training_logs()  # before the metrics start again
        validation_logs = self._run_validation()
        training_logs.update(validation_logs)
        self._validated = True
        return validation_logs

    def plan(self, data: Source, checkpoint_dir: Any = None, checkpoint_interval: Any = "epoch") -> Plan:
        """What this session would do with the data, without a step."""
        resumed, refused = self._resumption.peek(data)
        return make_plan(
            self.model,
            data,
            self._validation,
            epochs=self._epochs,
            initial_epoch=self._initial_epoch,
            max_steps=self._limits.max_steps,
            resumed=resumed,
            refused=refused,
            checkpoint_dir=checkpoint_dir,
            checkpoint_interval=checkpoint_interval,
            early_stopping=self._stopping,
            callbacks=self.callbacks.callbacks,
        )

    def log(self, **values: Any) -> None:
        """Adds values of your own to this epoch's logs, where History, callbacks and early stopping find them."""
        self._extra_logs.update(compat.to_host(values))

    # ---------------------------------------------------------------------------------------------------- state

    @property
    def should_stop(self) -> bool:
        """Whether a limit, a callback, early stopping or you (`model.stop_training = True`) asked to stop."""
        return self._limit is not None or bool(self.model.stop_training)

    @property
    def stop_reason(self) -> str | None:
        """Why early stopping, a limit, SIGTERM or `nonfinite="stop"` ended training, in words, or `None`."""
        if self._terminated:
            return "SIGTERM"
        reasons = (
            getattr(self._stopping, "stop_reason", None),
            self._limit,
            self.model.gradient_pipeline.guard.stop_reason,
            self._reason_before,
        )
        return next((reason for reason in reasons if reason is not None), None)

    @property
    def history(self) -> keras.callbacks.History:
        """The losses and metrics of each epoch."""
        return next(c for c in self.callbacks.callbacks if isinstance(c, keras.callbacks.History))

    def _end_callbacks(self, ended_well: bool) -> None:
        if ended_well:
            self.callbacks.on_train_end(self._final_logs)
            return
        for callback in self.callbacks.callbacks:
            # At the end of training this one deletes its backup, which is for training that was cut off.
            if not isinstance(callback, keras.callbacks.BackupAndRestore):
                callback.on_train_end(self._final_logs)

    def _training_logs(self) -> dict:
        """This epoch's logs so far, as numbers: the metrics' results over its steps, and validation once it has run."""
        if self._epoch_logs is None:
            self.model.gradient_pipeline.flush()
            self._hooks.refresh()
            self._epoch_logs = metric_results(self.model, self._step_logs)
        return self._epoch_logs

    def _after_block(self, steps: int) -> None:
        """Between two blocks, and within an epoch: validation, limits, checkpoints, signals."""
        self._limits.after_block(steps)
        if self._validation.due_at(self.total_steps):
            self._validate_within_epoch()
        if self._limits.reached(self.total_steps):
            self._end_by_limit()
        if self._resumption.after_block(self.total_steps):
            self._save()
        self._raise_pending_signals()

    def _validate_within_epoch(self) -> None:
        self._hooks.refresh()
        kept = VariableSnapshot(metric_variables(self.model))
        logs = self._run_validation()
        kept.restore()  # the training metrics count on
        self._validation.done.append({"step": self.total_steps, "epoch": self.epoch, **logs})
        self._resumption.rate(logs)
        for callback in self.callbacks.callbacks:
            if hasattr(callback, "on_validation_end"):
                callback.on_validation_end(self.total_steps, logs)

    def _validate_for_sanity(self) -> None:
        """A few batches before the first epoch. It leaves no trace, but that data which shuffles itself has done so."""
        batches = self._dry_run.sanity_validation
        if not batches:
            return
        for source in self._validation.data.values():
            kept = VariableSnapshot(random_variables(self.model))
            silent = keras.callbacks.CallbackList(model=self.model)
            Evaluation(self.model, silent, progress=False).run(
                FirstBatches(source, batches), self._signals.raise_pending
            )
            kept.restore()
        self._validation.passes += 1

    def _run_validation(self) -> dict:
        kept = VariableSnapshot([*metric_variables(self.model), *random_variables(self.model)])
        try:
            return self._validation.run(self._between_validation_steps)
        except (KeyboardInterrupt, Terminated):
            kept.restore()  # the checkpoint is of the moment before: validation is due
            if not self._signals.at_once:
                self._save()
            raise

    def _between_validation_steps(self) -> None:
        self._resumption.heartbeat()
        self._signals.raise_pending()

    def _end_by_limit(self) -> None:
        """Notes that a limit is reached. The checkpoint is of the open epoch: with another limit it goes on."""
        if self._limit is None:
            self._limit = self._limits.reached(self.total_steps)
            self._save()

    def _raise_pending_signals(self) -> None:
        if self._signals.pending is not None:
            self._save()
        self._signals.raise_pending()

    # ---------------------------------------------------------------------------------------------- checkpoints

    def _go_on(self, progress: Progress | None) -> Progress | None:
        if progress is not None:
            self.total_steps = progress.total_steps
            self._validation.done[:], self._validation.passes = progress.validations, progress.validation_passes
            self._step_logs, self._extra_logs = progress.step_logs, progress.extra_logs
            self._final_logs = progress.final_logs
            self._reason_before = progress.stop_reason if progress.stopped else None
        return progress

    def _go_on_within_epoch(self) -> None:
        progress = self._resumption.again()
        self._go_on(progress)
        self.step = progress.step
        self.model.stop_training = progress.stopped
        if self._validation.due_at(self.total_steps):
            self._validate_within_epoch()
        self._stopped_before = bool(self.model.stop_training)

    def _is_over(self, progress: Progress | None) -> bool:
        """Whether the training that was taken up has ended: then no further epoch begins."""
        if progress is None:
            return False
        if progress.step == 0:
            self._limit = self._limits.reached(progress.total_steps)
        return (progress.stopped and progress.step == 0) or self._limit is not None

    def _save(self) -> None:
        """Makes a checkpoint of this moment: within an epoch, or after one."""
        after_limit = self._limit is not None and not self._in_epoch  # the epoch stays open: a later call may go on
        if self.epoch is None or after_limit or not self._resumption.saves:
            return
        progress = Progress(
            epoch=self.epoch if self._in_epoch else self.epoch + 1,
            step=self.step if self._in_epoch else 0,
            total_steps=self.total_steps,
            stopped=bool(self.model.stop_training),
            stop_reason=self.stop_reason,
            validations=self._validation.done,
            validation_passes=self._validation.passes,
            extra_logs=self._extra_logs if self._in_epoch else {},
            step_logs=compat.to_host(self._step_logs),
            final_logs=self._final_logs,
        )
        self._resumption.save(progress)
