"""Early stopping: when to stop, why, and which weights to keep."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Literal

import numpy as np

from customfit.arguments import as_count, did_you_mean, is_count
from customfit.callbacks.monitoring import Direction, default_monitor, direction_of
from customfit.compat import keras


class EarlyStopping(keras.callbacks.Callback):
    """Stops training when a metric has stopped improving, and restores the best weights.

    Use it as `custom_fit(early_stopping=...)` or as `fit(callbacks=[...])`. Unlike Keras's own it restores the best
    weights by default, also if all epochs ran, and under `custom_fit()` also if an exception or an interrupt ends
    training.

    Args:
        monitor: The metric. Defaults to the loss of the first validation set, such as `val_loss`, else to `loss`.
        patience: Epochs without improvement after which training stops. Defaults to 0.
        min_delta: The smallest change that counts as an improvement. Defaults to 0.
        mode: Whether a lower value is better (`"min"`) or a higher one (`"max"`). Defaults to `"auto"`: the metric's
            name tells.
        baseline: Improvements reset `patience` only if they are better than this value.
        restore_best_weights: Whether the model ends with the weights of its best epoch. Defaults to `True`.
        start_from_epoch: Epochs at the start that do not count. Defaults to 0.
        stopping_threshold: Stops as soon as the metric is at least as good as this.
        divergence_threshold: Stops as soon as the metric is worse than this.
        check_finite: Whether to stop as soon as the metric is NaN or infinite. Defaults to `True`.
        verbose: Whether to print why training stopped. Defaults to 1.
        print_fn: Prints it. Defaults to `print`.

    Attributes:
        stop_reason: Why training stopped, in words, or `None`.
        stopped_epoch: The epoch in which it stopped, counted from 0, or `None`.
        best: The best value of the metric, or `None`.
        best_epoch: The epoch of that value, counted from 0, or `None`.
        best_step: The step of that value, if it is from a validation within an epoch, else `None`.

    Raises:
        ValueError: At once if an option is wrong. If the metric is not available, before the first step under
            `custom_fit` where that can be told, else after the first epoch.

    Example:

    >>> stopping = EarlyStopping("val_accuracy", patience=5)
    >>> model.custom_fit(x, y, validation_split=0.2, epochs=100, early_stopping=stopping)
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 0,
        min_delta: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        verbose: int = 1,
        print_fn: Callable[[str], object] = print,
    ):
        super().__init__()
        _require(monitor is None or isinstance(monitor, str), "monitor", "the name of a metric", monitor)
        _require(_is_number(min_delta), "min_delta", "a number", min_delta)
        _require(mode in ("auto", "min", "max"), "mode", '"auto", "min" or "max"', mode)
        for name, value in dict(
            baseline=baseline, stopping_threshold=stopping_threshold, divergence_threshold=divergence_threshold
        ).items():
            _require(value is None or _is_number(value), name, "a number", value)
        self.monitor = monitor
        self.monitor_is_default = monitor is None
        self.patience = as_count("patience", patience, 0)
        self.min_delta = abs(min_delta)
        self.mode = mode
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = as_count("start_from_epoch", start_from_epoch, 0)
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.check_finite = check_finite
        self.verbose = verbose
        self.print_fn = print_fn
        if monitor is not None:
            self._direction()  # so that an unclear mode is refused now, not after an epoch
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_step: int | None = None
        self.best_weights: list[np.ndarray] | None = None
        self.stop_reason: str | None = None
        self.stopped_epoch: int | None = None
        self.stopped_step: int | None = None
        self._epoch = 0  # the current epoch
        self._last_epoch: int | None = None  # the last epoch that had a value
        self._last_step: int | None = None  # the last validation within an epoch

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._reset()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        value = self._monitored_value(logs or {})
        if value is None:
            return
        self._last_epoch = epoch
        if self._last_step is None:  # else these logs repeat those of the last validation
            self._update(value, epoch, None)

    def on_validation_end(self, step: int, logs: Mapping[str, float]) -> None:
        """Takes a validation within an epoch, of `custom_fit(validation_freq=Every(steps=...))`, in place of an epoch.

        Args:
            step: The step, counted over all epochs.
            logs: The logs of the validation.
        """
        if self.monitor is not None and self.monitor in logs:
            self._last_step = step
            self._update(float(logs[self.monitor]), self._epoch, step)

    def _update(self, value: float, epoch: int, step: int | None) -> None:
        if epoch < self.start_from_epoch:
            return
        self.wait += 1
        improved = math.isfinite(value) and self._improves(value, self.best, self.min_delta)
        if improved:
            self.best, self.best_epoch, self.best_step = value, epoch, step
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self._improves(value, self.baseline, self.min_delta):
                self.wait = 0
        self.stop_reason = self._reason(value, improved, first=epoch == 0 and step is None)
        if self.stop_reason is not None:
            self.stopped_epoch, self.stopped_step = epoch, step
            self.model.stop_training = True

    _STATE = (
        *("wait", "best", "best_epoch", "best_step", "best_weights"),
        *("stop_reason", "stopped_epoch", "stopped_step", "_epoch", "_last_epoch", "_last_step"),
    )

    def get_state(self) -> dict[str, Any]:
        """Returns the state, for a checkpoint of `custom_fit`."""
        return {name: getattr(self, name) for name in self._STATE}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the state.

        Args:
            state: What `get_state` returned.
        """
        for name in self._STATE:
            setattr(self, name, state[name])

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self._last_epoch is None and self.monitor is not None and logs:
            warnings.warn(
                f"Early stopping had no effect: {self.monitor!r} was never available. Available metrics: "
                f"{', '.join(sorted(logs))}.",
                stacklevel=2,
            )
        if self.verbose and self.stop_reason is not None:
            when = _when(self.stopped_epoch or 0, self.stopped_step)
            self.print_fn(f"{when[0].upper()}{when[1:]}: early stopping: {self.stop_reason}.")
        self.restore()

    def restore(self) -> None:
        """Restores the weights of the best epoch, if there is one. Calling it again changes nothing."""
        if self.best_weights is None or self.best_epoch is None:
            return
        self.model.set_weights(self.best_weights)
        self.best_weights = None
        if self.best_step is not None:
            what, number, is_last = "step", self.best_step, self.best_step == self._last_step
        else:
            what, number, is_last = "epoch", self.best_epoch + 1, self.best_epoch == self._last_epoch
        if self.verbose and not is_last:
            self.print_fn(f"Restored the weights of the best {what}, {number}: {self.monitor} = {self.best:.4g}.")

    def _reason(self, value: float, improved: bool, first: bool) -> str | None:
        """Returns why training must stop now, or `None`."""
        now = f"{self.monitor} = {value:.4g}"
        if self.check_finite and not math.isfinite(value):
            return f"{self.monitor} = {value} is not finite"
        if self.stopping_threshold is not None and (
            value == self.stopping_threshold or self._improves(value, self.stopping_threshold, 0.0)
        ):
            return f"{now} has reached stopping_threshold={self.stopping_threshold:g}"
        if self.divergence_threshold is not None and self._improves(self.divergence_threshold, value, 0.0):
            return f"{now} is worse than divergence_threshold={self.divergence_threshold:g}"
        if not improved and self.wait >= self.patience and not first:
            what = "epoch" if self._last_step is None else "validation"
            best = "it has not been finite yet"
            if self.best is not None and self.best_epoch is not None:
                preposition = "in" if self.best_step is None else "at"
                best = f"best {self.best:.4g} {preposition} {_when(self.best_epoch, self.best_step)}"
            return f"{self.monitor} has not improved for {self.wait} {what}{'s' * (self.wait > 1)} ({best})"
        return None

    def _improves(self, value: float, reference: float | None, by: float) -> bool:
        if reference is None:
            return True
        return value < reference - by if self._direction() == "min" else value > reference + by

    @property
    def direction(self) -> Direction:
        """The direction of the metric that is better, "min" or "max"."""
        return self._direction()

    def _direction(self) -> Direction:
        direction = direction_of(self.monitor or "", self.mode)
        if direction is None:
            raise ValueError(
                '`mode` must be "min" or "max", because the name of the metric does not tell which is better. Is it '
                f'spelt right? Received: mode="auto", monitor={self.monitor!r}'
            )
        return direction

    def _monitored_value(self, logs: Mapping[str, float]) -> float | None:
        """Returns the metric's value after an epoch, or `None` if the epoch was not validated (`validation_freq`)."""
        if self.monitor is None:
            self.monitor = default_monitor(["val_"] if "val_loss" in logs else [])
        if self.monitor in logs:
            return float(logs[self.monitor])
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            return None
        raise unknown_monitor(self.monitor, logs)


def unknown_monitor(monitor: str, available: Iterable[str]) -> ValueError:
    """Returns the error for a monitor that is not among the available logs."""
    available = sorted(available)
    return ValueError(
        f"{monitor!r} is not available for early stopping. Available metrics: {', '.join(available)}."
        f"{did_you_mean(monitor, available)} Received: monitor={monitor!r}"
    )


def make_early_stopping(
    option: int | keras.callbacks.Callback | None, validation: Sequence[str], verbose: int
) -> keras.callbacks.Callback | None:
    """Returns the callback that `custom_fit(early_stopping=option)` asks for.

    Args:
        option: `None`, a patience in epochs, an `EarlyStopping`, or Keras's own callback.
        validation: The prefixes of the logs of each set of validation data.
        verbose: Whether an `EarlyStopping` that is made here prints.

    Returns:
        The callback, or `None`.

    Raises:
        ValueError: If the option is anything else, or monitors validation and there is no validation data.
    """
    if option is None or option is False:
        return None
    stopping: Any  # one of the two
    if is_count(option, 0):
        stopping = EarlyStopping(patience=as_count("early_stopping", option, 0), verbose=verbose)
    elif isinstance(option, (EarlyStopping, keras.callbacks.EarlyStopping)):
        stopping = option
    else:
        raise ValueError(
            "`early_stopping` must be a patience in epochs, a `customfit.EarlyStopping` or Keras's own callback. "
            f"Received: early_stopping={option!r}"
        )
    if stopping.monitor is None or getattr(stopping, "monitor_is_default", False):
        stopping.monitor = default_monitor(validation)
    if stopping.monitor.startswith("val_") and not validation:
        raise ValueError(
            "`early_stopping` cannot monitor validation, because there is no validation data. Pass `validation_data`, "
            f"or monitor a metric of training. Received: monitor={stopping.monitor!r}"
        )
    return stopping


def _when(epoch: int, step: int | None) -> str:
    return f"epoch {epoch + 1}" if step is None else f"step {step}"


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def _require(holds: bool, name: str, what: str, received: object) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={received!r}")
