"""A process of its own for contenders, which trains an epoch whenever it is told to.

Keras on JAX needs this, because a process has one Keras backend; so does the memory that one contender takes. The other
end of the pipe is this module run as a program. It answers each line of JSON on its standard input with another one.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.contenders import CONTENDERS, Epoch
from benchmarks.measure import describe
from benchmarks.resident import peak_mb
from benchmarks.tasks import Task


class Worker:
    """The process, started when it is first needed; a context manager that ends it.

    Its methods return when the work is done, with `peak_mb`, the most memory that the process has taken so far. They
    raise a `RuntimeError` where it failed.
    """

    def __init__(self):
        self._process: Any = None

    def build(self, name: str, task: Task) -> dict:
        """Builds a contender, in the place of the last one of this name."""
        return self._ask({"name": name, "task": dataclasses.asdict(task)})

    def epoch(self, name: str) -> dict:
        """Trains the model of this contender for an epoch."""
        return self._ask({"name": name})

    def _ask(self, request: dict) -> dict:
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.worker"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = json.loads(self._process.stdout.readline() or '{"error": "its process has ended"}')
        except BrokenPipeError:
            answer = {"error": "its process has ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.communicate()  # the end of its input ends its loop
            self._process = None


def main() -> None:
    """The process: each request builds a contender, or trains one for an epoch."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints, does so to standard error
    epochs: dict = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "task" in request:
                epochs.pop(request["name"], None)  # first, so that two are never in memory
                epochs[request["name"]] = _build(request["name"], Task(**request["task"]))
            else:
                epochs[request["name"]]()
            answer = {"peak_mb": peak_mb()}
        except Exception as error:  # of whatever kind: it is reported
            answer = {"error": describe(error)}
        print(json.dumps(answer), file=answers)


def _build(name: str, task: Task) -> Epoch:
    contender = CONTENDERS[name]
    if contender.on_jax:
        os.environ["KERAS_BACKEND"] = "jax"
        keras = importlib.import_module("keras")
    else:
        keras = importlib.import_module("customfit.compat").keras
    task.arrays  # noqa: B018 (they are made here, so that no epoch is timed making them)
    return contender.make(task, keras, **contender.options)


if __name__ == "__main__":
    main()
