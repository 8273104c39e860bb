"""Runs a module in several processes that are workers of one job, and gives what they print."""

import json
import os
import signal
import subprocess
import sys

from customfit.launch import Cluster
from tests import processes


def start(module, *arguments, workers=2):
    """Starts workers. Whoever does so calls `finish` with them."""
    cluster = Cluster.on_loopback(workers)
    return [start_one(cluster, index, module, *arguments) for index in cluster.local]


def start_one(cluster, index, module, *arguments):
    return processes.Process(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "TF_CONFIG": cluster.tf_config(index)},
    )


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


def survivors(started, lost, deadline):
    """Waits for all workers but one. Returns the errors of each of those, none of which has ended well."""
    left = [worker for index, worker in enumerate(started) if index != lost]
    try:
        outputs = finish(left, deadline)
    finally:
        ended = started[lost].returncode
        started[lost].kill()
    assert ended in (None, -signal.SIGKILL), started[lost].communicate(timeout=deadline)
    assert [output for output, _ in outputs] == [""] * len(left)
    assert all(worker.returncode > 0 for worker in left)
    return [errors for _, errors in outputs]


def results(module, *arguments, workers=2, deadline=240):
    """The last line that each worker prints, as JSON."""
    outputs = finish(start(module, *arguments, workers=workers), deadline)
    assert all(output for output, _ in outputs), outputs[0][1][-6000:]
    return [found(output) for output, _ in outputs]


def found(output):
    """The last line that a worker has printed, as JSON."""
    return json.loads(output.splitlines()[-1])
