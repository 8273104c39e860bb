"""First epoch: how long it takes to build a model and train it for the first time, tracing included.

The clock starts before the model is built and compiled, and stops after an epoch of 50 steps, without validation and
with ten batches of it. Contenders take turns, each time with a model that is new; the first turn, in which TensorFlow
itself warms up, does not count. Only those take part that validate: `fit` and `custom_fit`, tuned and with XLA.
"""

from __future__ import annotations

import dataclasses
import statistics

from benchmarks.contenders import CONTENDERS, LABELS, custom_fit, fit, start
from benchmarks.measure import Settings, describe, progress, seconds
from benchmarks.report import failures, markdown
from benchmarks.tasks import Task

STEPS = 50


def run(settings: Settings) -> list[dict]:
    """Times the first epoch of each contender, on each workload."""
    results = []
    known = {name: contender for name, contender in CONTENDERS.items() if not contender.on_jax}
    names = [name for name in settings.contenders if name in known and known[name].make in (fit, custom_fit)]
    for workload in settings.workloads:
        alone = Task(workload, settings.data_of(workload)[0], STEPS)
        for task in (alone, dataclasses.replace(alone, validation_steps=10)):
            progress(f"first epoch: {workload}, {task.validation_steps} steps of validation")
            task.arrays  # noqa: B018 (they are made here, so that no epoch is timed making them)
            results.append(_result(task, names, rounds=1 if settings.quick else settings.rounds))
    return results


def _result(task: Task, names: list[str], rounds: int) -> dict:
    taken: dict = {name: [] for name in names}
    failed = {}
    for _ in range(1 + rounds):
        for name in names:
            try:
                taken[name].append(seconds(lambda name=name: start(name, task)()))
            except Exception as error:  # see `alternate`
                failed[name] = describe(error)
    outcomes = {
        name: {"error": failed[name]} if name in failed else {"seconds": statistics.median(taken[name][1:])}
        for name in names
    }
    return {
        "workload": task.workload,
        "data": task.data,
        "validation_steps": task.validation_steps,
        "contenders": outcomes,
    }


def tables(results: list[dict]) -> str:
    """One table: seconds, and against `fit`."""
    names = list(results[0]["contenders"])
    rows = [
        [
            row["workload"],
            "yes" if row["validation_steps"] else "no",
            *(_cell(row["contenders"], name) for name in names),
        ]
        for row in results
    ]
    table = markdown(["workload", "validation", *(LABELS[name] for name in names)], rows)
    title = f"Seconds to build a model and train it for {STEPS} steps (share of `fit`), data: {results[0]['data']}:"
    return "\n\n".join([title, table, *failures(results, LABELS)])


def _cell(outcomes: dict, name: str) -> str:
    if "error" in outcomes[name]:
        return "-"
    taken, fit = outcomes[name]["seconds"], outcomes.get("fit", {}).get("seconds")
    return f"{taken:.2f}" + (f" ({taken / fit:.2f})" if fit else "")
