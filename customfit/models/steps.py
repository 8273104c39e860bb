"""The steps: what happens to a batch in training and in validation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Batch, count_batch_rows
from customfit.gradients import Clip, Gradient, GradientPipeline


def with_options_held(train_step: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a `train_step` so that the options of `compile()` hold in it: see `GradientPipeline.run`.

    Every `train_step` of our classes runs so, that of a subclass too: `ModelType` sees to it.

    Args:
        train_step: What a class has under this name.

    Returns:
        A method to take its place.
    """
    if getattr(train_step, "has_options_held", False):
        return train_step

    @functools.wraps(train_step)
    def step(self: TrainingSteps, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return _run(self, train_step.__get__(self, type(self)), *args, **kwargs)

    step.has_options_held = True  # type: ignore[attr-defined]
    return step


def _run(model: TrainingSteps, train_step: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    if len(args) == 1 and not kwargs:
        return model.gradient_pipeline.run(model, train_step, args[0])
    # In a loop of the user's it may take what its author likes.
    return model.gradient_pipeline.run(model, lambda given: train_step(*given[0], **given[1]), (args, kwargs))


class TrainingSteps(compat.KerasModel):
    """`train_step` and `test_step`, and the methods that they are made of.

    To change what a step does, override, in the order in which a step meets them: `call`, `compute_loss`,
    `transform_gradients`, `compute_metrics`; or the whole `train_step` and `test_step`.
    """

    gradient_pipeline: GradientPipeline = GradientPipeline()

    @with_options_held
    def train_step(self, data: Batch) -> dict[str, Any]:
        """Runs one step of training: forward pass, loss, gradients, new weights, metrics.

        Args:
            data: A batch: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The metrics so far in this epoch, by name.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = compat.compute_loss(self, x, y, y_pred, sample_weight, training=True)
        self.track_loss(loss, x)
        gradients = self.compute_gradients(loss, tape)
        self.apply_gradients(gradients, loss=loss, batch_size=count_batch_rows(x))
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, data: Batch) -> dict[str, Any]:
        """Runs one step of validation: forward pass with `training=False`, loss, metrics. No weight moves.

        Args:
            data: A batch: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The metrics so far in this pass, by name.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        self.collect_predictions(y, y_pred, sample_weight)
        loss = compat.compute_loss(self, x, y, y_pred, sample_weight, training=False)
        self.track_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "train_step":  # one that replaces the class's in this model alone
            value = functools.update_wrapper(functools.partial(_run, self, value), value)  # type: ignore[arg-type]
        super().__setattr__(name, value)

    def track_loss(self, loss: tf.Tensor, x: Any) -> None:
        """Adds the loss of a batch to the metric "loss". On Keras 2, `compute_loss` has done so already.

        Args:
            loss: The loss, a scalar.
            x: The inputs of the batch, by whose rows the loss is weighted.
        """
        compat.track_loss(self, loss, x)
        if self.gradient_pipeline.observers.recorder is not None:
            self.gradient_pipeline.observers.recorder.add_loss(loss, x)

    def collect_predictions(self, y: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Hands the predictions of a batch of validation to `callbacks.PredictionMetrics`, if there is one.

        Args:
            y: The targets.
            y_pred: The predictions.
            sample_weight: The weights, or `None`.
        """
        for collector in self.gradient_pipeline.observers.collectors:
            collector.add(y, y_pred, sample_weight)

    def compute_gradients(
        self,
        loss: tf.Tensor,
        tape: tf.GradientTape,
        variables: Iterable[tf.Variable] | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> list[Gradient]:
        """Returns the true gradients of a loss: those of a scaled loss, under mixed precision, are unscaled.

        A `train_step` of your own is made of this and `apply_gradients`: see `examples/sam.py` and `examples/gan.py`.

        Args:
            loss: The loss, a scalar that the tape has recorded.
            tape: The tape of the forward pass.
            variables: The variables to differentiate by. Defaults to the trainable variables, read now: the forward
                pass may have built them.
            optimizer: The optimizer, for its loss scale. Defaults to that of the model.

        Returns:
            The gradients, one a variable: tensors, `tf.IndexedSlices` or `None`.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        variables = self.trainable_variables if variables is None else list(variables)
        seed = compat.output_gradient(optimizer, loss)
        return compat.unscale_gradients(optimizer, tape.gradient(loss, variables, output_gradients=seed))

    def apply_gradients(
        self,
        gradients: Sequence[Gradient],
        variables: Iterable[tf.Variable] | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
        *,
        loss: tf.Tensor | None = None,
        batch_size: tf.Tensor | int | None = None,
    ) -> None:
        """Applies gradients: accumulates them, sums them over replicas, checks, transforms and clips them.

        Args:
            gradients: The true gradients, one a variable, as `compute_gradients` returns them.
            variables: The variables. Defaults to the trainable variables.
            optimizer: The optimizer. Defaults to that of the model.
            loss: The loss, which `compile(nonfinite=)` then checks as well.
            batch_size: How many rows the loss is the mean over, by which accumulated gradients are weighted. Defaults
                to 1: all batches count alike.
        """
        optimizer = self.optimizer if optimizer is None else optimizer
        variables = self.trainable_variables if variables is None else list(variables)
        self.gradient_pipeline.apply(
            self, gradients, variables, optimizer, loss, 1 if batch_size is None else batch_size
        )

    def transform_gradients(self, gradients: list[Gradient], variables: list[tf.Variable]) -> list[Gradient]:
        """Returns the gradients as they are. Override it to change them between the tape and the clip.

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
        return self.gradient_clip is not None or type(self).transform_gradients is not TrainingSteps.transform_gradients

    def results_of(self, name: str) -> Callable[[], dict[str, Any]] | None:
        """Returns a function of the logs of `train_step` or `test_step`, if these are the metrics' results alone.

        They are with the steps of this class. Then they need not be computed for a step whose logs nobody reads.

        Args:
            name: "train_step" or "test_step".

        Returns:
            The function, or `None` where the step must be asked.
        """
        ours = getattr(type(self), name) is getattr(TrainingSteps, name)
        if not ours or type(self).compute_metrics is not keras.Model.compute_metrics:
            return None
        if name == "test_step":
            return self.get_metrics_result
        return lambda: {**self.get_metrics_result(), **self.gradient_pipeline.metrics.results()}

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the metrics so far in this epoch, by name; those of gradients too, once there are any."""
        results = super().get_metrics_result()
        metrics = self.gradient_pipeline.metrics
        if tf.executing_eagerly() and metrics.has_results:  # a step in a graph adds them itself
            results = {**results, **compat.pythonify_logs(metrics.results())}
        return results

    def reset_metrics(self) -> None:
        """Resets all metrics."""
        super().reset_metrics()
        self.gradient_pipeline.metrics.reset()
