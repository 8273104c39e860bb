"""Memory for activations: what a step of training takes with `compile(remat=True)`, and how long, beside one without.

Each case runs in a process of its own: it builds a model, runs one step of few rows, and then notes its memory 200
times a second while it trains (Linux only). What is counted is memory that belongs to no file, beyond what the process
took before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, Callable

import numpy as np

from benchmarks.data_memory import Watch
from benchmarks.measure import Settings, progress
from benchmarks.report import markdown
from customfit.compat import keras

layers = keras.layers
STEPS, QUICK_STEPS = 5, 1
ROWS, FEW_ROWS = 64, 2


def _convolutions() -> tuple[Any, Any, tuple[int, ...]]:
    hidden = inputs = keras.Input((64, 64, 16))
    for _ in range(32):
        hidden = layers.Conv2D(16, 3, padding="same", use_bias=False)(hidden)
        hidden = layers.Activation("relu")(layers.BatchNormalization()(hidden))
    return inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(hidden)), (64, 64, 16)


def _transformer() -> tuple[Any, Any, tuple[int, ...]]:
    hidden = inputs = keras.Input((128, 64))
    for _ in range(12):
        attended = layers.Dropout(0.1)(layers.MultiHeadAttention(4, 16)(hidden, hidden))
        hidden = layers.LayerNormalization()(layers.Add()([hidden, attended]))
        inner = layers.Dense(64)(layers.Dense(256, activation="gelu")(hidden))
        hidden = layers.LayerNormalization()(layers.Add()([hidden, inner]))
    return inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(hidden)), (128, 64)


MODELS: dict[str, Callable[[], tuple[Any, Any, tuple[int, ...]]]] = {
    "32 convolutions": _convolutions,
    "12 transformer blocks": _transformer,
}
OPTIONS: dict[str, Any] = {"as it is": None, "remat=True": True}


def run(settings: Settings) -> list[dict]:
    """Measures each model without and with `remat`, each in a process of its own."""
    results = []
    for name in list(MODELS)[:1] if settings.quick else MODELS:
        progress(f"memory for activations: {name}")
        steps = str(QUICK_STEPS if settings.quick else STEPS)
        results.append({"model": name, "outcomes": {option: _measure(name, option, steps) for option in OPTIONS}})
    return results


def _measure(name: str, option: str, steps: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.remat", name, option, steps]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def tables(results: list[dict]) -> str:
    """One table: memory and time, without and with."""
    rows = []
    for row in results:
        plain, ours = row["outcomes"].values()
        failed = [outcome["error"] for outcome in (plain, ours) if "error" in outcome]
        cells = failed or [
            f"{plain['megabytes']:.0f} MB",
            f"{ours['megabytes']:.0f} MB",
            f"{plain['megabytes'] / ours['megabytes']:.1f}x less",
            f"{ours['seconds'] / plain['seconds']:.2f}x",
        ]
        rows.append([row["model"], *cells])
    head = ["model", "memory of a step", "`remat=True`", "", "time of a step"]
    return f"Memory for activations, {ROWS} rows a step:\n\n{markdown(head, rows)}"


def main(name: str, option: str, steps: str) -> None:
    """The process of one case."""
    import customfit

    inputs, outputs, shape = MODELS[name]()
    model = customfit.CustomTrainModel(inputs, outputs)
    model.compile("sgd", "mse", remat=OPTIONS[option], jit_compile=False)
    x, y = np.zeros((ROWS, *shape), "float32"), np.zeros((ROWS, 3), "float32")
    model.custom_fit(x[:FEW_ROWS], y[:FEW_ROWS], verbose=0)  # what is made once
    with Watch() as watch:
        model.custom_fit(x, y, batch_size=ROWS, verbose=0)
        begin = time.perf_counter()
        for _ in range(int(steps)):
            model.custom_fit(x, y, batch_size=ROWS, verbose=0)
        seconds = (time.perf_counter() - begin) / int(steps)
    print(json.dumps({"megabytes": watch.most / 2**20, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
