"""What `fit` must do for the gradient pipeline, and `custom_fit` does by itself."""

from __future__ import annotations

from customfit import compat
from customfit.compat import keras


class GradientEvents(keras.callbacks.Callback):
    """Ends training after a step that was not finite, and an epoch with what is left of accumulated gradients."""

    def on_train_begin(self, logs=None):
        self.model.gradient_pipeline.begin()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._steps_before = epoch, self.model.gradient_pipeline.guard.steps

    def on_train_batch_end(self, batch, logs=None):
        pipeline = self.model.gradient_pipeline
        if not pipeline.guard.ends_training:
            return
        # By its own count: what `fit` says of the end of an execution differs between releases.
        steps = pipeline.guard.steps - self._steps_before
        if pipeline.check_nonfinite(self.model, self._epoch, steps):
            self.model.stop_training = True

    def on_test_begin(self, logs=None):
        self.model.gradient_pipeline.flush()

    def on_epoch_end(self, epoch, logs=None):
        # `fit` of some releases says nothing of an execution that the end of the data has cut short.
        self.on_train_batch_end(None)
        self.model.gradient_pipeline.flush()
        if logs is not None:  # they were made before the flush
            logs.update(compat.pythonify_logs(self.model.gradient_pipeline.metrics.results()))
