"""`CustomTrainMixin`: training steps that you can read, and `custom_fit()`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from customfit import compat
from customfit.clipping import Clip, Gradient, check_no_other_clip
from customfit.compat import keras, tf
from customfit.data import check_worker_options, make_source, split_rows
from customfit.evaluation import Evaluation
from customfit.gradients import apply_gradients
from customfit.loop import run_epochs
from customfit.optimizers import as_optimizer
from customfit.session import TrainingSession


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

    gradient_clip: Clip | None = None
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
        **kwargs: Any,
    ) -> None:
        """Configures the model for training: `keras.Model.compile`, and gradient clipping in the training step.

        At most one of the clipping options may be set. They hold under `fit()` and `custom_fit()` alike.

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
        _check_metric_names(kwargs.get("metrics"))
        _check_metric_names(kwargs.get("weighted_metrics"))
        if args:
            args = (as_optimizer(args[0], self), *args[1:])
        elif "optimizer" in kwargs:
            kwargs["optimizer"] = as_optimizer(kwargs["optimizer"], self)
        super().compile(*args, **compat.compile_options(kwargs))
        check_no_other_clip(clip, self.optimizer)
        self.gradient_clip = clip
        self.jit_compile_is_auto = kwargs.get("jit_compile", "auto") == "auto"
        self._compiled_steps = None

    def get_compile_config(self) -> dict | None:
        """The arguments of `compile()`, serialised: what `save()` keeps."""
        config = super().get_compile_config()
        return {**config, **self.gradient_clip.get_config()} if config and self.gradient_clip is not None else config

    def compile_from_config(self, config: dict) -> None:
        """Compiles the model with what `get_compile_config` gave: what `load_model` does."""
        self.compile(**compat.deserialize_keras_object(config))
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
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = compat.compute_loss(self, x, y, y_pred, sample_weight, training=True)
            scaled_loss = compat.scale_loss(self.optimizer, loss)
        compat.track_loss(self, loss, x)
        variables = self.trainable_variables  # after the forward pass, which may have built the model
        apply_gradients(self, tape.gradient(scaled_loss, variables), variables)
        return self.compute_metrics(x, y, y_pred, sample_weight)

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
    def changes_gradients(self) -> bool:
        """Whether gradients are clipped, or `transform_gradients` is overridden."""
        return (
            self.gradient_clip is not None or type(self).transform_gradients is not CustomTrainMixin.transform_gradients
        )

    def returns_metrics(self, name: str) -> bool:
        """Whether the logs of `train_step` or `test_step` are the metrics' results and nothing else.

        So it is with the steps of this class. They then need not be computed for a step whose logs nobody reads.
        """
        ours = getattr(type(self), name) is getattr(CustomTrainMixin, name)
        return ours and type(self).compute_metrics is keras.Model.compute_metrics

    # -------------------------------------------------------------------------------------------------- the loop

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
        resident_share: float = 0.5,
        **workers: Any,
    ) -> keras.callbacks.History:
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
            resident_share: Of the device's free memory, how much arrays may take to live there; if they need more, they
                are streamed to it. Defaults to 0.5.
            **workers: On Keras 2, `workers`, `use_multiprocessing` and `max_queue_size`, as in its `fit`.

        Returns:
            A `History`: `history.history` holds each metric's value after each epoch, `history.stop_reason` why early
            stopping ended training, or `None`.

        Raises:
            RuntimeError: If the model is not compiled.
            ValueError: If an argument is wrong or the data does not fit together; before the first step.

        Example:

        >>> model = CustomTrainModel(inputs, outputs)
        >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
        >>> history = model.custom_fit(x, y, epochs=50, validation_split=0.2, early_stopping=3)
        """
        check_worker_options(workers)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = split_rows((x, y, sample_weight), validation_split)
        train_data = make_source(
            x,
            y,
            sample_weight,
            batch_size=batch_size,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs - initial_epoch,
            class_weight=class_weight,
            model=self,
            resident_share=resident_share,
            **workers,
        )
        session = TrainingSession(
            self,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=train_data.steps,
            callbacks=callbacks,
            verbose=verbose,
            validation_data=validation_data,
            validation_freq=validation_freq,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size or batch_size,
            workers=workers,
            early_stopping=early_stopping,
            log_every=log_every,
        )
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
