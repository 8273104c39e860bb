"""The `History` that `custom_fit` returns: Keras's, which notebooks show as a table and curves."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from customfit.callbacks.figures import best_epoch, epochs_of, log_groups, validation_sets
from customfit.callbacks.monitoring import default_monitor
from customfit.compat import keras

WIDTH, HEIGHT, MARGIN = 260, 120, 8  # of a panel, in pixels
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")
MOST_ROWS = 10


class History(keras.callbacks.History):
    """Keras's `History`. In a notebook it shows itself as a table of epochs, and a curve for each log."""

    def _repr_html_(self) -> str:
        return history_html(self.history, getattr(self, "epoch", []), getattr(self, "stop_reason", None))


def history_html(logs: Mapping[str, Sequence[float]], epochs: Sequence[int], reason: str | None) -> str:
    """Returns a table and curves, without any library.

    Args:
        logs: The values of each log, by its name, as in `history.history`.
        epochs: The epochs, counted from 0.
        reason: Why training ended, or `None`.
    """
    logs = {name: values for name, values in logs.items() if len(values) and np.ndim(values) == 1}
    if not logs:
        return "<p>No epoch has been trained.</p>"
    begin = epochs[0] + 1 if len(epochs) else 1
    counted = np.arange(begin, begin + max(map(len, logs.values())))
    monitor = default_monitor([f"{name}_" for name in validation_sets(logs)])
    best = best_epoch(logs[monitor], "min", counted) if monitor in logs else None
    panels = [_panel(name, group, logs, counted, best) for name, group in log_groups(logs).items()]
    why = f"<p>{html.escape(reason)}</p>" if reason else ""
    return f"<div>{''.join(panels)}</div>{_table(logs, counted, best)}{why}"


def _table(logs: Mapping[str, Sequence[float]], epochs: np.ndarray, best: int | None) -> str:
    """A row for each epoch; of many epochs the first, the best and the last ones."""
    by_epoch = {name: dict(zip(epochs_of(values, epochs).tolist(), values)) for name, values in logs.items()}
    shown = epochs.tolist()
    if len(shown) > MOST_ROWS:
        shown = sorted({*shown[: MOST_ROWS // 2], *shown[-MOST_ROWS // 2 :], *([] if best is None else [best])})
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("epoch", *logs))
    rows, last = [], shown[0] - 1
    for epoch in shown:
        if epoch != last + 1:
            rows.append(f'<tr><td colspan="{len(logs) + 1}">...</td></tr>')
        values = [by_epoch[name].get(epoch) for name in logs]
        cells = "".join(f"<td>{'' if value is None else format(value, '.4g')}</td>" for value in values)
        label = f"<b>{epoch}, the best</b>" if epoch == best else str(epoch)
        rows.append(f"<tr><td>{label}</td>{cells}</tr>")
        last = epoch
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _panel(
    name: str, group: Sequence[str], logs: Mapping[str, Sequence[float]], epochs: np.ndarray, best: int | None
) -> str:
    """The curves of a log and of the same log in each validation set, as SVG."""
    finite = [value for label in group for value in logs[label] if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)

    def x_of(epoch: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (epoch - epochs[0]) / max(1, len(epochs) - 1)

    def y_of(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / ((high - low) or 1.0)

    curves, legend = [], []
    for index, label in enumerate(group):
        color = COLORS[index % len(COLORS)]
        places = zip(epochs_of(logs[label], epochs), logs[label])
        points = " ".join(f"{x_of(at):.1f},{y_of(value):.1f}" for at, value in places if math.isfinite(value))
        curves.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        legend.append(f'<span style="color: {color}">{html.escape(label)}</span>')
    if best is not None:
        at = f"{x_of(best):.1f}"
        curves.append(f'<line x1="{at}" x2="{at}" y1="0" y2="{HEIGHT}" stroke="gray" stroke-dasharray="2 3"/>')
    return (
        f'<figure style="display: inline-block; margin: 4px"><svg width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{html.escape(name)}" style="border: 1px solid gray">{"".join(curves)}</svg>'
        f"<figcaption>{', '.join(legend)}: {low:.4g} to {high:.4g}</figcaption></figure>"
    )
