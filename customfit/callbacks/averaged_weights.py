"""Averages of the weights over a training run, with the statistics of batch normalization put right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from customfit.arguments import as_count
from customfit.callbacks.monitoring import score_of
from customfit.compat import keras, tf


class AveragedWeights(keras.callbacks.Callback):
    """Averages the weights of the last epochs (SWA), evaluates them, and leaves the better of the two in the model.

    Izmailov et al. 2018, https://arxiv.org/abs/1803.05407. With `ema=True` the average is the moving average that an
    optimizer of Keras keeps (`use_ema=True`). The weights that are trained are never touched.

    Moving means and variances of `BatchNormalization` belong to the weights of the last step. With `data` they are
    computed again for the averaged weights, as the mean over one pass.

    It works under `fit()` and `custom_fit()`, and resumes with `checkpoint=`. (On Keras 3, `SwapEMAWeights` evaluates
    by the moving average, without `data` and without comparing.)

    Args:
        start_epoch: The first epoch that counts, counted from 0. Defaults to 0.
        ema: Whether to use the optimizer's moving average. Defaults to `False`: the mean over epochs.
        data: Inputs to compute the statistics of batch normalization on: arrays, or a `tf.data.Dataset` of batches. It
            must be given if the model has such layers.
        batch_size: Rows in a batch, if `data` or `validation_data` are arrays. Defaults to 32.
        validation_data: `(x, y)` or a dataset. If given, the averaged weights are evaluated after each epoch, and the
            logs have `averaged_loss` and so on; and the model ends with the better weights by `monitor`. Otherwise it
            ends with the averaged ones.
        monitor: The metric that decides. Defaults to "loss".
        mode: Whether a lower value is better ("min") or a higher one ("max"). Defaults to "auto", by its name.

    Attributes:
        results: After training, if there are `validation_data`: the metrics of the weights that were trained, as
            `results["trained"]`, and of the averaged ones, as `results["averaged"]`.
        kept: Which of them the model has: "trained" or "averaged"; `None` if no epoch has counted.

    Raises:
        ValueError: When training begins: if the model has batch normalization and there are no `data`, or `ema=True`
            and the optimizer keeps no average.

    Example:

    >>> averaged = customfit.callbacks.AveragedWeights(start_epoch=15, data=x, validation_data=(x_val, y_val))
    >>> model.custom_fit(x, y, epochs=20, callbacks=[averaged])
    >>> averaged.kept
    'averaged'
    """

    def __init__(
        self,
        start_epoch: int = 0,
        *,
        ema: bool = False,
        data: Any = None,
        batch_size: int = 32,
        validation_data: Any = None,
        monitor: str = "loss",
        mode: Literal["auto", "min", "max"] = "auto",
    ):
        super().__init__()
        self.start_epoch = as_count("start_epoch", start_epoch, 0)
        self.ema = ema
        self.data = data
        self.batch_size = as_count("batch_size", batch_size)
        self.validation_data = validation_data
        self.monitor = monitor
        self.mode = mode
        self.results: dict[str, dict[str, float]] = {}
        self.kept: Literal["trained", "averaged"] | None = None
        self._reset()

    def _reset(self) -> None:
        self.results, self.kept = {}, None
        self._count = 0
        self._mean: list[np.ndarray] = []
        self._trained: list[np.ndarray] = []  # all variables of the model after the last epoch

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._reset()
        if self.data is None and _normalizations(self.model):
            raise ValueError(
                "`AveragedWeights(data=)` must be given for a model with `BatchNormalization`, whose statistics are "
                "not those of the averaged weights. Received: data=None"
            )
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        several = getattr(optimizer, "groups", {"": optimizer}).values()
        if self.ema and not all(getattr(each, "use_ema", False) for each in several):
            raise ValueError(
                "`AveragedWeights(ema=True)` needs an optimizer that keeps a moving average: pass `use_ema=True` to "
                f"it. Received: a {type(optimizer).__name__} without one"
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._trained = self._values()
        if epoch < self.start_epoch:
            return
        self._count += 1
        self._add(self._moving_average())
        if self.validation_data is not None and logs is not None:
            self._set_averaged()
            logs.update({f"averaged_{name}": value for name, value in self._evaluate().items()})
            self._set(self._trained)

    def _moving_average(self) -> list[np.ndarray]:
        """Returns what is averaged: the weights, or the optimizer's average of them."""
        weights = self.model.trainable_variables
        if not self.ema:
            return [variable.numpy() for variable in weights]
        self.model.optimizer.finalize_variable_values(weights)
        found = [variable.numpy() for variable in weights]
        self._set(self._trained)
        return found

    def _add(self, values: list[np.ndarray]) -> None:
        if self.ema or self._count == 1:
            self._mean = [value.astype("float64") for value in values]
        else:
            self._mean = [mean + (value - mean) / self._count for mean, value in zip(self._mean, values)]

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if not self._count:
            return
        if self.validation_data is not None:
            self._set(self._trained)
            self.results["trained"] = self._evaluate()
        self._set_averaged()
        self.kept = "averaged"
        if self.validation_data is not None:
            self.results["averaged"] = self._evaluate()
            if self._score("averaged") > self._score("trained"):
                self._set(self._trained)
                self.kept = "trained"

    def _score(self, which: str) -> float:
        """Returns how good weights are, the lower the better."""
        score = score_of(self.results[which], self, [])  # type: ignore[arg-type]
        if score is None:
            raise ValueError(
                f"`monitor` must be one of {', '.join(self.results[which])}. Received: monitor={self.monitor!r}"
            )
        return score

    def _evaluate(self) -> dict[str, float]:
        evaluate = getattr(self.model, "custom_evaluate", self.model.evaluate)
        if isinstance(self.validation_data, tf.data.Dataset):
            return evaluate(self.validation_data, verbose=0, return_dict=True)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.validation_data)
        options = {"batch_size": self.batch_size, "verbose": 0, "return_dict": True}
        return evaluate(x, y, sample_weight=sample_weight, **options)

    def _values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.model.variables if hasattr(variable, "assign")]

    def _set(self, values: list[np.ndarray]) -> None:
        variables = [variable for variable in self.model.variables if hasattr(variable, "assign")]
        for variable, value in zip(variables, values):
            variable.assign(value)

    def _set_averaged(self) -> None:
        for variable, value in zip(self.model.trainable_variables, self._mean):
            variable.assign(np.asarray(value, np.dtype(getattr(variable.dtype, "name", variable.dtype))))
        normalizations = _normalizations(self.model)
        if normalizations:
            momenta = [layer.momentum for layer in normalizations]
            try:
                for number, x in enumerate(_batches(self.data, self.batch_size)):
                    for layer in normalizations:
                        layer.momentum = number / (number + 1)  # the mean over all batches so far
                    self.model(x, training=True)
            finally:
                for layer, momentum in zip(normalizations, momenta):
                    layer.momentum = momentum

    def get_state(self) -> dict[str, Any]:
        """Returns the average, for a checkpoint of `custom_fit`."""
        return {"count": self._count, "mean": self._mean, "trained": self._trained}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the average.

        Args:
            state: What `get_state` returned.
        """
        self._count, self._mean, self._trained = state["count"], list(state["mean"]), list(state["trained"])


def _normalizations(model: keras.Model) -> list[Any]:
    """Returns the layers of batch normalization whose statistics move, at any depth."""
    found = tf.train.TrackableView(model).descendants()
    return [each for each in found if isinstance(each, keras.layers.BatchNormalization) and each.trainable]


def _batches(data: Any, batch_size: int) -> Iterator[Any]:
    """Yields batches of inputs, without targets that a dataset may have."""
    if isinstance(data, tf.data.Dataset):
        for batch in data:
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]
    else:
        yield from tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
