"""Memory for the data: how much more than the rows themselves a process takes while it trains on them, or evaluates.

Rows are arrays in memory, a file that is mapped, integers, doubles that are cast, a data frame, an h5py data set. Each
case runs in a process of its own, which makes the rows, trains a small model on a few others, and then notes its memory
200 times a second while the method runs. What is counted is memory that belongs to no file (Linux only), the result of
`custom_predict` included, which is 0.16 of float32 rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable

import numpy as np

from benchmarks.measure import Settings, progress
from benchmarks.report import markdown

ROW_BYTES = 256  # 64 columns of float32
MEGABYTES, QUICK_MEGABYTES = 400, 100
BATCH_SIZE = 256

Rows = tuple[Any, int]  # and how many bytes they take


def _memmap(rows: int) -> Rows:
    path = Path(tempfile.mkdtemp()) / "rows.npy"
    written = np.lib.format.open_memmap(path, "w+", "float32", (rows, 64))
    written[:] = 1
    written.flush()
    del written
    return np.load(path, mmap_mode="r"), rows * ROW_BYTES


def _frame(rows: int) -> Rows:
    import pandas

    columns = {f"c{index}": np.ones(rows, "float32" if index % 2 else "float64") for index in range(64)}
    return pandas.DataFrame(columns), rows * ROW_BYTES * 3 // 2


def _h5py(rows: int) -> Rows:
    import h5py

    file = h5py.File(Path(tempfile.mkdtemp()) / "rows.h5", "w")
    data = file.create_dataset("x", (rows, 64), "float32")
    data[:] = 1
    return data, rows * ROW_BYTES


KINDS: dict[str, Callable[[int], Rows]] = {
    "float32 in memory": lambda rows: (np.ones((rows, 64), "float32"), rows * ROW_BYTES),
    "int32 in memory": lambda rows: (np.ones((rows, 64), "int32"), rows * ROW_BYTES),
    "float64 in memory": lambda rows: (np.ones((rows, 64), "float64"), rows * ROW_BYTES * 2),
    "np.memmap": _memmap,
    "DataFrame of two dtypes": _frame,
    "h5py.Dataset": _h5py,
}
METHODS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "fit": lambda model, x, y: model.fit(x, y, batch_size=BATCH_SIZE, epochs=2, verbose=0),
    "custom_fit": lambda model, x, y: model.custom_fit(x, y, batch_size=BATCH_SIZE, epochs=2, verbose=0),
    "custom_fit, validation_split": lambda model, x, y: model.custom_fit(
        x, y, batch_size=BATCH_SIZE, epochs=2, verbose=0, validation_split=0.3
    ),
    "custom_evaluate": lambda model, x, y: model.custom_evaluate(x, y, batch_size=BATCH_SIZE, verbose=0),
    "custom_predict": lambda model, x, y: model.custom_predict(x, batch_size=BATCH_SIZE, verbose=0),
}


def run(settings: Settings) -> list[dict]:
    """Measures each method on each kind of rows, each in a process of its own."""
    kinds = list(KINDS)[:1] if settings.quick else KINDS
    methods = ["custom_fit"] if settings.quick else METHODS
    megabytes = QUICK_MEGABYTES if settings.quick else MEGABYTES
    results = []
    for kind in kinds:
        progress(f"memory for the data: {kind}")
        shares = {method: _measure(kind, method, megabytes) for method in methods}
        results.append({"kind": kind, "megabytes": megabytes, "shares": shares})
    return results


def _measure(kind: str, method: str, megabytes: int) -> dict:
    command = [sys.executable, "-m", "benchmarks.data_memory", kind, method, str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def tables(results: list[dict]) -> str:
    """One table: the share of the rows' own memory."""
    methods = list(results[0]["shares"])
    rows = [[row["kind"], *(_cell(row["shares"][method]) for method in methods)] for row in results]
    title = f"Memory beyond the rows, as a share of them ({results[0]['megabytes']} MB as float32):"
    failed = [
        f"- `{method}` could not run on {row['kind']}. {outcome['error']}"
        for row in results
        for method, outcome in row["shares"].items()
        if "error" in outcome
    ]
    return "\n\n".join([title, markdown(["rows", *(f"`{name}`" for name in methods)], rows), *failed])


def _cell(outcome: dict) -> str:
    return "-" if "error" in outcome else f"{outcome['share']:.2f}"


class Watch:
    """Notes the most memory that this process takes within it, beyond what it took before."""

    def __enter__(self) -> Watch:
        self._before = self._most = _anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, _anonymous_bytes())

    @property
    def most(self) -> int:
        return self._most - self._before


def _anonymous_bytes() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def main(kind: str, method: str, megabytes: str) -> None:
    """The process of one case."""
    import customfit
    from customfit.compat import keras

    count = int(megabytes) * 2**20 // ROW_BYTES
    x, size = KINDS[kind](count)
    inputs = keras.Input((64,))
    model = customfit.CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy")
    METHODS[method](model, np.ones((512, 64), "float32"), np.zeros(512, "int32"))  # what is made once
    with Watch() as watch:
        METHODS[method](model, x, np.zeros(count, "int32"))
    print(json.dumps({"share": watch.most / size, "megabytes": watch.most / 2**20}))
    sys.stdout.flush()
    os._exit(0)  # a file of h5py may complain otherwise that it is closed late


if __name__ == "__main__":
    main(*sys.argv[1:])
