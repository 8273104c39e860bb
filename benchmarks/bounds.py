"""Bounds: the leanest loop there is for the MLP on arrays, which is no way that people train, beside `custom_fit`.

The arithmetic is that of the other contenders: the same forward pass, the gradients that the tape would record, Keras's
Adam, the loss's mean and the accuracy. Everything else is left out. Weights, moments, and sums are values that the loop
carries, so nothing is read from a variable; the epoch is one call.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.contenders import CONTENDERS, Contender, Epoch
from benchmarks.measure import Settings, alternate, progress, ratios
from benchmarks.report import failures, markdown, per_step, times_as_fast
from benchmarks.tasks import Task

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 0.001, 0.9, 0.999, 1e-7  # Keras's defaults


def lean(task: Task, keras: Any, jit_compile: bool = False) -> Epoch:
    """The bound, as one graph call an epoch or as one XLA program."""
    import numpy as np
    import tensorflow as tf

    x, y = (tf.constant(part) for part in task.arrays)
    weights = [tf.constant(part) for part in task.model(keras, keras.Model).get_weights()]
    zeros = [tf.zeros_like(weight) for weight in weights]
    state = [tf.constant(0), weights, zeros, zeros]
    random = np.random.default_rng(0)

    def step(order, first, state, sums):
        iterations, weights, *moments = state
        rows = tf.slice(order, [first * task.batch_size], [task.batch_size])
        loss, hits, gradients = _gradients(tf.gather(x, rows), tf.gather(y, rows), weights)
        weights, moments = _adam(iterations, weights, moments, gradients)
        return first + 1, [iterations + 1, weights, *moments], [sums[0] + loss, sums[1] + hits]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def epoch_of(order, state):
        _, state, sums = tf.while_loop(
            lambda first, state, sums: first < task.steps,
            lambda first, state, sums: step(order, first, state, sums),
            [tf.constant(0), state, [tf.constant(0.0), tf.constant(0.0)]],
            parallel_iterations=1,
        )
        return state, [sums[0] / task.steps, sums[1] / y.shape[0]]

    def epoch():
        nonlocal state
        order = random.permutation(y.shape[0]).astype("int32")
        state, results = epoch_of(order, state)
        return [float(result) for result in results]

    return epoch


def _gradients(x: Any, y: Any, weights: list) -> tuple[Any, Any, list]:
    """The mean loss of a batch, how many rows are right, and the gradients of the weights."""
    import tensorflow as tf

    kernel, bias, last_kernel, last_bias = weights
    hidden = tf.nn.relu(x @ kernel + bias)
    logits = hidden @ last_kernel + last_bias
    losses, gradient = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=y)
    gradient /= y.shape[0]
    hits = tf.reduce_sum(tf.cast(tf.argmax(logits, axis=-1, output_type=y.dtype) == y, "float32"))
    hidden_gradient = tf.raw_ops.ReluGrad(gradients=tf.matmul(gradient, last_kernel, transpose_b=True), features=hidden)
    gradients = [
        tf.matmul(x, hidden_gradient, transpose_a=True),
        tf.reduce_sum(hidden_gradient, axis=0),
        tf.matmul(hidden, gradient, transpose_a=True),
        tf.reduce_sum(gradient, axis=0),
    ]
    return tf.reduce_mean(losses), hits, gradients


def _adam(iterations: Any, weights: list, moments: list, gradients: list) -> tuple[list, list]:
    """The new weights and moments, as Keras computes them."""
    import tensorflow as tf

    step = tf.cast(iterations + 1, "float32")
    rate = LEARNING_RATE * tf.sqrt(1 - BETA_2**step) / (1 - BETA_1**step)
    first = [m + (g - m) * (1 - BETA_1) for m, g in zip(moments[0], gradients)]
    second = [v + (g * g - v) * (1 - BETA_2) for v, g in zip(moments[1], gradients)]
    weights = [w - rate * m / (tf.sqrt(v) + EPSILON) for w, m, v in zip(weights, first, second)]
    return weights, [first, second]


LOOPS = {
    "lean": Contender("lean loop", lean),
    "custom_fit": CONTENDERS["custom_fit"],
    "lean_xla": Contender("lean loop, XLA", lean, {"jit_compile": True}),
    "custom_fit_xla": CONTENDERS["custom_fit_xla"],
}
PAIRS = [("custom_fit", "lean"), ("custom_fit_xla", "lean_xla")]


def run(settings: Settings) -> list[dict]:
    """Times the lean loops and ours on the MLP, whichever workloads are asked for."""
    from customfit.compat import keras

    progress("bounds: mlp")
    task = Task("mlp", "arrays", settings.steps("mlp"))
    makers = {name: functools.partial(loop.make, task, keras, **loop.options) for name, loop in LOOPS.items()}
    timings = alternate(makers, settings)
    return [
        {
            "workload": task.workload,
            "steps": task.steps,
            "contenders": {name: timing.as_dict(task.steps) for name, timing in timings.items()},
            "times_as_fast": {ours: ratios(timings, bound, ours) for ours, bound in PAIRS},
        }
    ]


def tables(results: list[dict]) -> str:
    """One table: microseconds a step, and how many times as fast the bound is."""
    labels = {name: loop.label for name, loop in LOOPS.items()}
    headers = ["workload", *labels.values(), *(f"{labels[bound]} against {labels[ours]}" for ours, bound in PAIRS)]
    rows = [
        [
            row["workload"],
            *(per_step(row["contenders"][name]) for name in labels),
            *(times_as_fast(row["times_as_fast"][ours]) for ours, _ in PAIRS),
        ]
        for row in results
    ]
    return "\n\n".join(["Bounds, microseconds a step:", markdown(headers, rows), *failures(results, labels)])
