"""`TrainingSession`: what a training loop needs besides the loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from customfit import compat
from customfit.callbacks import LogEvery
from customfit.compat import keras
from customfit.data import Block, Source, make_validation_sources
from customfit.evaluation import Evaluation, metric_results
from customfit.execution import compiled_steps
from customfit.hooks import BatchHooks
from customfit.stopping import EarlyStopping, make_early_stopping


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
        validation_steps: Batches in a validation pass. Defaults to all.
        validation_batch_size: Rows in a batch of validation data. Defaults to 32.
        workers: Options of `keras.utils.Sequence` data, as `fit` of Keras 2 takes them.
        early_stopping: A patience in epochs, a dict of options, an `EarlyStopping`, or Keras's own.
        log_every: Prints a line of metrics every so many steps.

    Attributes:
        history: The `History` of the run.
        epoch: The current epoch.
        step: Steps trained in the current epoch.

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
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        workers: dict | None = None,
        early_stopping: Any = None,
        log_every: int | None = None,
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
        _check_validation_freq(validation_freq)
        self.model = model
        self.steps_per_execution = compat.steps_per_execution(model)
        self.epoch: int | None = None
        self.step = 0
        self._epochs = epochs
        self._initial_epoch = initial_epoch
        self._steps_per_epoch = steps_per_epoch
        self._validation_freq = validation_freq
        self._validation_data: dict[str, Source] = {}
        if validation_data is not None:
            self._validation_data = make_validation_sources(
                validation_data,
                batch_size=validation_batch_size,
                steps=validation_steps,
                model=model,
                **(workers or {}),
            )
        verbose = compat.verbosity(verbose)
        self._stopping = make_early_stopping(early_stopping, list(self._validation_data), verbose=int(verbose != 0))
        own = [LogEvery(log_every)] if log_every is not None else []
        own += [self._stopping] if self._stopping is not None else []
        self.callbacks = self._callback_list(callbacks, own, verbose)
        self._hooks = BatchHooks(self.callbacks, "train")
        compat.build_optimizer(model)
        model.gradient_pipeline.prepare(model)
        self._train_step = compiled_steps(model).train
        self._evaluation = Evaluation(model, self.callbacks, progress=False)
        self._trainable_state = compat.compiled_trainable_state(model)
        self._running = False
        self._in_epoch = False
        self._first_epoch = lambda: initial_epoch
        self._step_logs: dict = {}  # of the last step; tensors
        self._epoch_logs: dict | None = None  # of the epoch so far, once its training is over
        self._extra_logs: dict = {}
        self._final_logs: dict | None = None

    # ------------------------------------------------------------------------------------------ begin and end

    def __enter__(self) -> TrainingSession:
        self._running = True
        self._trainable_state.__enter__()
        try:
            self._first_epoch = compat.start_training(self.model, self._initial_epoch, self._steps_per_epoch)
            self.callbacks.on_train_begin()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, error, traceback) -> None:
        ended_well = kind in (None, GeneratorExit)  # the latter where `epochs()` was left by `break`, without `with`
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
                if isinstance(self._stopping, EarlyStopping):
                    self._stopping.restore()  # even where another callback's `on_train_end` raised before it
                self.history.stop_reason = self.stop_reason

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
        for epoch in range(self._first_epoch(), self._epochs):
            if data is not None and not data.has_more():
                break
            self.begin_epoch(epoch)
            yield epoch
            if self._in_epoch:
                if self.validates(epoch) and not self._validated:
                    self.validate()
                self.end_epoch()
            if self.should_stop:
                break

    def begin_epoch(self, epoch: int) -> None:
        """Sets the metrics to zero and fires `on_epoch_begin`."""
        self.epoch, self.step = epoch, 0
        self._step_logs, self._epoch_logs, self._extra_logs = {}, None, {}
        self._in_epoch, self._validated = True, False
        self.model.reset_metrics()
        self.callbacks.on_epoch_begin(epoch)

    def end_epoch(self) -> dict:
        """Fires `on_epoch_end`: History, callbacks and early stopping see the epoch's logs.

        Returns:
            The logs, as numbers.
        """
        logs = {**self._training_logs(), **self._extra_logs}
        self._in_epoch = False
        self.callbacks.on_epoch_end(self.epoch, logs)
        self._final_logs = logs
        return logs

    # -------------------------------------------------------------------------------------- steps and validation

    def train_on(self, batch: Any) -> dict:
        """One `train_step` on a batch that you hold, between `on_train_batch_begin` and `on_train_batch_end`.

        Args:
            batch: What the model's `train_step` takes: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The step's logs, as tensors: reading one waits for the device.
        """
        logs = self.train_block(self._train_step.block_of(batch, self.step))
        assert logs is not None  # there is a batch
        return logs

    def train_block(self, block: Block) -> dict | None:
        """The steps of a block from a `Source`, as `train_on` but in one graph call.

        Returns:
            The last step's logs, as tensors; `None` where the data has ended before the first step.
        """
        self._hooks.begin(block)
        logs = self._train_step.run(block)
        if logs is not None:
            self.step = block.begin + block.done
            self._step_logs = logs
            self.model.gradient_pipeline.heed(self.model, self.epoch, self.step)
            self._hooks.end(block, logs)
        return logs

    def block_size(self, step: int) -> int:
        """How many steps of this epoch may run from this one on in one graph call: what `Source.blocks` asks.

        While a callback has a batch hook, `steps_per_execution`; else about a tenth of a second's worth.
        """
        return self._hooks.block_size(step, self.steps_per_execution, self._train_step.pace)

    def validates(self, epoch: int) -> bool:
        """Whether `validation_freq` has this epoch validated."""
        if not self._validation_data:
            return False
        if isinstance(self._validation_freq, int):
            return (epoch + 1) % self._validation_freq == 0
        return epoch + 1 in self._validation_freq

    def validate(self) -> dict:
        """Runs `test_step` over the validation data; no weight moves.

        Returns:
            The logs, as numbers: `val_loss` and so on. They become part of the epoch's.
        """
        if not self._validation_data:
            raise ValueError("`validation_data` must be given to validate. Received: validation_data=None")
        training_logs = self._training_logs()  # before the metrics start again
        validation_logs = {
            f"{prefix}{name}": value
            for prefix, source in self._validation_data.items()
            for name, value in self._evaluation.run(source).items()
        }
        training_logs.update(validation_logs)
        self._validated = True
        return validation_logs

    def log(self, **values: Any) -> None:
        """Adds values of your own to this epoch's logs, where History, callbacks and early stopping find them."""
        self._extra_logs.update(compat.to_host(values))

    # ---------------------------------------------------------------------------------------------------- state

    @property
    def should_stop(self) -> bool:
        """Whether a callback, early stopping or you (`model.stop_training = True`) asked to stop."""
        return bool(self.model.stop_training)

    @property
    def stop_reason(self) -> str | None:
        """Why early stopping or `nonfinite="stop"` ended training, in a sentence, or `None`."""
        return getattr(self._stopping, "stop_reason", None) or self.model.gradient_pipeline.guard.stop_reason

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

    def _callback_list(self, callbacks: Any, own: list, verbose: int | str) -> keras.callbacks.CallbackList:
        if isinstance(callbacks, keras.callbacks.CallbackList):
            if not any(isinstance(callback, keras.callbacks.History) for callback in callbacks.callbacks):
                own = [*own, keras.callbacks.History()]
            for callback in own:
                callback.set_params(callbacks.params)
                callback.set_model(self.model)
                callbacks.callbacks.append(callback)
            return callbacks
        given = [] if callbacks is None else callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        return keras.callbacks.CallbackList(
            [*given, *own],
            add_history=True,
            add_progbar=verbose != 0,
            model=self.model,
            verbose=verbose,
            epochs=self._epochs,
            steps=self._steps_per_epoch,
        )

    def _training_logs(self) -> dict:
        """This epoch's logs so far, as numbers: the metrics' results over its steps, and validation once it has run."""
        if self._epoch_logs is None:
            self.model.gradient_pipeline.flush()
            self._hooks.refresh()
            self._epoch_logs = metric_results(self.model, self._step_logs)
        return self._epoch_logs


def _check_validation_freq(freq: Any) -> None:
    positive = isinstance(freq, int) and not isinstance(freq, bool) and freq >= 1
    if not positive and (isinstance(freq, (str, int, float)) or not hasattr(freq, "__contains__")):
        raise ValueError(
            f"`validation_freq` must be a positive integer or a list of epochs. Received: validation_freq={freq!r}"
        )
