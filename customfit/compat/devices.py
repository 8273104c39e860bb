"""Devices and replicas: free memory, and how the losses and logs of several replicas become one.

`divides_loss_by_replicas` and `log_reduction` say what `fit` of this generation does. `supports_no_merge_call` asks
TensorFlow about the current strategy, by a name that TensorFlow exports to Keras alone.
"""

from __future__ import annotations

import importlib
import math

from customfit.compat.versions import IS_KERAS_3, KERAS_VERSION, tf


def has_accelerator() -> bool:
    """Whether tensors are on a GPU, which has memory of its own."""
    return bool(tf.config.list_logical_devices("GPU"))


def free_memory() -> float:
    """Returns how many bytes are free on the device that holds tensors; infinity if that cannot be known."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        devices = importlib.import_module("tensorflow.python.client.device_lib").list_local_devices()
        limit = next(device.memory_limit for device in devices if device.device_type == "GPU")
        return limit - tf.config.experimental.get_memory_info("GPU:0")["current"]
    try:
        with open("/proc/meminfo") as lines:
            return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def divides_loss_by_replicas() -> bool:
    """Whether a replica's loss is its share of the batch's, so that gradients can be summed. Keras 3.0-3.7 does not."""
    return not IS_KERAS_3 or KERAS_VERSION >= (3, 8)


def log_reduction() -> tf.distribute.ReduceOp:
    """Returns how `fit` combines the logs of several replicas."""
    return tf.distribute.ReduceOp.MEAN if IS_KERAS_3 else tf.distribute.ReduceOp.SUM


def supports_no_merge_call() -> bool:
    """Whether the current strategy updates variables without a merge call, so that `tf.cond` may contain an update."""
    return tf.__internal__.distribute.strategy_supports_no_merge_call()
