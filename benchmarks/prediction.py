"""Prediction: how long a step of `predict` and of `custom_predict` takes on many rows, and a call of them on few.

The many rows are the arrays that the models train on. The few are what an agent or a service has: one to four rows,
another number in each call. By hand people write `tf.function(model)` for that. Each call gives a NumPy array.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Callable

from benchmarks.contenders import STEPS_PER_LOOP, Contender, Epoch
from benchmarks.measure import Settings, alternate, progress, ratios
from benchmarks.report import failures, markdown, per_step, times_as_fast
from benchmarks.tasks import Task

MOST_OF_FEW = 4  # rows
CALLS = 60
QUICK_CALLS = 12


def predict(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`keras.Model.predict`."""
    method = task.model(keras, keras.Model, **compile_options).predict
    return functools.partial(method, task.arrays[0], batch_size=task.batch_size, verbose=0)


def custom_predict(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`CustomTrainModel.custom_predict`."""
    from customfit import CustomTrainModel

    method = task.model(keras, CustomTrainModel, **compile_options).custom_predict
    return functools.partial(method, task.arrays[0], batch_size=task.batch_size, verbose=0)


def predict_few(task: Task, keras: Any) -> Epoch:
    """`keras.Model.predict`, call by call."""
    return _calls(task, functools.partial(task.model(keras, keras.Model).predict, verbose=0))


def custom_predict_few(task: Task, keras: Any) -> Epoch:
    """`CustomTrainModel.custom_predict`, call by call."""
    from customfit import CustomTrainModel

    return _calls(task, functools.partial(task.model(keras, CustomTrainModel).custom_predict, verbose=0))


def compiled_call(task: Task, keras: Any) -> Epoch:
    """`tf.function(model)`, call by call; it is told that numbers of rows differ, or it would trace each of them."""
    import tensorflow as tf

    call = tf.function(task.model(keras, keras.Model), reduce_retracing=True)
    return _calls(task, lambda x: call(x).numpy())


def _calls(task: Task, call: Callable[[Any], Any]) -> Epoch:
    rows = itertools.cycle(range(1, MOST_OF_FEW + 1))
    few = [task.arrays[0][:count] for count in itertools.islice(rows, task.steps)]

    def epoch():
        for x in few:
            call(x)

    return epoch


MANY = {
    "predict": Contender("`predict`", predict),
    "predict_tuned": Contender("`predict` tuned", predict, {"steps_per_execution": STEPS_PER_LOOP}),
    "custom_predict": Contender("`custom_predict`", custom_predict),
    "custom_predict_xla": Contender("`custom_predict`, XLA", custom_predict, {"jit_compile": True}),
}
FEW = {
    "predict": Contender("`predict`", predict_few),
    "by_hand": Contender("`tf.function(model)`", compiled_call),
    "custom_predict": Contender("`custom_predict`", custom_predict_few),
}


def run(settings: Settings) -> dict[str, list[dict]]:
    """Times the prediction of many rows and of few, with each workload's model."""
    calls = QUICK_CALLS if settings.quick else CALLS
    results: dict[str, list[dict]] = {"many": [], "few": []}
    for workload in settings.workloads:
        many, few = Task(workload, "arrays", settings.steps(workload)), Task(workload, "arrays", calls)
        results["many"].append(_measure("many", MANY, settings, many))
        results["few"].append(_measure("few", FEW, settings, few))
    return results


def _measure(kind: str, contenders: dict[str, Contender], settings: Settings, task: Task) -> dict:
    from customfit.compat import keras

    progress(f"prediction of {kind} rows: {task.workload}")
    makers = {
        name: functools.partial(contender.make, task, keras, **contender.options)
        for name, contender in contenders.items()
    }
    timings = alternate(makers, settings)
    rivals = [name for name in contenders if not name.startswith("custom")]
    return {
        "workload": task.workload,
        "steps": task.steps,
        "contenders": {name: timing.as_dict(task.steps) for name, timing in timings.items()},
        "times_as_fast": {name: ratios(timings, "custom_predict", name) for name in rivals},
    }


def tables(results: dict[str, list[dict]]) -> str:
    """Two tables: microseconds a step or a call, and how many times as fast we are."""
    return "\n\n".join(
        [
            *_table("Prediction of arrays, microseconds a step:", MANY, results["many"]),
            *_table(f"Prediction of 1 to {MOST_OF_FEW} rows, microseconds a call:", FEW, results["few"]),
        ]
    )


def _table(title: str, contenders: dict[str, Contender], results: list[dict]) -> list[str]:
    labels = {name: contender.label for name, contender in contenders.items()}
    against = list(results[0]["times_as_fast"])
    headers = ["workload", *labels.values(), *(f"`custom_predict` against {labels[name]}" for name in against)]
    rows = [
        [
            row["workload"],
            *(per_step(row["contenders"][name]) for name in contenders),
            *(times_as_fast(row["times_as_fast"][name]) for name in against),
        ]
        for row in results
    ]
    return [title, markdown(headers, rows), *failures(results, labels)]
