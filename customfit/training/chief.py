"""What callbacks write, print and send: only the chief's counts, and the others do so where nobody looks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Any

from customfit.compat import keras

# Reading a model's variables may take all workers, so each of them makes the same calls and writes its files.
_PATHS = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.TensorBoard: "log_dir",
}
# How callbacks of Keras and of this library are told to print and to send nothing.
_SILENT = {"print_fn": str, "writer": None, "verbose": 0}
_LIBRARIES = {name.partition(".")[0] for name in (__name__, keras.callbacks.ModelCheckpoint.__module__)}


class Silenced:
    """Keeps callbacks from writing, printing and sending, on workers that are not the chief.

    Files go into a directory that is removed at the end.

    Args:
        callbacks: The callbacks. Those of Keras and of this library are changed, before they know their model.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._before: list[tuple[keras.callbacks.Callback, str, Any]] = []
        for callback in callbacks:
            for kind, name in _PATHS.items():
                if isinstance(callback, kind):
                    self._set(callback, name, self._discarded(getattr(callback, name)))
            for name, silent in _SILENT.items() if _is_of_a_library(callback) else ():
                if name in vars(callback):
                    self._set(callback, name, silent)
            if isinstance(callback, keras.callbacks.RemoteMonitor):
                self._set(callback, "on_epoch_end", _nothing)

    def _set(self, callback: keras.callbacks.Callback, name: str, value: Any) -> None:
        self._before.append((callback, name, getattr(callback, name)))
        setattr(callback, name, value)

    def _discarded(self, path: str | os.PathLike[str]) -> str:
        """Returns a path in the directory that is removed at the end."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="customfit-")
        folder = os.path.join(self._folder.name, str(len(self._before)))
        os.makedirs(folder)
        return os.path.join(folder, os.path.basename(os.fspath(path)) or "files")

    def close(self) -> None:
        """Restores the callbacks as they were, and removes the directory."""
        while self._before:
            setattr(*self._before.pop())
        if self._folder is not None:
            self._folder.cleanup()


def _is_of_a_library(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback's class is of Keras or of this library, or inherits from one that is."""
    kinds = [kind for kind in type(callback).__mro__ if kind not in (keras.callbacks.Callback, object)]
    return any(kind.__module__.partition(".")[0] in _LIBRARIES for kind in kinds)


def _nothing(*args: object) -> None:
    """A hook that does nothing."""
