"""Runs a module in several processes that are workers of one job, and gives what they print."""

import json
import os
import subprocess
import sys

from customfit.launch import Cluster
from tests import processes


def start(module, *arguments, workers=2):
    """Starts workers. Whoever does so calls `finish` with them."""
    cluster = Cluster.on_loopback(workers)
    return [
        processes.Process(
            [sys.executable, "-m", module, *map(str, arguments)],
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "TF_CONFIG": cluster.tf_config(index)},
        )
        for index in cluster.local
    ]


def finish(started, deadline=240):
    """Waits for workers. Returns what each has printed, and its errors. None of them is left."""
    try:
        return [worker.communicate(timeout=deadline) for worker in started]
    except subprocess.TimeoutExpired:
        for worker in started:
            worker.kill()
        raise AssertionError([worker.communicate() for worker in started]) from None
    finally:
        for worker in started:
            worker.kill()


def results(module, *arguments, workers=2, deadline=240):
    """The last line that each worker prints, as JSON."""
    outputs = finish(start(module, *arguments, workers=workers), deadline)
    assert all(output for output, _ in outputs), outputs[0][1][-6000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]
