"""First step: how long it takes from the call until a new model has trained for one step, tracing included.

The model is built and compiled before the clock starts. Contenders take turns, each time with a model that is new; the
first turn, in which TensorFlow itself warms up, does not count. Keras on JAX does not take part: its processes are new,
too, and would be timed warming up.
"""

from __future__ import annotations

import statistics

from benchmarks.contenders import CONTENDERS, LABELS, start
from benchmarks.measure import Settings, describe, progress, seconds
from benchmarks.report import failures, markdown
from benchmarks.tasks import Task


def run(settings: Settings) -> list[dict]:
    """Times the first step of each contender, on each workload."""
    results = []
    for workload in settings.workloads:
        progress(f"first step: {workload}")
        task = Task(workload, settings.data_of(workload)[0], steps=1)
        names = [name for name in settings.contenders if not CONTENDERS[name].on_jax]
        taken: dict = {name: [] for name in names}
        failed = {}
        for _ in range(1 + (1 if settings.quick else 2)):
            for name in names:
                try:
                    taken[name].append(seconds(start(name, task)))
                except Exception as error:  # see `alternate`
                    failed[name] = describe(error)
        outcomes = {
            name: {"error": failed[name]} if name in failed else {"seconds": statistics.median(taken[name][1:])}
            for name in names
        }
        results.append({"workload": workload, "data": task.data, "contenders": outcomes})
    return results


def tables(results: list[dict]) -> str:
    """One table: seconds, and against `fit`."""
    names = list(results[0]["contenders"])
    rows = [[row["workload"], *(_cell(row["contenders"], name) for name in names)] for row in results]
    table = markdown(["workload", *(LABELS[name] for name in names)], rows)
    title = f"Seconds to the first step (share of `fit`), data: {results[0]['data']}:"
    return "\n\n".join([title, table, *failures(results, LABELS)])


def _cell(outcomes: dict, name: str) -> str:
    if "error" in outcomes[name]:
        return "-"
    taken, fit = outcomes[name]["seconds"], outcomes.get("fit", {}).get("seconds")
    return f"{taken:.2f}" + (f" ({taken / fit:.2f})" if fit else "")
