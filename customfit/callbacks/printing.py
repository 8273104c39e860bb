"""Prints lines beside a progress bar that is redrawn in place."""

from __future__ import annotations

import shutil
import sys
from typing import Callable

from customfit.compat import keras


def print_line(line: str, print_fn: Callable[[str], object], after_bar: bool) -> None:
    """Prints a line on its own, above a progress bar that is being drawn.

    On a terminal the bar is erased, and its next update draws it again below the line. Elsewhere, as in a file, the
    line begins on a new one.

    Args:
        line: The line.
        print_fn: Prints it.
        after_bar: Whether the cursor stands behind a progress bar.
    """
    if after_bar and sys.stdout is not None:
        if sys.stdout.isatty():
            blank = " " * (shutil.get_terminal_size().columns - 1)
            sys.stdout.write(f"\r{blank}\r")
            sys.stdout.flush()
        elif print_fn is print:
            sys.stdout.write("\n")
    print_fn(line)


def shows_progress_bar(callback: keras.callbacks.Callback) -> bool:
    """Whether Keras shows a progress bar in the run of a callback.

    Args:
        callback: The callback, while it trains.
    """
    return (callback.params or {}).get("verbose") in (1, "auto")
