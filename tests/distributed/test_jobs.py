"""Jobs of two workers: one checkpoint, one clock, signals for all, and faults. The others end within a deadline."""

import csv
import json

import numpy as np
import pytest

from customfit import compat
from tests.distributed import job
from tests.distributed.resuming import MODULE, checkpoints, results, steps, without_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused"),
]
supports = pytest.mark.supports


def fails(folder, how, deadline=120):
    """The errors of both workers, none of which has ended well."""
    outputs = job.finish(job.start(MODULE, folder, how), deadline)
    assert [output for output, _ in outputs] == ["", ""]
    return [errors for _, errors in outputs]


@supports("Distribution", "several workers: one checkpoint of a job in a directory that all see", fit="no")
def test_a_job_of_which_a_worker_was_killed_ends_with_the_bits_of_one_left_alone(alone, tmp_path):
    """In the middle of an epoch, and of a window of micro-batches. Each worker has its own moving averages and sums."""
    errors = fails(tmp_path, "kill:1:7")
    assert "task:1" in errors[0]
    newest = tmp_path / "run" / checkpoints(tmp_path / "run")[-1]
    assert json.loads((newest / "state.json").read_text())["at"]["total_steps"] == 6
    resumed = results(tmp_path)
    assert steps(resumed) == 9
    assert without_steps(resumed) == without_steps(alone)
    assert checkpoints(tmp_path / "run")
    assert not list((tmp_path / "run").glob("worker-*"))
    assert steps(results(tmp_path)) == 0  # a finished job is not trained again


@supports(
    "Distribution",
    "several workers with disks of their own: `Checkpoints(..., per_worker=True)`",
    fit="no",
)
def test_disks_of_their_own(alone, tmp_path):
    fails(tmp_path, "per_worker,kill:0:7")
    folders = [tmp_path / "run" / f"worker-{index}" for index in range(2)]
    newest = folders[1] / checkpoints(folders[1])[-1]
    (newest / "state.json").write_text("damaged")  # then both resume from the one before
    resumed = results(tmp_path, "per_worker")
    assert steps(resumed) == 11
    assert without_steps(resumed) == without_steps(alone)


@supports("Distribution", "several workers: SIGTERM on one saves on all, and ends all", fit="no")
def test_sigterm_on_one_saves_on_all_and_ends_all(alone, tmp_path):
    stopped = results(tmp_path, "term:1:7")
    assert (stopped[0]["why"], steps(stopped)) == ("SIGTERM", 7)
    resumed = results(tmp_path)
    assert steps(resumed) == 8
    assert without_steps(resumed) == without_steps(alone)


@supports("Distribution", "several workers: `max_time` and `Every(seconds=)`, by one clock", fit="no")
def test_max_time_ends_all_at_the_same_step(tmp_path):
    stopped = results(tmp_path, "max_time")
    assert stopped[0]["why"] == "reached max_time=0.5"


@pytest.mark.long
def test_uneven_shares_are_resumed_where_each_of_them_was(tmp_path):
    for folder in ("alone", "killed"):
        (tmp_path / folder).mkdir()
    undisturbed = results(tmp_path / "alone", "shares")
    fails(tmp_path / "killed", "shares,kill:1:9")
    resumed = results(tmp_path / "killed", "shares")
    assert without_steps(resumed) == without_steps(undisturbed)
    assert steps(resumed) == steps(undisturbed) - 8


@supports("Distribution", "several workers: resumes with more or fewer of them, but for rounding", fit="no")
@pytest.mark.parametrize("workers", [3, 1])
def test_a_job_goes_on_with_more_or_fewer_workers(tmp_path, workers):
    """From the middle of an epoch and of a window of micro-batches, whose sums are shared out anew."""
    undisturbed = results("", "dense")
    results(tmp_path, "dense,term:1:8")
    resumed = results(tmp_path, "dense", workers=workers)
    assert steps(resumed) == 7
    assert len(resumed) == workers
    for name in ("weights", "optimizer"):
        np.testing.assert_allclose(resumed[0][name], undisturbed[0][name], rtol=1e-5, atol=1e-6)
    for name, values in undisturbed[0]["history"].items():
        np.testing.assert_allclose(resumed[0]["history"][name], values, rtol=1e-5)
    assert steps(results(tmp_path, "dense", workers=workers)) == 0  # what they have saved is theirs now


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("shares", "each worker reads its own share of the data"),
        ("per_worker", "with `per_worker=True` no worker sees what the others have saved"),
    ],
)
def test_another_number_of_workers_is_refused_where_their_state_cannot_be_shared_out(tmp_path, how, reason):
    results(tmp_path, f"{how},term:1:7")
    for _, errors in job.finish(job.start(MODULE, tmp_path, how, workers=1)):
        assert (
            f"replicas=1, was 2; workers=1, was 2; it resumes with as many as before only, because {reason}" in errors
        )


@supports("Distribution", "three workers: the same as two", fit="no")
@pytest.mark.long
def test_three_workers_share_a_checkpoint_and_end_with_the_bits_of_a_job_left_alone(tmp_path):
    started = job.start(MODULE, tmp_path, "kill:0:7", workers=3)
    for errors in job.survivors(started, 0, 120):
        assert "WorkerLostError: All 3 workers must run" in errors
    resumed = results(tmp_path, workers=3)
    assert steps(resumed) == 9
    assert without_steps(resumed) == without_steps(results("", workers=3))


@supports(
    "Distribution", "several workers: only the chief prints, sends and writes files, whatever the callback", fit="no"
)
def test_only_the_chief_draws_and_writes_files(tmp_path):
    outputs = job.finish(job.start(MODULE, tmp_path, "files"))
    (chief, errors), (other, _) = outputs
    assert [chief.count(f"Epoch {epoch}/3") for epoch in (1, 2, 3)] == [1, 1, 1], errors[-3000:]
    assert chief.count("LearningRateScheduler") == chief.count("posted to http://127.0.0.1/publish") == 3
    assert "logged" in chief
    assert len(other.splitlines()) == 1  # what it has found
    assert [job.found(output)["history"] for output, _ in outputs] == [job.found(chief)["history"]] * 2
    with open(tmp_path / "log.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert {path.name for path in tmp_path.iterdir()} == {"board", "health", "log.csv", "model.weights.h5", "run"}
    assert len(list((tmp_path / "board" / "train").glob("events*"))) == 1


def test_a_backup_of_each_worker_is_refused(tmp_path):
    for errors in fails("", "backup"):
        assert "With several workers `callbacks` must not have a `BackupAndRestore`" in errors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("batch:1", "on worker 1, compared with worker 0: batch_size=24, was 16"),
        ("rows:1", "on worker 1, compared with worker 0: checksum of rows="),
        ("code:1", "on worker 1, compared with worker 0: code of Other.train_step="),
    ],
)
def test_workers_that_would_not_train_alike_are_refused(how, message):
    """On all of them, before the first step."""
    for errors in fails("", how):
        assert "All workers must train the same model on the same data with the same options" in errors
        assert message in errors
