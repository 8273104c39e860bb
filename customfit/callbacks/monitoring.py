"""Which direction of a metric is better, and how good its value is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from customfit.compat import keras

Direction = Literal["min", "max"]

_LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "mape", "msle", "rmse", "crossentropy", "perplexity", "divergence")
_HIGHER_IS_BETTER = (
    *("acc", "auc", "precision", "recall", "f1", "score", "iou", "dice"),
    *("return", "reward", "r2", "similarity"),
)


def direction_of(monitor: str, mode: Literal["auto", "min", "max"] = "auto") -> Direction | None:
    """Returns which direction of a metric is better; `None` if its name is to say and does not.

    Args:
        monitor: The name.
        mode: The direction, or "auto": by the name.
    """
    if mode != "auto":
        return mode
    name = monitor.lower()
    if any(word in name for word in _LOWER_IS_BETTER):
        return "min"
    return "max" if any(word in name for word in _HIGHER_IS_BETTER) else None


def default_monitor(validation: Sequence[str]) -> str:
    """Returns the metric that is monitored by default: the loss of the first set of validation data, else the loss.

    Args:
        validation: The prefixes of the logs of each set of validation data.
    """
    return f"{validation[0]}loss" if validation else "loss"


def score_of(
    logs: Mapping[str, float], early_stopping: keras.callbacks.Callback | None, validation: Sequence[str]
) -> float | None:
    """Returns how good an epoch or a validation pass was, the lower the better, by what early stopping monitors.

    Args:
        logs: Its logs.
        early_stopping: The callback. `None`: the default metric is monitored.
        validation: The prefixes of the logs of each set of validation data.

    Returns:
        A number, infinite if the metric is not finite. `None` if the logs do not have the metric.
    """
    monitor = getattr(early_stopping, "monitor", None) or default_monitor(validation)
    value = logs.get(monitor)
    if value is None or not math.isfinite(value):
        return None if value is None else math.inf
    direction = direction_of(monitor, getattr(early_stopping, "mode", "auto"))
    return -float(value) if direction == "max" else float(value)
