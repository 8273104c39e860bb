"""Single steps: a loop of one's own, which trains on the batches that it holds, one at a time.

By hand people write `tf.function(model.train_step)`. Beside it stand `TrainingSession.train_on`, `train_on_batch` of
both classes, and `fit` and `custom_fit` with a callback that looks at every batch. Batches are tensors or NumPy arrays.
"""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.contenders import Contender, Epoch
from benchmarks.measure import Settings, alternate, progress, ratios
from benchmarks.report import failures, markdown, per_step, times_as_fast
from benchmarks.tasks import Task


def bare_step(task: Task, keras: Any, tensors: bool) -> Epoch:
    """`tf.function(model.train_step)`, batch by batch."""
    import tensorflow as tf

    model, batches = task.model(keras, keras.Model), _batches(task, tensors)
    model.train_on_batch(*batches[0])  # what makes the variables of the optimizer
    step = tf.function(model.train_step)

    def epoch():
        for batch in batches:
            step(batch)

    return epoch


def train_on(task: Task, keras: Any, tensors: bool) -> Epoch:
    """`TrainingSession.train_on`, batch by batch."""
    from customfit import CustomTrainModel, TrainingSession

    model, batches = task.model(keras, CustomTrainModel), _batches(task, tensors)

    def epoch():
        with TrainingSession(model, verbose=0) as session:
            for _ in session.epochs():
                for batch in batches:
                    session.train_on(batch)

    return epoch


def on_batch(task: Task, keras: Any, ours: bool) -> Epoch:
    """`train_on_batch` of NumPy arrays."""
    model, batches = _model(task, keras, ours), _batches(task, tensors=False)

    def epoch():
        for x, y in batches:
            model.train_on_batch(x, y)

    return epoch


def with_callback(task: Task, keras: Any, ours: bool) -> Epoch:
    """`fit`, or `custom_fit`, with a callback that reads the loss of every batch."""

    class EachLoss(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.loss = float(logs["loss"])

    model, callback = _model(task, keras, ours), EachLoss()
    train = model.custom_fit if ours else model.fit
    return lambda: train(**task.fit_arguments(), verbose=0, callbacks=[callback])


def _model(task: Task, keras: Any, ours: bool) -> Any:
    from customfit import CustomTrainModel

    return task.model(keras, CustomTrainModel if ours else keras.Model)


def _batches(task: Task, tensors: bool) -> list[tuple]:
    import tensorflow as tf

    size = task.batch_size
    of_arrays = [tuple(part[step * size : (step + 1) * size] for part in task.arrays) for step in range(task.steps)]
    return [tuple(map(tf.constant, batch)) for batch in of_arrays] if tensors else of_arrays


CONTENDERS = {
    "bare": Contender("`tf.function(train_step)`", bare_step, {"tensors": True}),
    "train_on": Contender("`train_on`", train_on, {"tensors": True}),
    "bare_numpy": Contender("`tf.function(train_step)`, NumPy", bare_step, {"tensors": False}),
    "train_on_numpy": Contender("`train_on`, NumPy", train_on, {"tensors": False}),
    "keras_on_batch": Contender("Keras's `train_on_batch`", on_batch, {"ours": False}),
    "on_batch": Contender("`train_on_batch`", on_batch, {"ours": True}),
    "fit": Contender("`fit`, a callback each batch", with_callback, {"ours": False}),
    "custom_fit": Contender("`custom_fit`, a callback each batch", with_callback, {"ours": True}),
}
PAIRS = [("train_on", "bare"), ("train_on_numpy", "bare_numpy"), ("on_batch", "keras_on_batch"), ("custom_fit", "fit")]


def run(settings: Settings) -> list[dict]:
    """Times single steps of each workload's model."""
    from customfit.compat import keras

    results = []
    for workload in settings.workloads:
        progress(f"single steps: {workload}")
        task = Task(workload, "arrays", min(200, settings.steps(workload)))
        makers = {
            name: functools.partial(contender.make, task, keras, **contender.options)
            for name, contender in CONTENDERS.items()
        }
        timings = alternate(makers, settings)
        results.append(
            {
                "workload": workload,
                "steps": task.steps,
                "contenders": {name: timing.as_dict(task.steps) for name, timing in timings.items()},
                "times_as_fast": {ours: ratios(timings, ours, rival) for ours, rival in PAIRS},
            }
        )
    return results


def tables(results: list[dict]) -> str:
    """Microseconds a step, and how many times as fast we are."""
    labels = {name: contender.label for name, contender in CONTENDERS.items()}
    rows = [
        [
            row["workload"],
            labels[ours],
            labels[rival],
            *(per_step(row["contenders"][name]) for name in (ours, rival)),
            times_as_fast(row["times_as_fast"][ours]),
        ]
        for row in results
        for ours, rival in PAIRS
    ]
    headers = ["workload", "ours", "against", "us a step", "us a step of the other", "times as fast"]
    return "\n\n".join(["Single steps, microseconds each:", markdown(headers, rows), *failures(results, labels)])
