"""Files that callbacks write: of several workers the chief's count, and the others write theirs where nobody looks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

from customfit.compat import keras

# Reading a model's variables may take all workers, so each of them makes the same calls and writes its files.
_PATHS = {
    keras.callbacks.ModelCheckpoint: "filepath",
    keras.callbacks.CSVLogger: "filename",
    keras.callbacks.TensorBoard: "log_dir",
}


class DiscardedFiles:
    """Has callbacks write into a directory that is removed at the end.

    Args:
        callbacks: The callbacks. Those of Keras that write files are changed, before they know their model.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback]):
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._paths: list[tuple[keras.callbacks.Callback, str, str]] = []
        for callback in callbacks:
            for kind, name in _PATHS.items():
                if isinstance(callback, kind):
                    self._redirect(callback, name)

    def _redirect(self, callback: keras.callbacks.Callback, name: str) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="customfit-")
        path = os.fspath(getattr(callback, name))
        self._paths.append((callback, name, path))
        folder = os.path.join(self._folder.name, str(len(self._paths)))
        os.makedirs(folder)
        setattr(callback, name, os.path.join(folder, os.path.basename(path) or "files"))

    def close(self) -> None:
        """Restores the paths of before, and removes the directory."""
        while self._paths:
            callback, name, path = self._paths.pop()
            setattr(callback, name, path)
        if self._folder is not None:
            self._folder.cleanup()
