"""Who competes: the ways to train a Keras model for an epoch.

Each is a function that builds a model once and returns another one, which trains it for an epoch. All do the same work:
the same model, data in a new order each epoch, Adam, the loss's mean and the accuracy over the epoch, read at its end.
None prints anything or calls callbacks.

This module is imported in the process with Keras on JAX too, where customfit rightly refuses to be imported. So Keras
is an argument, and TensorFlow and customfit are imported where they are used.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import itertools
from typing import Any, Callable

from benchmarks.tasks import Task

STEPS_PER_LOOP = 50  # of the tuned `fit`, and of Orbit

Epoch = Callable[[], Any]


def fit(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`keras.Model.fit`. A round is one call with one epoch, so what the call itself costs is in it."""
    model = task.model(keras, keras.Model, **compile_options)
    return lambda: model.fit(**task.fit_arguments(), verbose=0)


def custom_fit(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`CustomTrainModel.custom_fit`, called as `fit` is."""
    from customfit import CustomTrainModel

    model = task.model(keras, CustomTrainModel, **compile_options)
    return lambda: model.custom_fit(**task.fit_arguments(), verbose=0)


def by_hand(task: Task, keras: Any) -> Epoch:
    """The loop that the tutorials of TensorFlow and Keras have you write: a compiled step, a Python `for`."""
    import tensorflow as tf

    step, metrics = _tutorial_step(task, keras)
    compiled_step = tf.function(step)

    def epoch():
        _reset(metrics)
        is_generator = task.data == "generator"  # which one loops over as it is
        for x, y in itertools.islice(task.generator(), task.steps) if is_generator else task.dataset:
            compiled_step(x, y)
        return _results(metrics)

    return epoch


def orbit(task: Task, keras: Any) -> Epoch:
    """Many steps in one graph call, as Orbit runs them.

    This is the equivalent of Orbit's `Controller` with a `StandardTrainer` and `steps_per_loop=50`, not Orbit itself,
    which comes with all of tf-models-official: one iterator for all epochs, a `tf.range` loop around the step, and for
    each of these loops metrics that are reset before and read after.
    """
    import tensorflow as tf

    step, metrics = _tutorial_step(task, keras)
    iterator = iter(task.dataset.repeat())

    @tf.function
    def loop(iterator, steps):
        for _ in tf.range(steps):
            x, y = next(iterator)
            step(x, y)

    def epoch():
        for first in range(0, task.steps, STEPS_PER_LOOP):
            _reset(metrics)
            loop(iterator, tf.constant(min(STEPS_PER_LOOP, task.steps - first)))
            _results(metrics)

    return epoch


def _tutorial_step(task: Task, keras: Any) -> tuple[Callable, list]:
    """The train step of the tutorials, not compiled yet, and its metrics."""
    import tensorflow as tf

    model = task.model(keras, keras.Model)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)  # here: variables cannot be made within Orbit's loop
    loss_function = keras.losses.SparseCategoricalCrossentropy()
    mean_loss, accuracy = keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()

    def step(x, y):
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            loss = loss_function(y, probabilities)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        mean_loss.update_state(loss)
        accuracy.update_state(y, probabilities)

    return step, [mean_loss, accuracy]


def _reset(metrics: list) -> None:
    for metric in metrics:
        metric.reset_state()


def _results(metrics: list) -> list[float]:
    return [float(metric.result()) for metric in metrics]


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to train, or to evaluate.

    Attributes:
        label: How tables call it.
        make: `make(task, keras, **options)` gives what trains an epoch.
        options: Arguments of `compile()`.
        on_jax: Whether it runs in a process of its own, with Keras on JAX.
    """

    label: str
    make: Callable[..., Epoch]
    options: dict = dataclasses.field(default_factory=dict)
    on_jax: bool = False


_tuned = {"steps_per_execution": STEPS_PER_LOOP}
_xla = {"jit_compile": True}

CONTENDERS = {
    "fit": Contender("`fit`", fit),
    "fit_tuned": Contender("`fit` tuned", fit, _tuned),
    "fit_xla": Contender("`fit` tuned, XLA", fit, {**_tuned, **_xla}),
    "by_hand": Contender("hand-written loop", by_hand),
    "orbit": Contender("Orbit's loop", orbit),
    # On JAX Keras compiles with XLA in any case; told not to, it would run step by step in Python.
    "jax": Contender("`fit` on JAX", fit, _xla, on_jax=True),
    "jax_tuned": Contender("`fit` on JAX, tuned", fit, {**_tuned, **_xla}, on_jax=True),
    "custom_fit": Contender("`custom_fit`", custom_fit),
    "custom_fit_xla": Contender("`custom_fit`, XLA", custom_fit, _xla),
}
LABELS = {name: contender.label for name, contender in CONTENDERS.items()}


def jax_can_run() -> bool:
    """Whether jax is installed, and a Keras 3 to run on it."""
    return importlib.util.find_spec("jax") is not None and int(importlib.metadata.version("keras").split(".")[0]) >= 3


def start(name: str, task: Task, jax_worker: Any = None) -> Epoch:
    """Builds a contender and gives what trains its model for an epoch.

    Args:
        name: A name in `CONTENDERS`.
        task: What to train.
        jax_worker: The `Worker` whose process runs Keras on JAX.

    Returns:
        A function that returns when the epoch is over.
    """
    contender = CONTENDERS[name]
    if contender.on_jax:
        jax_worker.build(name, task)
        return lambda: jax_worker.epoch(name)
    from customfit.compat import keras

    return contender.make(task, keras, **contender.options)
