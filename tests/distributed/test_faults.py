"""Workers that are killed, late, or hang: the others end in time and say which one. The job can be started again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from customfit import compat
from customfit.launch import Cluster
from tests.distributed import job
from tests.distributed.resuming import MODULE, results, steps, without_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused"),
]
ROOT = Path(__file__).parents[2]
DEADLINE = 90  # TensorFlow finds a worker gone that has sent no heartbeat for 10 to 20 seconds


def fails(folder, how, lost, workers=2, deadline=DEADLINE):
    """The errors of the workers that are left."""
    return job.survivors(job.start(MODULE, folder, how, workers=workers), lost, deadline)


def assert_named(errors, lost):
    assert "WorkerLostError: All 2 workers must run until training ends. Received: on worker" in errors
    assert f"no sign of life from worker {lost}, which has ended or hangs" in errors
    assert "with `checkpoint=` they resume" in errors


@pytest.mark.supports("Distribution", "several workers: one that is killed or hangs is named by the others", fit="no")
@pytest.mark.parametrize(
    ("how", "lost", "done"),
    [
        ("writing:1:3", 1, 4),  # of a checkpoint every 2 steps
        ("writing:0:3", 0, 4),
        ("pruning:0:3", 0, 6),
        ("stop:1:7", 1, 6),
        ("begin:1", 1, 0),
    ],
)
def test_a_job_started_again_ends_with_the_bits_of_one_left_alone(alone, tmp_path, how, lost, done):
    (errors,) = fails(tmp_path, how, lost)
    assert_named(errors, lost)
    resumed = results(tmp_path)
    assert steps(resumed) == 15 - done
    assert without_steps(resumed) == without_steps(alone)
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_a_timeout_ends_all_where_a_worker_hangs_and_still_lives(tmp_path):
    (errors,) = fails(tmp_path, "hang:1:7", 1)
    assert "took longer than the strategy's `CommunicationOptions(timeout_seconds=)` allows" in errors


def test_one_that_starts_late_is_waited_for(alone):
    cluster = Cluster.on_loopback(2)
    started = [job.start_one(cluster, 1, MODULE, "")]
    deadline = time.monotonic() + DEADLINE
    while not cluster.is_listening(1):  # then it waits for the other one
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started.append(job.start_one(cluster, 0, MODULE, ""))
    outputs = job.finish(started)
    assert [job.found(output) for output, _ in reversed(outputs)] == alone


def test_a_launched_job_is_restarted_and_ends_with_the_bits_of_one_left_alone(alone, tmp_path):
    """The script is one that kills a worker in its first attempt only."""
    (tmp_path / "train.py").write_text(KILLED_ONCE)
    options = ["--workers", "2", "--restarts", "2", "--log-dir", str(tmp_path / "logs")]
    command = [sys.executable, "-m", "customfit.launch", *options, str(tmp_path / "train.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Worker 1 was ended by SIGKILL" in ended.stderr
    assert "restart 1 of 2" in ended.stderr
    assert "restart 2 of 2" not in ended.stderr
    logs = [(tmp_path / "logs" / "attempt-1" / f"worker-{index}.log").read_text() for index in range(2)]
    found = [job.found("\n".join(line for line in log.splitlines() if line.startswith("{"))) for log in logs]
    assert steps(found) == 9
    assert without_steps(found) == without_steps(alone)


KILLED_ONCE = """
import os
import sys

folder = sys.argv[1]
is_first = not os.path.exists(os.path.join(folder, "run", "checkpoint-00000001"))
from tests.distributed.resumed import main

main(folder, "kill:1:7" if is_first else "")
"""
