"""`custom_fit`, `custom_evaluate` and `plan_fit`; and `fit`, with what the options of `compile()` ask of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from customfit import compat
from customfit.arguments import listed, with_arguments_of
from customfit.callbacks import GradientEvents
from customfit.checkpoint import Checkpoints, Directory
from customfit.compat import CallbackLike, History, keras
from customfit.data import Source
from customfit.every import Duration
from customfit.execution import CompiledSteps
from customfit.models.on_batch import compiled_function
from customfit.models.opening import check_workers, evaluate_explicitly, open_session, warn_of_patched_fit
from customfit.models.overrides import Carried, call_through, handle_redirected, override_of
from customfit.tracebacks import filtered_traceback
from customfit.training import Callbacks, DryRun, Frequency, Plan, TrainingSession, run_epochs
from customfit.workers import names_lost_workers

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    class WorkerOptions(TypedDict, total=False):
        """Arguments of `fit` on Keras 2, for a `keras.utils.Sequence`."""

        workers: int
        use_multiprocessing: bool
        max_queue_size: int


class Fitting(compat.KerasModel):
    """The ways to train and evaluate: Keras's, with our steps, and the explicit loop."""

    _compiled_steps: CompiledSteps | None

    @filtered_traceback
    @names_lost_workers
    def custom_fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        callbacks: Callbacks = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | Literal["batch"] = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Frequency = 1,
        *,
        early_stopping: int | CallbackLike | None = None,
        checkpoint: Directory | Checkpoints | None = None,
        log_every: int | None = None,
        max_steps: int | None = None,
        max_time: Duration | None = None,
        dry_run: bool | int | DryRun = False,
        **workers: Unpack[WorkerOptions],
    ) -> History:
        """Trains the model with the explicit loop of `customfit/training/loop.py`.

        Every argument of `fit` means what it means there, and weights and History are the same to the bit. It differs
        on purpose in this: rows are shuffled again in each epoch on Keras 3 too, `on_train_end` also fires after an
        exception, and logs are read from the device only when a callback or the progress bar reads them.

        Args:
            x: Inputs: arrays, tensors (also ragged and sparse), pandas, scipy sparse, nested structures of them; or
                batches: a `tf.data.Dataset`, a generator, a `keras.utils.Sequence` (`PyDataset`), a torch
                `DataLoader`, any other iterable; or a function of a `tf.distribute.InputContext` that returns a dataset
                of batches for one replica, of what this worker reads; or a `customfit.data.Source`.
            y: Targets, if `x` is inputs only.
            batch_size: Rows in a batch. Defaults to 32, or to what makes `steps_per_epoch` batches of the rows.
            epochs: The epoch at which training ends. Defaults to 1.
            verbose: `0` silent, `1` a progress bar, `2` a line an epoch, `"auto"` as in `fit`.
            callbacks: Keras callbacks, or a `CallbackList`.
            validation_split: The share of rows, from the end of the arrays, to validate on.
            validation_data: `(x, y)`, `(x, y, sample_weight)`, a dataset or other batches to validate on; or a dict of
                such by name, whose logs are then `val_<name>_loss` and so on.
            shuffle: Whether the rows of arrays come in a new order each epoch; `"batch"` within their batch only.
                Defaults to `True`.
            class_weight: A weight for each class id.
            sample_weight: A weight for each row.
            initial_epoch: The epoch at which training starts. Defaults to 0.
            steps_per_epoch: Steps in an epoch. Defaults to one pass over the data.
            validation_steps: Batches in a validation pass. Defaults to all.
            validation_batch_size: Rows in a batch of validation data. Defaults to `batch_size`.
            validation_freq: After which epochs to validate: every so many, or a list of epochs counted from 1. Or an
                `Every`: with `Every(steps=500)` or `Every(seconds=600)` validation runs within epochs, and the training
                metrics continue afterwards. `history.validation` holds each pass with its step, an epoch's logs hold
                its last one. Early stopping, and any callback with `on_validation_end(step, logs)`, see each of them.
            early_stopping: A patience in epochs, a `customfit.EarlyStopping`, or Keras's own callback. Unlike Keras's,
                ours restores the weights of the best epoch by default.
            checkpoint: A directory for checkpoints, or `Checkpoints` with options. The same call, made again after the
                run was cut off, resumes from the newest and ends with the same weights, optimizer and History, to the
                bit. A finished run is not trained again; with more `epochs` it continues from its end. A checkpoint of
                another model, or of options that would change the numbers, is refused.
            log_every: Prints a line of metrics every so many steps: see `customfit.callbacks.LogEvery`.
            max_steps: The step at which training ends, counted over all epochs.
            max_time: How long this call trains: seconds, a `datetime.timedelta` or "HH:MM:SS".
            dry_run: `True` or a number of batches tries everything on so few and saves nothing. A `DryRun` has more
                ways to try a run out.
            **workers: On Keras 2, `workers`, `use_multiprocessing` and `max_queue_size`, as in its `fit`.

        Returns:
            A `History`. `history.history` holds each metric's value after each epoch, `history.stop_reason` says why
            early stopping, a limit or SIGTERM ended training, or is `None`.

        Raises:
            RuntimeError: If the model is not compiled.
            TypeError: If there is no argument of a name.
            ValueError: If an argument is wrong or the data does not fit together; before the first step.
            WorkerLostError: If another worker has ended, or does not answer.

        Example:

        >>> model = CustomTrainModel(inputs, outputs)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
        >>> history = model.custom_fit(x, y, epochs=50, validation_split=0.2, early_stopping=3)
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "workers")}
        return self._explicitly(
            run_epochs, {**arguments, **check_workers("custom_fit", workers, _parameters(Fitting.custom_fit))}
        )

    @with_arguments_of(custom_fit)
    @filtered_traceback
    def plan_fit(self, *args: Any, **kwargs: Any) -> Plan:
        """Counts what `custom_fit` would do with the same arguments, without a step.

        Returns:
            A `Plan`: updates, validations, checkpoints, memory, time and the operations of a step; of a run that was
            cut off what is left; and what would have no effect or never be reached. It prints as a table.

        Example:

        >>> print(model.plan_fit(x, y, epochs=50, validation_split=0.2, early_stopping=3, checkpoint="runs/a"))
        """
        given = inspect.signature(Fitting.custom_fit).bind(self, *args, **kwargs)
        given.apply_defaults()
        arguments = {name: value for name, value in given.arguments.items() if name not in ("self", "workers")}
        workers = check_workers("plan_fit", given.arguments["workers"], _parameters(Fitting.custom_fit))

        def plan(session: TrainingSession, data: Source) -> None:
            raise Carried(session.plan(data))  # past overrides of `fit`, which would wait for a History

        try:
            self._explicitly(plan, {**arguments, **workers})
        except Carried as carried:
            return carried.value
        raise AssertionError("a plan is always raised")

    @overload
    def custom_evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        *,
        return_dict: Literal[True],
        **workers: Unpack[WorkerOptions],
    ) -> dict[str, float]: ...

    @overload
    def custom_evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        return_dict: bool = False,
        **workers: Unpack[WorkerOptions],
    ) -> float | list[float] | dict[str, float]: ...

    @filtered_traceback
    @names_lost_workers
    def custom_evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Callbacks = None,
        return_dict: bool = False,
        **workers: Unpack[WorkerOptions],
    ) -> float | list[float] | dict[str, float]:
        """Returns the loss and metrics on test data, as `evaluate` does, in blocks of steps as in `custom_fit`.

        Args:
            x: Inputs, or batches, or a `Source`: as in `custom_fit`.
            y: Targets, if `x` is inputs only.
            batch_size: Rows in a batch. Defaults to 32.
            verbose: `0` silent, `1` a progress bar, `2` a line, `"auto"` as in `evaluate`.
            sample_weight: A weight for each row.
            steps: Batches to evaluate. Defaults to all.
            callbacks: Keras callbacks, or a `CallbackList`.
            return_dict: Whether to return the values by name. Defaults to `False`: in a list, or a single one as it is.
            **workers: As in `custom_fit`.

        Returns:
            The loss and the metrics.

        Raises:
            RuntimeError: If the model is not compiled.
            TypeError: If there is no argument of a name.
            ValueError: If an argument is wrong or the data does not fit together.

        Example:

        >>> loss, accuracy = model.custom_evaluate(x_test, y_test)
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "workers")}
        arguments.update(check_workers("custom_evaluate", workers, _parameters(Fitting.custom_evaluate)))
        if not compat.is_compiled(self):
            raise RuntimeError("The model must be compiled before it is evaluated: call `model.compile()` first.")
        override = override_of(self, "evaluate", Fitting)
        if override is None:
            return evaluate_explicitly(self, **arguments)
        defaults = {name: parameter.default for name, parameter in _parameters(Fitting.custom_evaluate).items()}
        return call_through(
            self, "evaluate", override, arguments, lambda arrived: evaluate_explicitly(self, **{**defaults, **arrived})
        )

    # --------------------------------------------------------------------------------------------- Keras's methods

    @filtered_traceback
    def fit(self, *args: Any, **kwargs: Any) -> History:
        """Trains the model as `keras.Model.fit` does, with the steps of this class.

        If `compile()` asks for it, a callback is added that applies what is left of accumulated gradients at the end of
        an epoch, and raises or stops after a step that was not finite.
        """
        redirected, result = handle_redirected(self, "fit", args, kwargs)
        if redirected:
            return result
        self.gradient_pipeline.prepare(self)
        if not self.gradient_pipeline.needs_callback:
            return super().fit(*args, **kwargs)
        arguments = inspect.signature(super().fit).bind(*args, **kwargs).arguments
        events = GradientEvents()
        callbacks = arguments.get("callbacks")
        if isinstance(callbacks, keras.callbacks.CallbackList):
            events.set_model(self)
            callbacks.callbacks.insert(0, events)
        else:
            arguments["callbacks"] = [events, *listed(callbacks)]
        try:
            return super().fit(**arguments)
        finally:
            if isinstance(callbacks, keras.callbacks.CallbackList):
                callbacks.callbacks.remove(events)

    @filtered_traceback
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the model as `keras.Model.evaluate` does, with the steps of this class."""
        redirected, result = handle_redirected(self, "evaluate", args, kwargs)
        return result if redirected else super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trains on one batch as `keras.Model.train_on_batch` does, then obeys `compile(nonfinite=)`."""
        with compiled_function(self, "train", Fitting):
            logs = super().train_on_batch(*args, **kwargs)
        guard = self.gradient_pipeline.guard
        if guard.ends_training and self.gradient_pipeline.check_nonfinite(self, epoch=0, steps=guard.steps):
            self.stop_training = True
        return logs

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates on one batch as `keras.Model.test_on_batch` does."""
        with compiled_function(self, "test", Fitting):
            return super().test_on_batch(*args, **kwargs)

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Makes Keras's `train_function`. With `force=True` the compiled steps of `custom_fit` are made again, too."""
        if force:
            self.forget_steps()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Callable[..., Any]:
        """Makes Keras's `test_function`. With `force=True` the compiled steps of `custom_fit` are made again, too."""
        if force:
            self._compiled_steps = None
        return super().make_test_function(force)

    def apply_accumulated_gradients(self) -> None:
        """Applies the gradients of `gradient_accumulation_steps` that do not make a whole update yet, if any.

        `fit` and `custom_fit` do so at the end of an epoch's training; a loop of your own calls this.
        """
        self.gradient_pipeline.flush()

    @property
    def skipped_steps(self) -> int:
        """How many steps changed nothing since `compile()`, because something was not finite."""
        return self.gradient_pipeline.guard.skipped

    # ------------------------------------------------------------------------------------------- the explicit loop

    def through_evaluate(self, arguments: Mapping[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Makes a validation pass, through the class's own `evaluate` if a class above ours overrides it.

        Args:
            arguments: What `fit` would call `evaluate` with.
            run: Makes the pass and returns its logs.

        Returns:
            The logs, as the override returns them.
        """
        override = override_of(self, "evaluate", Fitting)
        if override is None:
            return run()
        options = {"return_dict": True, **compat.AS_FIT_EVALUATES}
        return call_through(self, "evaluate", override, {**arguments, **options}, lambda _: run())

    def evaluate_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What `evaluate` evaluates on when `fit` calls it with these arguments: a class may preprocess them.

        As under `fit`, it is the data as given unless the class's `evaluate` drops `_use_cached_eval_dataset`, as
        keras_hub's does.
        """
        override = override_of(self, "evaluate", Fitting)
        if override is None:
            return dict(arguments)

        def capture(arrived: dict[str, Any]) -> None:
            raise Carried(arrived)

        try:
            options = {"return_dict": True, **compat.AS_FIT_EVALUATES}
            call_through(self, "evaluate", override, {**arguments, **options}, capture)
        except Carried as carried:
            cached = any(carried.value.get(name) for name in compat.AS_FIT_EVALUATES)
            return {name: (arguments if cached else carried.value).get(name) for name in arguments}
        raise AssertionError("what arrives is always raised")

    def _explicitly(self, use: Callable[[TrainingSession, Source], Any], arguments: dict[str, Any]) -> Any:
        """Uses a session and data made of arguments, after a class that overrides `fit` has seen those of `fit`."""
        warn_of_patched_fit(arguments["callbacks"])
        override = override_of(self, "fit", Fitting)
        if override is None:
            return use(*open_session(self, arguments))
        theirs = _keras_fit_names()
        ours = {name: value for name, value in arguments.items() if name not in theirs}
        defaults = {name: parameter.default for name, parameter in _parameters(Fitting.custom_fit).items()}
        ours["validation_freq"] = arguments["validation_freq"]  # it may be an `Every`
        run = lambda arrived: use(*open_session(self, {**defaults, **arrived, **ours}))  # noqa: E731
        passed = {name: value for name, value in arguments.items() if name in theirs and name not in ours}
        return call_through(self, "fit", override, passed, run)


@functools.cache
def _parameters(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a method of ours, without `self` and `**workers`."""
    parameters = inspect.signature(method).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in ("self", "workers")}


@functools.cache
def _keras_fit_names() -> frozenset[str]:
    return frozenset(inspect.signature(keras.Model.fit).parameters)
