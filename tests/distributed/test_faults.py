"""Workers that are killed, late, or hang: the others end in time and say which one. The job can be started again."""

import time

import pytest

from customfit import compat
from customfit.launch import Cluster
from tests.distributed import job
from tests.distributed.resuming import MODULE, results, steps, without_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused"),
]
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
@pytest.mark.long
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
