"""`CustomTrainMixin`: training steps that you can read, and `custom_fit()`."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, Callable

from customfit import compat
from customfit.arguments import listed
from customfit.callbacks import GradientEvents
from customfit.checkpoint import Checkpointer
from customfit.compat import keras, tf
from customfit.data import check_worker_options, count_batch_rows, make_source, split_rows
from customfit.gradients import Clip, Gradient, GradientPipeline, as_optimizer, check_no_other_clip
from customfit.training import DryRun, Evaluation, TrainingSession, run_epochs


class CustomTrainMixin(object if not TYPE_CHECKING else keras.Model):  # type: ignore[misc]
    """Gives any `keras.Model` the training step with clipping, and `custom_fit()`. Write it before the model class.

    `CustomTrainModel` and `CustomTrainSequential` are this before `keras.Model` and before `keras.Sequential`. It has
    no `__init__`; its options are those of `compile()`.

    To change what a step does, override, in the order in which a step meets them: `call`, `compute_loss`,
    `transform_gradients`, `compute_metrics`; or the whole `train_step` and `test_step`.

    Example:

    ```python
    class MyModel(CustomTrainMixin, SomeKerasModel):
        ...
    ```
    """

    gradient_pipeline = GradientPipeline()
    jit_compile_is_auto = True
    _compiled_steps = None

    def compile(
        self,
        *args: Any,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        adaptive_clip: float | None = None,
        adaptive_clip_exclude: list | None = None,
        clip_percentile: float | None = None,
        gradient_accumulation_steps: int | None = None,
        nonfinite: str | None = None,
        nonfinite_dump: Any = None,
        gradient_metrics: Any = (),
        **kwargs: Any,
    ) -> None:
        """Configures the model for training: `keras.Model.compile`, and what the training step does to gradients.

        All of it holds under `fit()` and `custom_fit()` alike. At most one of the clipping options may be set.

        Args:
            *args: As in `keras.Model.compile`. `optimizer` may also be a dict of optimizers by layer, or a list of
                `(pattern, optimizer)`: see `OptimizerGroups`.
            clipvalue: Clips each element of each gradient to `[-clipvalue, clipvalue]`.
            clipnorm: Clips each variable's gradient to this L2 norm.
            global_clipnorm: Clips all gradients together to this L2 norm.
            adaptive_clip: Clips each unit's gradient to this ratio of its weights' norm (Brock et al. 2021,
                https://arxiv.org/abs/2102.06171), except in the output layers.
            adaptive_clip_exclude: Layers that `adaptive_clip` leaves alone, or their names. Defaults to the output
                layers of a functional or Sequential model, and to none of a subclassed one, where they are not known.
            clip_percentile: Clips all gradients together to this percentile of their norms in the last 1000 updates
                (Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469).
            gradient_accumulation_steps: How many batches make one update of the weights: as one batch of all their rows
                would, to rounding. `optimizer.iterations` counts updates. What is left at the end of an epoch is
                applied there, under `fit` and `custom_fit`; in a loop of your own, by `apply_accumulated_gradients`.
            nonfinite: What becomes of a step whose loss or gradients are not finite. `None`: what Keras does. `"skip"`:
                it changes nothing and is counted in `skipped_steps`. `"raise"`: it changes nothing, and a
                `customfit.NonFiniteError` names what it was, the step and the epoch. `"stop"`: it changes nothing, and
                training ends. With the dynamic loss scale of `mixed_float16`, gradients that overflow are how the scale
                finds its value: there only the loss counts.
            nonfinite_dump: With `nonfinite="raise"`, a folder to save such a step in, for `customfit.debug.replay`.
            gradient_metrics: Some of `"grad_norm"`, `"clip_fraction"`, `"update_ratio"`, `"loss_scale"` and
                `"skipped_steps"`, which then are in the logs and in History; see `customfit.gradient_metrics`.
            **kwargs: As in `keras.Model.compile`.

        Raises:
            ValueError: If more than one clipping option is set, one is not a positive number, the optimizer clips by
                itself as well, or no metric has a name that was given.
        """
        clip = Clip.from_options(
            clipvalue=clipvalue,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            adaptive_clip=adaptive_clip,
            adaptive_clip_exclude=adaptive_clip_exclude,
            clip_percentile=clip_percentile,
        )
        pipeline = GradientPipeline(
            clip,
            accumulation_steps=gradient_accumulation_steps,
            nonfinite=nonfinite,
            dump=nonfinite_dump,
            metrics=gradient_metrics,
        )
        if nonfinite_dump is not None and kwargs.get("jit_compile") is True:
            raise ValueError(
                "`nonfinite_dump` must not be set with `jit_compile=True`: XLA writes no files. Received: "
                f"nonfinite_dump={str(nonfinite_dump)!r}, jit_compile=True"
            )
        _check_metric_names(kwargs.get("metrics"))
        _check_metric_names(kwargs.get("weighted_metrics"))
        if args:
            args = (as_optimizer(args[0], self), *args[1:])
        elif "optimizer" in kwargs:
            kwargs["optimizer"] = as_optimizer(kwargs["optimizer"], self)
        super().compile(*args, **compat.compile_options(kwargs))
        check_no_other_clip(clip, self.optimizer)
        pipeline.check_optimizer(self.optimizer)
        self.gradient_pipeline = pipeline
        self.jit_compile_is_auto = kwargs.get("jit_compile", "auto") == "auto"
        self._compiled_steps = None

    def get_compile_config(self) -> dict | None:
        """The arguments of `compile()`, serialised: what `save()` keeps."""
        config = super().get_compile_config()
        return {**config, **self.gradient_pipeline.get_config()} if config else config

    def compile_from_config(self, config: dict) -> None:
        """Compiles the model with what `get_compile_config` gave: what `load_model` does."""
        options = compat.deserialize_keras_object(config)
        try:
            inspect.signature(self.compile).bind(**options)
        except TypeError:  # a `compile()` of the user's that takes something else: Keras warns, and leaves it to them
            super().compile_from_config(config)
            return
        self.compile(**options)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    # ------------------------------------------------------------------------------------------------- the steps

    def train_step(self, data: Any) -> dict:
        """One step of training: forward pass, loss, gradients, new weights, metrics.

        Args:
            data: A batch: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The metrics so far in this epoch, by name.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with self.gradient_pipeline.guard.undo_if_bad(self, data):  # `nonfinite=`: a bad step is as if it had not been
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = compat.compute_loss(self, x, y, y_pred, sample_weight, training=True)
            compat.track_loss(self, loss, x)
            gradients = self.compute_gradients(loss, tape)
            self.apply_gradients(gradients, loss=loss, batch_size=count_batch_rows(x))
            logs = self.compute_metrics(x, y, y_pred, sample_weight)
        return self.gradient_pipeline.logs(self, logs)

    def test_step(self, data: Any) -> dict:
        """One step of validation: forward pass with `training=False`, loss, metrics. No weight moves.

        Args:
            data: A batch: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The metrics so far in this pass, by name.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = compat.compute_loss(self, x, y, y_pred, sample_weight, training=False)
        compat.track_loss(self, loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def compute_gradients(self, loss: Any, tape: tf.GradientTape, variables: Any = None, optimizer: Any = None) -> list:
        """The true gradients of a loss: what mixed precision has scaled is unscaled.

        With `apply_gradients` it is what a `train_step` of your own is built of: see `examples/sam.py` and `gan.py`.

        Args:
            loss: The loss, as a tensor that the tape has seen.
            tape: The tape of the forward pass.
            variables: What to differentiate by. Defaults to the trainable variables, read now: the forward pass may
                have built them.
            optimizer: The optimizer, for its loss scale. Defaults to that of the model.

        Returns:
            The gradients, one a variable: tensors, `tf.IndexedSlices` or `None`.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        variables = self.trainable_variables if variables is None else list(variables)
        seed = compat.gradient_of_loss(optimizer, loss)
        return compat.unscale_gradients(optimizer, tape.gradient(loss, variables, output_gradients=seed))

    def apply_gradients(
        self, gradients: Any, variables: Any = None, optimizer: Any = None, *, loss: Any = None, batch_size: Any = None
    ) -> None:
        """Brings gradients to their variables: accumulated, summed over replicas, checked, transformed and clipped.

        Args:
            gradients: The true gradients, one a variable, as `compute_gradients` gives them.
            variables: The variables. Defaults to the trainable variables.
            optimizer: The optimizer. Defaults to that of the model.
            loss: The loss, to be checked as well by `compile(nonfinite=)`.
            batch_size: How many rows the loss is the mean over, by which accumulated gradients are weighed. Defaults
                to 1: all batches count alike.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        variables = self.trainable_variables if variables is None else list(variables)
        self.gradient_pipeline.apply(
            self, gradients, variables, optimizer, loss, 1 if batch_size is None else batch_size
        )

    def transform_gradients(self, gradients: list[Gradient], variables: list) -> list[Gradient]:
        """Override this to do anything to the gradients between the tape and the optimizer; clipping follows it.

        Args:
            gradients: The true, unscaled gradients, one a variable: tensors, `tf.IndexedSlices` or `None`.
            variables: The trainable variables, in the same order.

        Returns:
            As many gradients, in the same order.
        """
        return gradients

    @property
    def gradient_clip(self) -> Clip | None:
        """The clip that `compile()` asks for, or `None`."""
        return self.gradient_pipeline.clip

    @property
    def changes_gradients(self) -> bool:
        """Whether gradients are clipped, or `transform_gradients` is overridden."""
        return (
            self.gradient_clip is not None or type(self).transform_gradients is not CustomTrainMixin.transform_gradients
        )

    def results_of(self, name: str) -> Callable[[], dict] | None:
        """What gives the logs of `train_step` or `test_step`, where these are the metrics' results and nothing else.

        So it is with the steps of this class. They then need not be computed for a step whose logs nobody reads.
        """
        ours = getattr(type(self), name) is getattr(CustomTrainMixin, name)
        if not ours or type(self).compute_metrics is not keras.Model.compute_metrics:
            return None
        if name == "test_step":
            return self.get_metrics_result
        return lambda: {**self.get_metrics_result(), **self.gradient_pipeline.metrics.results()}

    def get_metrics_result(self) -> dict:
        """The metrics so far in this epoch, by name; those of gradients too, once there are any."""
        results = super().get_metrics_result()
        metrics = self.gradient_pipeline.metrics
        if tf.executing_eagerly() and metrics.has_results:  # a step in a graph adds them itself
            results = {**results, **compat.to_host(metrics.results())}
        return results

    def reset_metrics(self) -> None:
        """Sets all metrics to zero."""
        super().reset_metrics()
        self.gradient_pipeline.metrics.reset()

    # -------------------------------------------------------------------------------------------------- the loop

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains the model as `keras.Model.fit` does, with the steps of this class.

        A callback is added where `compile()` asks for what `fit` does not know of: to apply what is left of accumulated
        gradients at the end of an epoch, and to raise or stop after a step that was not finite.
        """
        self.gradient_pipeline.prepare(self)
        if not self.gradient_pipeline.has_events:
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

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Trains the model on one batch as `keras.Model.train_on_batch` does; `nonfinite=` is heeded after it."""
        logs = super().train_on_batch(*args, **kwargs)
        guard = self.gradient_pipeline.guard
        if guard.ends:
            self.gradient_pipeline.check_nonfinite(self, epoch=0, steps=guard.steps)
        return logs

    def forget_steps(self) -> None:
        """Has the steps traced anew, as after `compile()`, because what they do has changed."""
        self._compiled_steps = None
        self.train_function = None

    def apply_accumulated_gradients(self) -> None:
        """Applies the gradients of `gradient_accumulation_steps` that have not made a whole update yet, if any.

        `fit` and `custom_fit` do so at the end of an epoch's training; a loop of your own calls this.
        """
        self.gradient_pipeline.flush()

    @property
    def skipped_steps(self) -> int:
        """How many steps changed nothing since `compile()`, because something was not finite."""
        return self.gradient_pipeline.guard.skipped

    def custom_fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: dict | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
        *,
        early_stopping: Any = None,
        log_every: int | None = None,
        validation_interval: int | None = None,
        max_steps: int | None = None,
        max_time: Any = None,
        on_sigterm: str = "return",
        checkpoint_dir: Any = None,
        checkpoint_interval: Any = "epoch",
        checkpoint_keep: int = 3,
        resume: Any = "auto",
        on_checkpoint_error: str = "raise",
        fast_dev_run: Any = False,
        overfit_batches: int | None = None,
        sanity_validation: int = 0,
        plan: bool = False,
        resident_share: float = 0.5,
        **workers: Any,
    ) -> Any:
        """Trains the model with the explicit loop of `customfit/loop.py`.

        Every argument of `fit` means what it means there, and the weights and History are the same to the bit. On
        purpose it differs in this: rows are shuffled anew in each epoch also on Keras 3, `on_train_end` fires also
        after an exception, and logs are read from the device only when somebody looks at them.

        Args:
            x: Inputs: arrays, tensors (also ragged and sparse), pandas, scipy sparse, nested structures of them; or
                batches: a `tf.data.Dataset`, a generator, a `keras.utils.Sequence` (`PyDataset`), a torch
                `DataLoader`, any other iterable.
            y: Targets, where `x` is inputs only.
            batch_size: Rows in a batch. Defaults to what makes `steps_per_epoch` of them, else to 32.
            epochs: The epoch at which training ends. Defaults to 1.
            verbose: `0` silent, `1` a progress bar, `2` a line an epoch, `"auto"` as in `fit`.
            callbacks: Keras callbacks, or a `CallbackList`.
            validation_split: The share of rows, from the end of the arrays, to validate on.
            validation_data: `(x, y)`, `(x, y, sample_weight)`, a dataset or other batches to validate on; or a dict of
                such by name, whose logs are then `val_<name>_loss` and so on.
            shuffle: Whether the rows of arrays come in a new order each epoch, `"batch"` within their batch only.
                Defaults to `True`.
            class_weight: A weight for each class id.
            sample_weight: A weight for each row.
            initial_epoch: The epoch at which training begins. Defaults to 0.
            steps_per_epoch: Steps in an epoch. Defaults to one pass over the data.
            validation_steps: Batches in a validation pass. Defaults to all.
            validation_batch_size: Rows in a batch of validation data. Defaults to `batch_size`.
            validation_freq: After which epochs to validate: every so many, or a list of epochs counted from 1.
            early_stopping: A patience in epochs, a dict of options of `customfit.EarlyStopping`, such an object, or
                Keras's own callback. Unlike with Keras's, the weights of the best epoch are restored by default.
            log_every: Prints "Step 100: loss = 0.1234" every so many steps.
            validation_interval: After how many steps to validate, counted over all epochs, instead of after epochs. The
                training metrics count on. `history.validation` holds each pass with its step, an epoch's logs its last
                one; early stopping, and any callback that has `on_validation_end(step, logs)`, hear of each.
            max_steps: The step at which training ends, counted over all epochs.
            max_time: For how long this call trains: seconds, a `datetime.timedelta` or "HH:MM:SS".
            on_sigterm: What becomes of SIGTERM, after which the step is finished, best weights come back and
                `on_train_end` fires: "return" the History (`stop_reason` says "SIGTERM"), or "exit" with 143. Ctrl-C
                does the same and raises `KeyboardInterrupt`; a second one stops at once. Handlers of your own are left
                in place.
            checkpoint_dir: Where to keep checkpoints, so that the same call, made again after whatever has ended this
                one, goes on from the newest and ends with the same weights, optimizer and History, to the bit. A
                training that is finished is not trained again; with more `epochs` it goes on from its end. A checkpoint
                of another model, or of options that would change the numbers, is refused.
            checkpoint_interval: When to make one: after each "epoch", after so many steps (an integer), after so many
                seconds (a float, a `datetime.timedelta` or "HH:MM:SS"). One is made besides when training ends.
            checkpoint_keep: How many of the newest to keep, besides the best: by what early stopping monitors, else by
                the loss, as the last epoch or validation before the checkpoint has found it. Defaults to 3.
            resume: "auto" goes on if there is a checkpoint, `True` insists on one, `False` begins anew.
            on_checkpoint_error: "raise" a `CheckpointError`, or "warn" and train on, where one cannot be written.
            fast_dev_run: Tries everything out on so many batches of training and of validation, in one epoch; `True` is
                one batch. Nothing is saved, by checkpoints or by Keras's callbacks, and limits do not count.
            overfit_batches: Trains on the first so many batches, unshuffled, in each epoch: a model that can learn
                overfits them.
            sanity_validation: How many batches to validate before the first epoch, so that a mistake there shows at
                once. Callbacks and History do not hear of it; a `tf.data.Dataset` that shuffles itself has then done
                so once more.
            plan: Prints how many updates, validations and checkpoints this call would make, what memory it would take,
                and which options conflict, and returns that as a `Plan`, without a step.
            resident_share: Of the device's free memory, how much arrays may take to live there; if they need more, they
                are streamed to it. Defaults to 0.5.
            **workers: On Keras 2, `workers`, `use_multiprocessing` and `max_queue_size`, as in its `fit`.

        Returns:
            A `History`: `history.history` holds each metric's value after each epoch, `history.stop_reason` why early
            stopping, a limit or SIGTERM ended training, or `None`.

        Raises:
            RuntimeError: If the model is not compiled.
            ValueError: If an argument is wrong or the data does not fit together; before the first step.

        Example:

        >>> model = CustomTrainModel(inputs, outputs)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
        >>> history = model.custom_fit(x, y, epochs=50, validation_split=0.2, early_stopping=3)
        """
        check_worker_options(workers)
        dry_run = DryRun(fast_dev_run, overfit_batches, sanity_validation)
        dry_run.check(checkpoint_dir)
        if fast_dev_run:
            epochs, max_steps, max_time, checkpoint_dir = initial_epoch + 1, None, None, None
            validation_freq, validation_interval = 1, None
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = split_rows((x, y, sample_weight), validation_split)
        train_data = make_source(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            shuffle=False if overfit_batches else shuffle,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs - initial_epoch,
            class_weight=class_weight,
            model=self,
            resident_share=resident_share,
            **workers,
        )
        train_data = dry_run.training(train_data)
        checkpoints = checkpoint_dir
        if checkpoint_dir is not None:
            checkpoints = Checkpointer(
                checkpoint_dir,
                interval=checkpoint_interval,
                keep=checkpoint_keep,
                resume=resume,
                on_error=on_checkpoint_error,
            )
        session = TrainingSession(
            self,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=train_data.steps,
            callbacks=dry_run.callbacks(callbacks),
            verbose=verbose,
            validation_data=validation_data,
            validation_freq=validation_freq,
            validation_interval=validation_interval,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size or batch_size,
            workers=workers,
            early_stopping=early_stopping,
            log_every=log_every,
            max_steps=max_steps,
            max_time=max_time,
            checkpoints=checkpoints,
            identity={"class_weight": class_weight},
            on_sigterm=on_sigterm,
            dry_run=dry_run,
        )
        if plan:
            found = session.plan(train_data, checkpoint_dir, checkpoint_interval)
            print(found)
            return found
        return run_epochs(session, train_data)

    def custom_evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        *,
        resident_share: float = 0.5,
        **workers: Any,
    ) -> Any:
        """Returns the loss and metrics on test data, as `evaluate` does, in blocks of steps as in `custom_fit`.

        Args:
            x: Inputs, or batches: as in `custom_fit`.
            y: Targets, where `x` is inputs only.
            batch_size: Rows in a batch. Defaults to 32.
            verbose: `0` silent, `1` a progress bar, `2` a line, `"auto"` as in `evaluate`.
            sample_weight: A weight for each row.
            steps: Batches to evaluate. Defaults to all.
            callbacks: Keras callbacks, or a `CallbackList`.
            return_dict: Whether to return the values by name. Defaults to `False`: in a list, or a single one as it is.
            resident_share: As in `custom_fit`.
            **workers: As in `custom_fit`.

        Returns:
            The loss and the metrics.

        Raises:
            RuntimeError: If the model is not compiled.
            ValueError: If an argument is wrong or the data does not fit together.

        Example:

        >>> loss, accuracy = model.custom_evaluate(x_test, y_test)
        """
        check_worker_options(workers)
        if not compat.is_compiled(self):
            raise RuntimeError("The model must be compiled before it is evaluated: call `model.compile()` first.")
        data = make_source(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps,
            model=self,
            resident_share=resident_share,
            **workers,
        )
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            verbose = compat.verbosity(verbose)
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_progbar=verbose != 0, model=self, verbose=verbose, epochs=1, steps=data.steps
            )
        logs = Evaluation(self, callbacks, progress=True).run(data)
        return compat.finish_evaluation(self, logs, return_dict)


def _check_metric_names(metrics: Any) -> None:
    """Refuses a misspelt metric in `compile()`; Keras would do so in the middle of the first step."""
    shorthands = {"accuracy", "acc", "crossentropy", "ce"}
    for name in tf.nest.flatten(metrics):
        if not isinstance(name, str) or name in shorthands:
            continue
        try:
            found = keras.metrics.get(name)
        except ValueError:
            found = None
        if found is None or found == name:  # some releases hand an unknown name back
            known = shorthands | {known for known in dir(keras.metrics) if not known.startswith("_")}
            similar = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f" Did you mean {similar[0]!r}?" if similar else ""
            raise ValueError(f"`metrics` must be names of metrics that Keras knows.{hint} Received: {name!r}") from None
