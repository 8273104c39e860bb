"""Keras's own callbacks: which of them ignore single batches, and what they remember from epoch to epoch.

Most callbacks of Keras have no way to save their state, so a resumed run reads and sets their attributes by name.
TensorBoard is a package of its own, which newer releases of TensorFlow do not install.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from customfit.compat.versions import keras

# The attributes that hold a callback's state, under the names of all generations.
_STATE_ATTRIBUTES = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", "epochs_since_last_save", "_batches_seen_since_last_saving", "_last_batch_seen"),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}


def has_idle_batch_hooks(callback: keras.callbacks.Callback, phase: str) -> bool:
    """Whether a callback of Keras's has batch hooks that do nothing, given how the callback is set.

    Args:
        callback: The callback.
        phase: "train", "test" or "predict".
    """
    if hasattr(keras.callbacks.Callback, "_implements_train_batch_hooks"):  # Keras 2 can be asked
        return not getattr(callback, f"_implements_{phase}_batch_hooks")()
    hooks = [getattr(type(callback), f"on_{phase}_batch_{when}") for when in ("begin", "end")]
    if not all(hook.__module__.startswith("keras.src.callbacks.") for hook in hooks):
        return False
    if isinstance(callback, keras.callbacks.TensorBoard):
        return callback.update_freq == "epoch" and not (callback.write_steps_per_second or callback._should_trace)
    return getattr(callback, "save_freq", None) == "epoch"


def calls_batch_hooks(callbacks: keras.callbacks.CallbackList, phase: str) -> bool:
    """Whether a `CallbackList` calls batch hooks at all. Keras 2 decides it when the list is made, by its callbacks.

    Args:
        callbacks: The list.
        phase: "train", "test" or "predict".
    """
    return getattr(callbacks, f"_should_call_{phase}_batch_hooks", True)


def callback_state(callback: keras.callbacks.Callback) -> dict[str, Any] | None:
    """Returns what one of Keras's own callbacks remembers, or `None` if it remembers nothing."""
    for kind, names in _STATE_ATTRIBUTES.items():
        if isinstance(callback, getattr(keras.callbacks, kind, ())):
            return {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    return None


def set_callback_state(callback: Any, state: Mapping[str, Any]) -> None:
    """Restores what `callback_state` returned."""
    if state.get("best") is not None and getattr(callback, "monitor_op", True) is None:
        # Keras 3 finds out in the first epoch which direction is better, and older releases then reset `best`.
        set_monitor_op = getattr(callback, "_set_monitor_op", None)
        if set_monitor_op is not None:
            set_monitor_op()
    for name, value in state.items():
        setattr(callback, name, value)


def has_tensorboard() -> bool:
    """Whether the package is installed that `tf.summary` needs. TensorFlow 2.21 does not install it."""
    return importlib.util.find_spec("tensorboard") is not None
