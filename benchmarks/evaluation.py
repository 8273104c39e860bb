"""Evaluation: how long a step of `evaluate` and of `custom_evaluate` takes, in a pass over many and over few batches.

The data are the arrays that the models train on.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from benchmarks.contenders import STEPS_PER_LOOP, Contender, Epoch
from benchmarks.measure import Settings, alternate, progress, ratios
from benchmarks.report import failures, markdown, per_step, times_as_fast
from benchmarks.tasks import Task

FEW_STEPS = 5  # where what the call itself costs is most of it


def evaluate(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`keras.Model.evaluate`."""
    return _evaluation(task.model(keras, keras.Model, **compile_options).evaluate, task)


def custom_evaluate(task: Task, keras: Any, **compile_options: Any) -> Epoch:
    """`CustomTrainModel.custom_evaluate`."""
    from customfit import CustomTrainModel

    return _evaluation(task.model(keras, CustomTrainModel, **compile_options).custom_evaluate, task)


def _evaluation(method: Any, task: Task) -> Epoch:
    x, y = task.arrays
    return functools.partial(method, x, y, batch_size=task.batch_size, verbose=0)


EVALUATORS = {
    "evaluate": Contender("`evaluate`", evaluate),
    "evaluate_tuned": Contender("`evaluate` tuned", evaluate, {"steps_per_execution": STEPS_PER_LOOP}),
    "custom_evaluate": Contender("`custom_evaluate`", custom_evaluate),
    "custom_evaluate_xla": Contender("`custom_evaluate`, XLA", custom_evaluate, {"jit_compile": True}),
}


def run(settings: Settings) -> list[dict]:
    """Times the evaluation of each workload."""
    from customfit.compat import keras

    results = []
    for workload, steps in itertools.product(settings.workloads, (None, FEW_STEPS)):
        task = Task(workload, "arrays", steps or settings.steps(workload))
        progress(f"evaluation: {workload}, {task.steps} steps")
        makers = {
            name: functools.partial(contender.make, task, keras, **contender.options)
            for name, contender in EVALUATORS.items()
        }
        timings = alternate(makers, settings)
        rivals = ("evaluate", "evaluate_tuned")
        results.append(
            {
                "workload": workload,
                "steps": task.steps,
                "contenders": {name: timing.as_dict(task.steps) for name, timing in timings.items()},
                "times_as_fast": {name: ratios(timings, "custom_evaluate", name) for name in rivals},
            }
        )
    return results


def tables(results: list[dict]) -> str:
    """One table: microseconds a step, and how many times as fast we are."""
    against = list(results[0]["times_as_fast"])
    headers = ["workload", "steps", *(contender.label for contender in EVALUATORS.values())]
    headers += [f"`custom_evaluate` against {EVALUATORS[name].label}" for name in against]
    rows = [
        [
            row["workload"],
            str(row["steps"]),
            *(per_step(row["contenders"][name]) for name in EVALUATORS),
            *(times_as_fast(row["times_as_fast"][name]) for name in against),
        ]
        for row in results
    ]
    labels = {name: contender.label for name, contender in EVALUATORS.items()}
    title = "Evaluation of arrays, microseconds a step:"
    return "\n\n".join([title, markdown(headers, rows), *failures(results, labels)])
