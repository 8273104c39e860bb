"""Early stopping: when to stop, why, and which weights to keep."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, Callable

from customfit.arguments import as_count, is_count
from customfit.compat import keras

_LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "mape", "msle", "rmse", "crossentropy", "perplexity", "divergence")
_HIGHER_IS_BETTER = (
    "acc",
    "auc",
    "precision",
    "recall",
    "f1",
    "score",
    "iou",
    "dice",
    "return",
    "reward",
    "r2",
    "similarity",
)


class EarlyStopping(keras.callbacks.Callback):
    """Stops training when a metric has stopped improving, and brings the best weights back.

    A callback for `custom_fit(early_stopping=...)` and for `fit(callbacks=[...])` alike. It differs from Keras's own in
    that the best weights are restored by default, also when all epochs ran; under `custom_fit()` also when an exception
    or an interrupt ends training.

    Args:
        monitor: The metric to watch. Defaults to `val_loss` where there is validation, else `loss`.
        patience: Epochs without improvement after which training stops. Defaults to 0.
        min_delta: The least change that counts as an improvement. Defaults to 0.
        mode: `"min"`, `"max"`, or `"auto"` (default): by the metric's name.
        baseline: A value that the metric must improve on before `patience` is reset by improvements.
        restore_best_weights: Whether the model ends with the weights of its best epoch. Defaults to `True`.
        start_from_epoch: Epochs at the start that are not watched. Defaults to 0.
        stopping_threshold: Stops as soon as the metric is at least as good as this.
        divergence_threshold: Stops as soon as the metric is worse than this.
        check_finite: Whether to stop as soon as the metric is NaN or infinite. Defaults to `True`.
        verbose: Whether to print why training stopped. Defaults to 1.
        print_fn: What to print with. Defaults to `print`.

    Attributes:
        stop_reason: A sentence that says why training stopped, or `None`.
        stopped_epoch: The epoch at which it stopped, or `None`.
        best: The best value of the metric, or `None`.
        best_epoch: The epoch of that value, or `None`.
        best_step: Its step, where it came from a validation within an epoch, else `None`.

    Raises:
        ValueError: In the first epoch, if there is no metric of that name; at once, if an option is wrong.

    Example:

    >>> stopping = EarlyStopping("val_accuracy", patience=5)
    >>> model.custom_fit(x, y, validation_split=0.2, epochs=100, early_stopping=stopping)
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 0,
        min_delta: float = 0.0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = True,
        start_from_epoch: int = 0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_finite: bool = True,
        verbose: int = 1,
        print_fn: Callable[[str], Any] = print,
    ):
        super().__init__()
        _require(monitor is None or isinstance(monitor, str), "monitor", "the name of a metric", monitor)
        _require(_is_number(min_delta), "min_delta", "a number", min_delta)
        _require(mode in ("auto", "min", "max"), "mode", '"auto", "min" or "max"', mode)
        for name, value in dict(
            baseline=baseline, stopping_threshold=stopping_threshold, divergence_threshold=divergence_threshold
        ).items():
            _require(value is None or _is_number(value), name, "a number", value)
        self.monitor: Any = monitor
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
            self._direction()  # an unclear mode is refused here, not after an epoch
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.best: float | None = None
        self.best_epoch: Any = None
        self.best_weights: list | None = None
        self.stop_reason: str | None = None
        self.stopped_epoch: Any = None
        self.best_step: int | None = None
        self.stopped_step: int | None = None
        self._epoch = 0  # the current one
        self._last_epoch: int | None = None  # that had a value
        self._last_step: int | None = None  # of a validation within an epoch

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        value = self._monitored(epoch, logs or {})
        if value is None:
            return
        self._last_epoch = epoch
        if self._last_step is None:  # else the epoch repeats what its last validation has found
            self._update(value, epoch, None)

    def on_validation_end(self, step: int, logs: dict) -> None:
        """Hears of a validation within an epoch, of `custom_fit(validation_interval=...)`; it then counts those."""
        if self.monitor in logs:
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

    def get_state(self) -> dict:
        """What it remembers: what a checkpoint of `custom_fit` keeps."""
        return {name: getattr(self, name) for name in self._STATE}

    def set_state(self, state: dict) -> None:
        """Remembers what `get_state` gave."""
        for name in self._STATE:
            setattr(self, name, state[name])

    def on_train_end(self, logs=None):
        if self._last_epoch is None and self.monitor is not None and logs:
            warnings.warn(
                f"Early stopping never saw {self.monitor!r}. There were: {', '.join(sorted(logs))}.", stacklevel=2
            )
        if self.verbose and self.stop_reason is not None:
            when = _when(self.stopped_epoch, self.stopped_step)
            self.print_fn(f"{when[0].upper()}{when[1:]}: early stopping: {self.stop_reason}.")
        self.restore()

    def restore(self) -> None:
        """Gives the model the weights of its best epoch, if any were kept. Calling it again changes nothing."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
            self.best_weights = None
            within = self.best_step is not None
            if self.verbose and (self.best_step != self._last_step if within else self.best_epoch != self._last_epoch):
                what, number = ("step", self.best_step) if within else ("epoch", self.best_epoch + 1)
                self.print_fn(f"Restored the weights of the best {what}, {number}: {self.monitor} = {self.best:.4g}.")

    def _reason(self, value: float, improved: bool, first: bool) -> str | None:
        """Why training should stop now, or `None`."""
        seen = f"{self.monitor} = {value:.4g}"
        if self.check_finite and not math.isfinite(value):
            return f"{self.monitor} = {value} is not finite"
        if self.stopping_threshold is not None and (
            value == self.stopping_threshold or self._improves(value, self.stopping_threshold, 0.0)
        ):
            return f"{seen} has reached stopping_threshold={self.stopping_threshold:g}"
        if self.divergence_threshold is not None and self._improves(self.divergence_threshold, value, 0.0):
            return f"{seen} is worse than divergence_threshold={self.divergence_threshold:g}"
        if not improved and self.wait >= self.patience and not first:
            best = (
                "it has not been finite yet"
                if self.best is None
                else f"best {self.best:.4g} {'in' if self.best_step is None else 'at'} "
                f"{_when(self.best_epoch, self.best_step)}"
            )
            what = "epoch" if self._last_step is None else "validation"
            return f"{self.monitor} has not improved for {self.wait} {what}{'s' * (self.wait > 1)} ({best})"
        return None

    def _improves(self, value: float, reference: float | None, by: float) -> bool:
        if reference is None:
            return True
        return value < reference - by if self._direction() == "min" else value > reference + by

    def _direction(self) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.lower()
        if any(word in name for word in _LOWER_IS_BETTER):
            return "min"
        if any(word in name for word in _HIGHER_IS_BETTER):
            return "max"
        raise ValueError(
            '`mode` must be "min" or "max" where the name of the metric does not tell; or is the name misspelt? '
            f'Received: mode="auto", monitor={self.monitor!r}'
        )

    def _monitored(self, epoch: int, logs: dict) -> float | None:
        """The metric's value after this epoch, or `None` where the epoch was not validated (`validation_freq`)."""
        if self.monitor is None:
            self.monitor = "val_loss" if "val_loss" in logs else "loss"
        if self.monitor in logs:
            return float(logs[self.monitor])
        if self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
            return None
        raise ValueError(
            f"`early_stopping` must monitor a metric that there is: {', '.join(sorted(logs))}. Received: "
            f"monitor={self.monitor!r}"
        )


def score_of(logs: dict, stopping: keras.callbacks.Callback | None, validation: list[str]) -> float | None:
    """How good the epoch or validation of these logs is, the lower the better: by what early stopping monitors.

    Args:
        logs: Its logs.
        stopping: The callback, or `None`: then it is the loss, that of validation where there is some.
        validation: The prefixes of the logs of each set of validation data.

    Returns:
        A number, infinite where the metric is not finite; `None` where the logs do not have it.
    """
    monitor = getattr(stopping, "monitor", None) or (f"{validation[0]}loss" if validation else "loss")
    value = logs.get(monitor)
    if value is None or not math.isfinite(value):
        return None if value is None else math.inf
    mode = getattr(stopping, "mode", "auto")
    higher = mode == "max" or (mode == "auto" and any(word in monitor.lower() for word in _HIGHER_IS_BETTER))
    lower = mode == "auto" and any(word in monitor.lower() for word in _LOWER_IS_BETTER)
    return -float(value) if higher and not lower else float(value)


def make_early_stopping(option: Any, validation: list[str], verbose: int) -> keras.callbacks.Callback | None:
    """The callback that `custom_fit(early_stopping=option)` asks for.

    Args:
        option: `None`, a patience in epochs, a dict of options of `EarlyStopping`, an `EarlyStopping`, or Keras's own.
        validation: The prefixes of the logs of each set of validation data.
        verbose: Whether an `EarlyStopping` that is made here prints.

    Returns:
        The callback, or `None`.

    Raises:
        ValueError: If the option is anything else, or monitors validation that there is none of.
    """
    if option is None or option is False:
        return None
    if is_count(option, 0):
        stopping = EarlyStopping(patience=option, verbose=verbose)
    elif isinstance(option, dict):
        try:
            stopping = EarlyStopping(**{"verbose": verbose, **option})
        except TypeError as error:
            raise ValueError(
                f"`early_stopping` must hold options of `customfit.EarlyStopping`. Received: {option} ({error})"
            ) from None
    elif isinstance(option, (EarlyStopping, keras.callbacks.EarlyStopping)):
        stopping = option
    else:
        raise ValueError(
            "`early_stopping` must be a patience in epochs, a dict of options, a `customfit.EarlyStopping` or Keras's "
            f"own. Received: early_stopping={option!r}"
        )
    if stopping.monitor is None or getattr(stopping, "monitor_is_default", False):
        stopping.monitor = f"{validation[0]}loss" if validation else "loss"
    if stopping.monitor.startswith("val_") and not validation:
        raise ValueError(
            "`early_stopping` must monitor a metric of training where there is no validation data. Received: "
            f"monitor={stopping.monitor!r}"
        )
    return stopping


def _when(epoch: int, step: int | None) -> str:
    return f"epoch {epoch + 1}" if step is None else f"step {step}"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def _require(holds: bool, name: str, what: str, received: object | None) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {what}. Received: {name}={received!r}")
