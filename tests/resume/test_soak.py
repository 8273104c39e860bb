"""Trainings that are killed by SIGKILL again and again, and one that is watched for what it leaves open.

`CUSTOMFIT_KILLS=100` is how often in all; the default run has a few. The counts are printed with `-s`.
"""

import gc
import os

import pytest

from customfit import Every
from customfit.compat import keras
from customfit.testing import check_resume, resume
from tests import processes
from tests.parity import models
from tests.resume import trainings
from tests.resume.cut import train

KILLS = int(os.environ.get("CUSTOMFIT_KILLS", "6"))
TRAININGS = [trainings.arrays, trainings.mixed_precision, trainings.dataset]


@pytest.fixture
def quick(monkeypatch):
    """Forks the processes of `check_resume`, which otherwise spend nine tenths of their time on imports."""
    monkeypatch.setattr(resume, "subprocess", processes)


@pytest.mark.slow
@pytest.mark.parametrize("train_fn", TRAININGS, ids=lambda train_fn: train_fn.__name__)
def test_killed_at_random_it_ends_as_if_left_alone(train_fn, quick):
    """Each is killed a third of the times, in rounds of at most 6, so that no round has only kills near its end."""
    left, total, round_number = -(-KILLS // len(TRAININGS)), 0, 0
    while left:
        kills = min(6, left)
        report = check_resume(train_fn, kills=kills, seed=round_number)
        assert report, report.message
        left, total, round_number = left - len(report.kills), total + len(report.kills), round_number + 1
    print(f"{train_fn.__name__}: {total} kills in {round_number} rounds, all bit-identical")
    assert total >= KILLS / len(TRAININGS)


@pytest.mark.slow
def test_killed_at_each_moment_it_ends_as_if_left_alone(quick):
    kills = [(3, "validating"), (9, "pruning"), (12, "writing"), (12, "step"), (24, "validating")]
    report = check_resume(trainings.mixed_precision, kill_at=kills)
    assert report, report.message
    assert report.kills == tuple(kills)


@pytest.mark.slow
@pytest.mark.parametrize("train_fn", [trainings.differs, trainings.counts_in_python])
@pytest.mark.long
def test_a_training_that_cannot_be_taken_up_is_found_out(train_fn):
    report = check_resume(train_fn, kill_at=[12])
    assert not report
    assert report.variable is not None
    assert "killed 1 times (at step 12), model/" in report.message
    assert "differs by up to" in report.message


@pytest.mark.slow
def test_kills_that_never_come_are_no_proof(quick):
    with pytest.raises(ValueError, match="`kill_at` must name steps that there are"):
        check_resume(trainings.arrays, kill_at=[10_000])


def test_a_function_that_another_process_cannot_find_is_refused():
    with pytest.raises(ValueError, match="`train_fn` must be a function of a module or script"):
        check_resume(lambda checkpoint: None)


def test_memory_and_file_handles_stay_flat(tmp_path):
    """A checkpoint is about 1 MB: if one in ten were kept in memory, 100 of them would show."""
    x, y = models.rows(64)
    seen = []

    def wide(base):
        inputs = keras.Input((8,))
        return base(inputs, keras.layers.Dense(3, "softmax")(keras.layers.Dense(8_000, "relu")(inputs)))

    def look(epoch, logs):
        gc.collect()
        with open("/proc/self/statm") as file:
            seen.append((len(os.listdir("/proc/self/fd")), int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")))

    watch = keras.callbacks.LambdaCallback(on_epoch_end=look)
    train(wide, {"x": x, "y": y, "epochs": 40, "every": Every(steps=1), "callbacks": [watch]}, tmp_path)
    handles, memory = zip(*seen)
    assert sum(file.stat().st_size for file in sorted(tmp_path.glob("checkpoint-*"))[-1].iterdir()) > 1e6
    assert len(list(tmp_path.glob("checkpoint-*"))) <= 4
    assert handles[-1] <= handles[10]
    assert memory[-1] - memory[10] < 12e6


def test_file_handles_stay_flat_over_many_resumes(tmp_path):
    x, y = models.rows(64)
    handles = []
    for epochs in range(1, 7):
        train(models.dropout, {"x": x, "y": y, "epochs": epochs}, tmp_path)
        handles.append(len(os.listdir("/proc/self/fd")))
    assert handles[-1] <= handles[1]
