"""Figures by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from customfit.callbacks.monitoring import Direction, default_monitor, direction_of
from customfit.compat import keras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = object

__all__ = [
    "Axes",
    "best_epoch",
    "epochs_of",
    "log_groups",
    "new_axes",
    "new_panels",
    "plot_confusion_matrix",
    "plot_history",
    "validation_sets",
]


def new_axes(needed_by: str) -> Axes:
    """Returns the axes of a new figure, which belongs to no window.

    Args:
        needed_by: What draws, for the error.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return new_panels(needed_by, 1)[0]


def new_panels(needed_by: str, count: int) -> list[Axes]:
    """Returns the axes of a new figure, side by side, three in a row at most.

    Args:
        needed_by: What draws, for the error.
        count: How many.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"`{needed_by}` needs matplotlib: `pip install matplotlib`.") from None
    columns = 2 if count == 4 else min(count, 3)
    rows = math.ceil(count / columns)
    width = 8 if columns == 1 else 5.5 * columns
    figure = Figure(figsize=(width, 4.5 if rows == 1 else 3.5 * rows), layout="constrained")
    return [figure.add_subplot(rows, columns, panel + 1) for panel in range(count)]


def plot_history(
    history: keras.callbacks.History | Mapping[str, Sequence[float]],
    monitor: str | None = None,
    mode: Literal["auto", "min", "max"] = "auto",
) -> list[Axes]:
    """Plots what `fit` and `custom_fit` return: a panel for each log, training and validation in one.

    The learning rate and gradient norms have panels where they are logged. The best epoch is marked in each, and the
    title says why training ended.

    Args:
        history: A `History`, or its `history`.
        monitor: The log by which the best epoch is chosen. Defaults to the loss of the first validation set, or to the
            loss. Without a loss no epoch is marked, unless the first log's name tells which direction is better.
        mode: Which direction of `monitor` is better. "auto" tells it by the name. Defaults to "auto".

    Returns:
        The axes of the panels: `axes[0].figure.savefig("history.png")` saves them.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no epoch in it, no log of the name, or the name does not tell which direction is better.

    Example:

    >>> history = model.custom_fit(x, y, epochs=10, validation_split=0.2, early_stopping=3)
    >>> axes = customfit.callbacks.plot_history(history)
    >>> axes[0].figure.savefig("history.png")
    """
    logs = history if isinstance(history, Mapping) else history.history
    if not any(map(len, logs.values())):
        raise ValueError("`history` must hold an epoch. Received: a history without one")
    groups = log_groups(logs)
    by, direction = _monitored(logs, monitor, mode)
    begin = 1 if isinstance(history, Mapping) else history.epoch[0] + 1
    epochs = np.arange(begin, begin + max(map(len, logs.values())))
    best = best_epoch(logs[by], direction, epochs) if direction else None
    panels = new_panels("plot_history", len(groups))
    marker = "." if len(epochs) < 30 else ""
    for axes, (name, group) in zip(panels, groups.items()):
        for label in group:
            if np.ndim(logs[label]) == 1:
                axes.plot(epochs_of(logs[label], epochs), logs[label], marker=marker, label=label)
        if best is not None:
            axes.axvline(best, color="black", linewidth=0.8, linestyle=":", label=f"best {by}: epoch {best}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    reason = getattr(history, "stop_reason", None)
    if reason:
        panels[0].figure.suptitle(reason)
    return panels


def _monitored(
    logs: Mapping[str, Sequence[float]], monitor: str | None, mode: Literal["auto", "min", "max"]
) -> tuple[str, Direction | None]:
    """The log by which the best epoch is chosen, and which direction of it is better, where that is known."""
    if mode not in ("auto", "min", "max"):
        raise ValueError(f'`mode` must be "auto", "min" or "max". Received: mode={mode!r}')
    default = default_monitor([f"{name}_" for name in validation_sets(logs)])
    by = monitor or (default if default in logs else next(iter(log_groups(logs))))
    if by not in logs:
        raise ValueError(f"`monitor` must be one of {', '.join(logs)}. Received: monitor={monitor!r}")
    direction = direction_of(by, mode)
    if monitor and direction is None:
        raise ValueError(
            '`mode` must be "min" or "max", because the name of the log does not tell which is better. '
            f"Received: mode={mode!r}, monitor={monitor!r}"
        )
    return by, direction


def validation_sets(logs: Mapping[str, Sequence[float]]) -> list[str]:
    """Returns the prefixes under which a log stands once more for each validation set: those that all logs have.

    Args:
        logs: The values of each log, by its name.
    """
    prefixes = [name[: -len("_loss")] for name in logs if name.endswith("_loss")]
    return [
        prefix
        for prefix in prefixes
        if prefix == "val" or _is_named_set(prefix, prefixes) or _repeats_all(prefix, logs)
    ]


def _is_named_set(prefix: str, prefixes: Sequence[str]) -> bool:
    """Whether it is a set of `validation_data={"name": ...}`: the losses of outputs stand beside a "val_loss"."""
    is_output_of_set = any(prefix.startswith(f"{other}_") for other in prefixes if other.startswith("val_"))
    return prefix.startswith("val_") and "val" not in prefixes and not is_output_of_set


def _repeats_all(prefix: str, logs: Mapping[str, Sequence[float]]) -> bool:
    """Whether logs of training stand once more with this prefix, such as "averaged"; those of an output do not."""
    measured = [name[len(prefix) + 1 :] for name in logs if name.startswith(f"{prefix}_")]
    return not prefix.startswith("val_") and len(measured) > 1 and all(name in logs for name in measured)


def log_groups(logs: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """Returns the logs that belong together, by the first: `{"loss": ["loss", "val_loss"]}`. The loss comes first.

    Args:
        logs: The values of each log, by its name.
    """
    groups: dict[str, list[str]] = {}
    sets = validation_sets(logs)
    for label in logs:
        prefix = next((f"{prefix}_" for prefix in sets if label.startswith(f"{prefix}_")), "")
        groups.setdefault(label[len(prefix) :], []).append(label)
    for name, group in groups.items():
        group.sort(key=lambda label: label != name)  # that of training, if it has one
    return dict(sorted(groups.items(), key=lambda item: item[0] != "loss"))


def epochs_of(values: Sequence[float], epochs: np.ndarray) -> np.ndarray:
    """Returns the epochs of values: with `validation_freq=2` there is one for every second.

    Args:
        values: The values of a log.
        epochs: All epochs.
    """
    every = max(1, len(epochs) // max(1, len(values)))
    return epochs[every - 1 :: every][: len(values)]


def best_epoch(values: Sequence[float], direction: Direction, epochs: np.ndarray) -> int | None:
    """Returns the epoch with the best value; `None` if no value is a finite number.

    Args:
        values: The values of a log.
        direction: Which direction is better, "min" or "max".
        epochs: All epochs.
    """
    if np.ndim(values) != 1 or not np.isfinite(values).any():
        return None
    finite = np.where(np.isfinite(values), values, np.nan)
    find = np.nanargmax if direction == "max" else np.nanargmin
    return int(epochs_of(values, epochs)[find(finite)])


def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]], labels: Sequence[str] | None = None, axes: Axes | None = None
) -> Axes:
    """Plots a confusion matrix: a row for each true class, a column for each predicted one.

    The color is the share of the true class, the number is the count.

    Args:
        matrix: Counts, of shape `(classes, classes)`, as scikit-learn's `confusion_matrix` returns them.
        labels: The names of the classes. Defaults to their numbers.
        axes: Matplotlib axes to draw on. Defaults to those of a new figure.

    Returns:
        The axes: `axes.figure.savefig("confusion.png")` saves them.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix is not square, or there are not as many labels.

    Example:

    >>> axes = customfit.callbacks.plot_confusion_matrix(metrics.results["confusion"], labels=["cat", "dog"])
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"`matrix` must have as many rows as columns. Received: an array of shape {counts.shape}")
    names = list(map(str, range(len(counts)))) if labels is None else list(labels)
    if len(names) != len(counts):
        raise ValueError(f"`labels` must name {len(counts)} classes. Received: labels={labels!r}")
    if axes is None:
        axes = new_axes("plot_confusion_matrix")
        axes.figure.set_size_inches(5.5, 4.5)  # about a square, and the color bar
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count:g}", ha="center", va="center", color=color)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(names, rotation=45 if max(map(len, names), default=0) > 3 else 0)
    axes.set_yticklabels(names)
    axes.figure.colorbar(image, ax=axes, label="share of the true class")
    return axes
