"""A job to measure: the processes of one strategy, and what each of them does.

`run` starts them; this module run as a program is one of them. All make the same calls, since each step waits for all.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from typing import Any, Callable

from benchmarks.tasks import Task

BATCH_SIZE = 64  # of all replicas
BLOCK = 100  # steps of the hand-written loop, and of the exchange of gradients alone, in one graph call
LARGE = 4_000_000  # numbers in the gradients of a large model: 16 MB
TIMEOUT_S = 600


def run(workers: int, replicas: int, steps: int, rounds: int) -> dict:
    """Starts the processes of a job on loopback and waits for them. Returns what the chief has measured.

    Args:
        workers: How many processes.
        replicas: How many replicas each of them has.
        steps: Steps in an epoch.
        rounds: Epochs of each contender, alternating, after those that trace.
    """
    from customfit.launch import Cluster

    cluster = Cluster.on_loopback(workers)
    command = [sys.executable, "-m", "benchmarks.job", json.dumps([workers, replicas, steps, rounds])]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, "TF_CONFIG": cluster.tf_config(index)} if workers > 1 else dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in cluster.local
    ]
    try:
        return json.loads(processes[0].communicate(timeout=TIMEOUT_S)[0].splitlines()[-1])
    finally:
        for process in processes:
            process.kill()


def by_hand(task: Task, keras: Any, strategy: Any) -> Callable[[], Any]:
    """The block loop that TensorFlow's guide has you write: `strategy.run` in a `tf.range` loop, on sharded input."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    with strategy.scope():
        model = task.model(keras, keras.Model)
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        none = keras.losses.Reduction.NONE if hasattr(keras.losses, "Reduction") else None
        losses = keras.losses.SparseCategoricalCrossentropy(reduction=none)
        mean_loss, accuracy = keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()
    iterator = iter(strategy.experimental_distribute_dataset(task.dataset.repeat().with_options(options)))

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            loss = tf.reduce_sum(losses(y, probabilities)) / task.batch_size
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        mean_loss.update_state(loss * strategy.num_replicas_in_sync)
        accuracy.update_state(y, probabilities)

    @tf.function
    def block(iterator: Any) -> None:
        for _ in tf.range(BLOCK):
            strategy.run(step, args=next(iterator))

    def epoch() -> list[float]:
        for metric in (mean_loss, accuracy):
            metric.reset_state()
        for _ in range(task.steps // BLOCK):
            block(iterator)
        return [float(metric.result()) for metric in (mean_loss, accuracy)]

    return epoch


def custom_fit(task: Task, keras: Any, strategy: Any, data: str) -> Callable[[], Any]:
    """`custom_fit` on arrays, on a dataset that all workers read, or on one whose share each worker makes.

    It runs as many steps in a graph call as the hand-written loop: on several workers it does not go by the clock.
    """
    from customfit import CustomTrainModel

    with strategy.scope():
        model = task.model(keras, CustomTrainModel, steps_per_execution=BLOCK)
    if data == "arrays":
        x, y = task.arrays
        given = {"x": x, "y": y, "batch_size": task.batch_size}
    else:
        given = {"x": task.dataset if data == "tfdata" else share_of(task)}
    return lambda: model.custom_fit(**given, verbose=0)


def share_of(task: Task) -> Callable[[Any], Any]:
    """A function of an `InputContext`: each worker shuffles and batches its rows."""
    import tensorflow as tf

    def share(context: Any) -> Any:
        mine = tf.data.Dataset.from_tensor_slices(task.arrays)
        mine = mine.shard(context.num_input_pipelines, context.input_pipeline_id).shuffle(1024)
        return mine.batch(task.batch_size // context.num_replicas_in_sync, drop_remainder=True).prefetch(2)

    return share


def exchange(strategy: Any, shapes: list, steps: int) -> Callable[[], Any]:
    """The sums of gradients of these shapes over the replicas, and nothing else: as many steps in one graph call."""
    import tensorflow as tf

    gradients = [tf.ones(shape) for shape in shapes]

    def step(number: Any) -> Any:
        others = [gradient + number for gradient in gradients]  # else the loop could sum them once
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, others)
        return tf.add_n([tf.reduce_sum(each) for each in sums])

    @tf.function
    def block() -> Any:
        total = tf.constant(0.0)
        for number in tf.range(float(steps)):
            total += strategy.experimental_local_results(strategy.run(step, args=(number,)))[0]
        return total

    return block


def rows_read(task: Task, keras: Any, strategy: Any, data: str) -> int:
    """How many rows of a dataset this worker reads in an epoch."""
    import tensorflow as tf

    from customfit import CustomTrainModel

    seen = []

    def noted(dataset: Any) -> Any:
        note = lambda y: seen.append(len(y)) or y  # noqa: E731
        return dataset.map(lambda x, y: (x, tf.ensure_shape(tf.numpy_function(note, [y], y.dtype), y.shape)))

    with strategy.scope():
        model = task.model(keras, CustomTrainModel, steps_per_execution=BLOCK)
    share = share_of(task)
    model.custom_fit(noted(task.dataset) if data == "tfdata" else lambda context: noted(share(context)), verbose=0)
    return sum(seen)


def main(workers: int, replicas: int, steps: int, rounds: int) -> None:
    """One of the processes: measures, and prints what came of it as JSON."""
    import tensorflow as tf

    if replicas > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    if workers > 1:
        strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
    elif replicas > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(replicas)])
    else:
        strategy = tf.distribute.get_strategy()
    from customfit.compat import keras

    task = Task("mlp", "tfdata", steps, BATCH_SIZE)
    epochs = {"by_hand": by_hand(task, keras, strategy)}
    epochs.update({data: custom_fit(task, keras, strategy, data) for data in ("arrays", "tfdata", "share")})
    steps_of = dict.fromkeys(epochs, steps)
    shapes = [tuple(variable.shape) for variable in task.model(keras, keras.Model).trainable_variables]
    if workers * replicas > 1:
        for name, of, count in (("exchange", shapes, BLOCK), ("exchange_large", [(LARGE,)], BLOCK // 10)):
            epochs[name], steps_of[name] = exchange(strategy, of, count), count
    found: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(2 + rounds):
        for name in epochs if number % 2 else reversed(list(epochs)):
            begin = time.perf_counter()
            epochs[name]()
            if number >= 2:
                found[name].append((time.perf_counter() - begin) / steps_of[name] * 1e6)
    row_bytes = sum(part[0].nbytes for part in task.arrays)
    result = {
        "workers": workers,
        "replicas": replicas,
        "us_per_step": {name: statistics.median(times) for name, times in found.items()},
        "us_per_round": found,
        "bytes_read": {
            name: rows_read(task, keras, strategy, name) * row_bytes / steps for name in ("tfdata", "share")
        },
        "gradient_bytes": {"exchange": 4 * sum(map(math.prod, shapes)), "exchange_large": 4 * LARGE},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
