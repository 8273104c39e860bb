"""Devices and replicas: free memory, and how the losses and logs of several replicas become one.

`divides_loss_by_replicas` and `log_reduction` say what `fit` of this generation does. `supports_no_merge_call` asks
TensorFlow about the current strategy, by a name that TensorFlow exports to Keras alone. `auto_shard` is TensorFlow's
rewrite of a dataset, which it has in public for whole strategies alone.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType

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


def batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """Returns how many rows a batch of a dataset has, also where its last one may have fewer; `None`: not known."""
    try:
        size = int(_distribute().compute_batch_size(dataset))
    except IndexError:  # its elements are scalars
        return None
    return size if size > 0 else None


def auto_shard(dataset: tf.data.Dataset, workers: int, index: int, replicas: int) -> tf.data.Dataset:
    """Returns what `fit` reads of a dataset on one of several workers, by the `AutoShardPolicy` of its options.

    Args:
        dataset: The dataset.
        workers: How many workers there are.
        index: Which of them this one is.
        replicas: How many replicas they have together.
    """
    return _distribute()._AutoShardDataset(dataset, workers, index, replicas)


def _distribute() -> ModuleType:
    return importlib.import_module("tensorflow.python.data.experimental.ops.distribute")
