"""Figures by matplotlib, which is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = object

__all__ = ["Axes", "new_axes"]


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
