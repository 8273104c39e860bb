"""Finds TensorFlow and the Keras that it uses, and says which generation of Keras that is.

Everything else in the package imports `tf` and `keras` from here. There are three ways to have Keras: as the `tf.keras`
of TensorFlow 2.12-2.15, as the separate `tf_keras` package, and as `keras` 3. The first two share their code and are
called "Keras 2" throughout. An import that cannot succeed fails here, in one sentence that says what to install or set.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(
        "customfit needs TensorFlow and leaves its choice to you: `pip install tensorflow` (2.12 or newer), or "
        "`pip install tensorflow-cpu` for a smaller one without GPU support."
    ) from None

if TYPE_CHECKING:
    import keras


def _find_keras() -> ModuleType:
    """Returns the Keras that this TensorFlow uses: its own, `keras` 3, or `tf_keras` if `TF_USE_LEGACY_KERAS=1`."""
    try:
        tf.keras.Model  # noqa: B018 (`tf.keras` loads lazily, on the first attribute)
        backend = tf.keras.config.backend() if hasattr(tf.keras, "ops") else "tensorflow"
    except ImportError:
        backend = _backend_of_keras_3()
        if backend == "tensorflow":
            raise  # something else is missing, and TensorFlow says what
    if backend != "tensorflow":
        raise ImportError(
            "customfit needs Keras 3 on its TensorFlow backend. Set KERAS_BACKEND=tensorflow in the environment, or "
            f'"backend": "tensorflow" in ~/.keras/keras.json. Received: backend={backend!r}'
        )
    # From TensorFlow 2.16 on, `tf.keras` is a view of Keras 3 that lacks `__version__` and, in some releases, `saving`.
    return importlib.import_module("keras") if hasattr(tf.keras, "ops") else tf.keras


def _backend_of_keras_3() -> str:
    """Returns the backend of a Keras 3 that failed to import; "tensorflow" if the backend is not to blame."""
    if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True"):  # which TensorFlow takes for true
        return "tensorflow"  # `tf_keras` was asked for, whatever Keras 3 is set to
    try:
        found = importlib.import_module("keras")
    except ImportError as error:  # the backend was asked for but is not installed
        return error.name if error.name in ("jax", "torch", "openvino") else "tensorflow"
    return found.config.backend() if hasattr(found, "ops") else "tensorflow"


if not TYPE_CHECKING:
    keras = _find_keras()

IS_KERAS_3 = hasattr(keras, "ops")
GENERATION = 3 if IS_KERAS_3 else 2
KERAS_VERSION: tuple[int, ...] = tuple(map(int, keras.__version__.split(".")[:2])) if IS_KERAS_3 else (2,)


def keras_release() -> str:
    """Returns which Keras this is, by its own version: "Keras 3.15.1", "Keras 2.15.0" or "tf_keras 2.21.0"."""
    package = keras.Model.__module__.partition(".")[0]
    version = importlib.import_module(package).__version__
    return f"{'Keras' if package == 'keras' else package} {version}"


def module_beside_model(name: str) -> Any:
    """Returns a private module from the package that defines `keras.Model`, such as "functional" or "training"."""
    package = keras.Model.__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.{name}")


def package_folders() -> list[str]:
    """Returns the folders of TensorFlow and Keras."""
    names = ("tensorflow", keras.Model.__module__.partition(".")[0])
    return [os.path.dirname(importlib.import_module(name).__file__ or name) + os.sep for name in names]


def is_traceback_filtering_enabled() -> bool:
    """Whether tracebacks are shown without frames of Keras, as its setting says."""
    setting = keras.config if IS_KERAS_3 else tf.debugging
    return bool(setting.is_traceback_filtering_enabled())
