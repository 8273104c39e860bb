"""Calls the gradient pipeline under `fit`. `custom_fit` calls it by itself."""

from __future__ import annotations

from collections.abc import Mapping

from customfit import compat
from customfit.compat import keras


class GradientEvents(keras.callbacks.Callback):
    """Ends training after a step that was not finite, and applies accumulated gradients at the end of an epoch."""

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.model.gradient_pipeline.begin()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch, self._steps_before = epoch, self.model.gradient_pipeline.guard.steps

    def on_train_batch_end(self, batch: int | None, logs: Mapping[str, float] | None = None) -> None:
        pipeline = self.model.gradient_pipeline
        if not pipeline.guard.ends_training:
            return
        # Counted by the guard: releases of `fit` differ in the step that they pass at the end of an execution.
        steps = pipeline.guard.steps - self._steps_before
        if pipeline.check_nonfinite(self.model, self._epoch, steps):
            self.model.stop_training = True

    def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.model.gradient_pipeline.flush()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # Some releases of `fit` call no hook after an execution that the end of the data has cut short.
        self.on_train_batch_end(None)
        self.model.gradient_pipeline.flush()
        if logs is not None:  # they were computed before the flush
            logs.update(compat.pythonify_logs(self.model.gradient_pipeline.metrics.results()))
