"""Two processes on loopback, under `MultiWorkerMirroredStrategy`."""

import json
import os
import socket
import sys

import numpy as np
import pytest

from customfit import compat
from tests import processes
from tests.distributed.worker import predict, record, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused"),
]


def run(how):
    """What two workers print, and the last one's errors."""
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = ",".join(str(each.getsockname()[1]) for each in (one, other))
    workers = [
        processes.Process(
            [sys.executable, "-m", "tests.distributed.worker", str(index), ports, how],
            env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        )
        for index in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [output for output, _ in outputs], outputs[0][1]


@pytest.mark.supports("Distribution", "`MultiWorkerMirroredStrategy`", fit="Keras 2")
def test_workers_train_as_replicas_of_one_process_do(strategy):
    (one, other), errors = run("custom_fit")
    assert one, errors[-3000:]
    assert one == other
    assert json.loads(one) == pytest.approx(train(strategy), rel=1e-4)  # sums in another order


def test_each_worker_gets_all_predictions(strategy):
    (one, other), errors = run("custom_predict")
    assert one, errors[-3000:]
    assert one == other
    for ours, alone in zip(json.loads(one), predict(strategy)):
        for name, rows in alone.items():
            np.testing.assert_allclose(ours[name], rows, rtol=1e-5, atol=1e-7)


def test_each_worker_records_the_steps_of_all(strategy):
    (one, other), errors = run("record")
    assert one, errors[-3000:]
    assert one == other
    found, alone = json.loads(one), record(strategy)
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)  # sums in another order


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="Keras 2 trains on several workers")
def test_fit_of_keras_3_does_not():
    outputs, errors = run("fit")
    assert outputs == ["", ""]
    assert "PerReplica" in errors
