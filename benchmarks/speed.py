"""Speed: how long a step takes, in each workload, for each form of data and each contender."""

from __future__ import annotations

import functools

from benchmarks.contenders import LABELS, start
from benchmarks.measure import Settings, Timing, alternate, progress, ratios
from benchmarks.report import failures, markdown, per_step, times_as_fast
from benchmarks.tasks import Task
from benchmarks.worker import Worker

OURS = ("custom_fit", "custom_fit_xla")
RIVALS = ("fit", "fit_tuned", "by_hand")


def run(settings: Settings) -> list[dict]:
    """Times the contenders on each workload and form of data."""
    results = []
    with Worker() as jax_worker:
        for workload in settings.workloads:
            for data in settings.data_of(workload):
                progress(f"speed: {workload}, {data}")
                task = Task(workload, data, settings.steps(workload))
                makers = {name: functools.partial(start, name, task, jax_worker) for name in settings.contenders}
                results.append(_result(task, alternate(makers, settings)))
    return results


def _result(task: Task, timings: dict[str, Timing]) -> dict:
    return {
        "workload": task.workload,
        "data": task.data,
        "steps": task.steps,
        "contenders": {name: timing.as_dict(task.steps) for name, timing in timings.items()},
        "times_as_fast": {ours: {name: ratios(timings, ours, name) for name in RIVALS} for ours in OURS},
    }


def tables(results: list[dict]) -> str:
    """Three tables: microseconds a step, how many times as fast we are, and what the first epochs cost on top."""
    names = list(results[0]["contenders"])
    labels = [LABELS[name] for name in names]

    def of_each(cell):
        return [[*_task(row), *(cell(row["contenders"][name]) for name in names)] for row in results]

    pairs = [(ours, rival) for ours in OURS for rival in RIVALS if {ours, rival} <= set(names)]
    headers = [f"{LABELS[ours]} against {LABELS[rival]}" for ours, rival in pairs]
    times = [
        [*_task(row), *(times_as_fast(row["times_as_fast"][ours][rival]) for ours, rival in pairs)] for row in results
    ]
    return "\n\n".join(
        [
            "Microseconds a step, median of the rounds:",
            markdown(["workload", "data", *labels], of_each(per_step)),
            *(["Times as fast, median of the rounds (of the best rounds):"] if pairs else []),
            *([markdown(["workload", "data", *headers], times)] if pairs else []),
            "Seconds that the first two epochs take longer than later ones (tracing, compiling):",
            markdown(["workload", "data", *labels], of_each(_tracing)),
            *failures(results, LABELS),
        ]
    )


def _task(row: dict) -> list[str]:
    return [row["workload"], row["data"]]


def _tracing(timing: dict) -> str:
    return "-" if "error" in timing else f"{timing['tracing_s']:.2f}"
