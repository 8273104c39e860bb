"""Figures by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = object

__all__ = ["Axes", "new_axes", "plot_confusion_matrix"]


def new_axes(needed_by: str) -> Axes:
    """Returns the axes of a new figure, which belongs to no window.

    Args:
        needed_by: What draws, for the error.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f'`{needed_by}` needs matplotlib: `pip install "customfit[plots]"`.') from None
    return Figure(figsize=(8, 4.5), layout="constrained").add_subplot()


def plot_confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]], labels: Sequence[str] | None = None, axes: Axes | None = None
) -> Axes:
    """Plots a confusion matrix: a row for each true class, a column for each predicted one.

    The colour is the share of the true class, the number is the count.

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
    axes = new_axes("plot_confusion_matrix") if axes is None else axes
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
