"""What `fit` must do for the gradient pipeline, and `custom_fit` does by itself."""

from __future__ import annotations

from customfit.compat import keras


class GradientEvents(keras.callbacks.Callback):
    """Ends training after a step that was not finite, and an epoch with what is left of accumulated gradients."""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.gradient_pipeline.heed(self.model, self._epoch, batch + 1)

    def on_test_begin(self, logs=None):
        self.model.gradient_pipeline.flush()

    def on_epoch_end(self, epoch, logs=None):
        self.model.gradient_pipeline.flush()
