"""Growth: whether anything grows in 1,000 epochs of 10 steps: memory, the number of traces, the time of an epoch.

Each way to train has a process of its own, which is this module run as a program. The first tenth of the epochs is
compared with the last. (Two traces are none too many to begin with: TensorFlow traces a function again where its first
trace has made variables, such as the optimizer's.)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from benchmarks.contenders import LABELS
from benchmarks.measure import Settings, progress
from benchmarks.report import markdown
from benchmarks.resident import resident_mb
from benchmarks.tasks import Task

METHODS = ("fit", "custom_fit")
QUICK_METHODS = ("custom_fit",)  # each starts a process, which takes many seconds


def run(settings: Settings) -> list[dict]:
    """Measures `fit` and `custom_fit`, each in its own process."""
    epochs = 100 if settings.quick else 1000
    results = []
    for method in QUICK_METHODS if settings.quick else METHODS:
        progress(f"growth: {method}")
        command = [sys.executable, "-m", "benchmarks.growth", method, str(epochs)]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        failed = {"method": method, "error": f"its process ended with exit status {answer.returncode}; see above"}
        results.append(failed if answer.returncode else json.loads(answer.stdout.splitlines()[-1]))
    return results


def measure(method: str, epochs: int) -> dict:
    """Trains an MLP in this process, for `epochs` epochs of 10 steps.

    Args:
        method: "fit" or "custom_fit".
        epochs: How many.

    Returns:
        Traces, MB and milliseconds an epoch, early and late.
    """
    from customfit import CustomTrainModel
    from customfit.compat import keras

    traces = []

    class CountsTraces(CustomTrainModel):
        def train_step(self, data):
            traces.append(1)  # Python runs this when the step is traced, the graph does not
            return super().train_step(data)

    class Watch(keras.callbacks.Callback):
        """Looks at the end of each epoch only: a callback with hooks for batches would change what is measured."""

        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((time.perf_counter(), resident_mb(), len(traces)))

    task, watch = Task("mlp", "arrays", steps=10), Watch()
    model = task.model(keras, CountsTraces)
    getattr(model, method)(**task.fit_arguments(), epochs=epochs, callbacks=[watch], verbose=0)

    times, memory, counts = zip(*watch.seen)
    tenth = epochs // 10
    taken_ms = [(end - begin) * 1e3 for begin, end in zip(times, times[1:])]  # without the first, which traces
    return {
        "method": method,
        "epochs": epochs,
        "traces": [counts[tenth - 1], counts[-1]],
        "resident_mb": [memory[tenth - 1], memory[-1]],
        "ms_per_epoch": [statistics.median(taken_ms[:tenth]), statistics.median(taken_ms[-tenth:])],
    }


def tables(results: list[dict]) -> str:
    """One table: what there is after the first tenth of the epochs, and at the end."""
    quantities = {"traces": ",.0f", "resident_mb": ",.0f", "ms_per_epoch": ",.2f"}
    rows = [
        [
            LABELS[row["method"]],
            *("-" if "error" in row else _early_late(row[name], form) for name, form in quantities.items()),
        ]
        for row in results
    ]
    epochs = next((row["epochs"] for row in results if "error" not in row), 0)
    headers = ["", "traces", "memory, MB", "an epoch, ms"]
    return f"{epochs:,} epochs of 10 steps, first tenth -> last tenth:\n\n{markdown(headers, rows)}"


def _early_late(values: list[float], form: str) -> str:
    return f"{values[0]:{form}} -> {values[1]:{form}}"


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
