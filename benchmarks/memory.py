"""Memory: the most that a process takes which trains with one contender and does nothing else.

Each contender is built in a process of its own and trains for two epochs. The MLP is given large arrays here, ten times
its rows in larger batches, so that a second copy of the data would show; the wide dense net has a large model and
optimizer. This is memory of the host; that of a GPU is not measured.
"""

from __future__ import annotations

from benchmarks.contenders import LABELS
from benchmarks.measure import Settings, describe, progress
from benchmarks.report import failures, markdown
from benchmarks.tasks import Task
from benchmarks.worker import Worker

TASKS = (Task("mlp", "arrays", steps=625, batch_size=1024), Task("dense", "arrays", steps=50))
QUICK_TASKS = (Task("mlp", "arrays", steps=125, batch_size=1024),)
QUICK_CONTENDERS = ("custom_fit",)  # each starts a process, which takes many seconds


def run(settings: Settings) -> list[dict]:
    """Measures each contender on each of the tasks."""
    results = []
    for task in QUICK_TASKS if settings.quick else TASKS:
        if task.workload not in settings.workloads:
            continue
        progress(f"memory: {task.workload}")
        memory = {}
        for name in QUICK_CONTENDERS if settings.quick else settings.contenders:
            try:
                memory[name] = _measure(name, task)
            except RuntimeError as error:  # from its process
                memory[name] = {"error": describe(error)}
        data_mb = sum(part.nbytes for part in task.arrays) / 2**20
        results.append({"workload": task.workload, "data_mb": data_mb, "contenders": memory})
    return results


def _measure(name: str, task: Task) -> dict:
    with Worker() as worker:
        built = worker.build(name, task)
        worker.epoch(name)
        return {"built_mb": built["peak_mb"], "peak_mb": worker.epoch(name)["peak_mb"]}


def tables(results: list[dict]) -> str:
    """One table: MB, and against `fit`."""
    if not results:
        return "Peak memory is measured for mlp and dense."
    names = list(results[0]["contenders"])
    rows = [
        [f"{row['workload']} ({row['data_mb']:.0f} MB of data)", *(_cell(row["contenders"], name) for name in names)]
        for row in results
    ]
    table = markdown(["workload", *(LABELS[name] for name in names)], rows)
    title = "Peak memory of a process that trains, MB (share of `fit`):"
    return "\n\n".join([title, table, *failures(results, LABELS)])


def _cell(memory: dict, name: str) -> str:
    if "error" in memory[name]:
        return "-"
    fit = memory.get("fit", {}).get("peak_mb")
    return f"{memory[name]['peak_mb']:,.0f}" + (f" ({memory[name]['peak_mb'] / fit:.2f})" if fit else "")
