"""What is on disk is whole or not there: torn, flipped and vanished files, full and read-only disks, two writers."""

import functools
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import sys
import textwrap
import time
import warnings

import numpy as np
import pytest

from customfit import Checkpoints, EarlyStopping, Every
from customfit.checkpoint import CheckpointError, CheckpointStore
from customfit.checkpoint import store as store_module
from customfit.checkpoint.checkpointer import HEARTBEAT_SECONDS, Checkpointer
from customfit.checkpoint.lock import STALE_SECONDS, DirectoryLock, DirectoryLockedError, started
from customfit.compat import keras, tf
from customfit.workers import Workers
from tests import processes
from tests.parity import models
from tests.resume.cut import assert_same, train

X, Y = models.rows(70)
ROWS = {"x": X, "y": Y}


def checkpoints(folder):
    return sorted(path for path in folder.iterdir() if path.name.startswith("checkpoint-"))


# -------------------------------------------------------------------------------------------------------- damaged files


def tear(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [tear, flip, os.remove], ids=["torn", "a bit flipped", "gone"])
@pytest.mark.parametrize("pattern", ["variables.data*", "variables.index", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_taken(damage, pattern, tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    for number in range(2):
        write(store, number)
    newest = checkpoints(tmp_path)[-1]
    assert store.newest()[0] == newest
    damage(next(newest.glob(pattern)))
    with pytest.warns(UserWarning, match="checkpoint-00000002 is damaged: .*Resuming from the checkpoint before it"):
        path, record = store.newest()
    assert (path.name, record["number"]) == ("checkpoint-00000001", 0)
    assert write(store, 2).name == "checkpoint-00000003"
    assert not list(tmp_path.glob("damaged-*"))


def write(store, number, score=None):
    """As `Checkpointer` does: the new one, and then away with older ones."""
    path = store.write(lambda folder: fill(folder, number, score))
    store.prune("a")
    return path


def fill(folder, number, score=None, run="a"):
    for name in ("variables.data-00000-of-00001", "variables.index"):
        (folder / name).write_bytes(bytes(range(100)))
    return {"number": number, "score": score, "run": run}


def test_training_goes_on_from_the_one_before_and_ends_the_same(tmp_path):
    train(models.dropout, {**ROWS, "max_steps": 12}, tmp_path)
    flip(next(checkpoints(tmp_path)[-1].glob("variables.data*")))
    with pytest.warns(UserWarning, match="variables.data-00000-of-00001 has a checksum mismatch"):
        taken_up = train(models.dropout, ROWS, tmp_path)
    assert_same(taken_up, train(models.dropout, ROWS))


def test_where_all_are_damaged_nothing_is_begun_anew_unasked(tmp_path):
    train(models.dense, {**ROWS, "epochs": 1}, tmp_path)
    for path in checkpoints(tmp_path):
        tear(path / "state.json")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(CheckpointError, match="No checkpoint in .* can be"),
    ):
        train(models.dense, ROWS, tmp_path)
    with pytest.raises(CheckpointError, match="No checkpoint in .* can be"):  # nor when asked again
        train(models.dense, ROWS, tmp_path)
    train(models.dense, {**ROWS, "resume": False}, tmp_path)


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path, monkeypatch):
    """Too many open files, a network that is gone: the checkpoint is as good as before once it can be read."""
    train(models.dense, {**ROWS, "max_steps": 7}, tmp_path)
    before = checkpoints(tmp_path)

    def fail(path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_digest", fail)
        with pytest.raises(CheckpointError, match="cannot be read: .*Input/output error"):
            train(models.dense, ROWS, tmp_path)
    assert checkpoints(tmp_path) == before
    assert_same(train(models.dense, ROWS, tmp_path), train(models.dense, ROWS))


def test_a_file_where_the_directory_should_be_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="`checkpoint` must be a directory that can be written"):
        train(models.dense, ROWS, tmp_path / "file")


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / ".writing-1234").mkdir()
    (tmp_path / ".writing-1234" / "state.json").write_text("{")
    train(models.dense, {**ROWS, "epochs": 1}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]


# -------------------------------------------------------------------------------------------------------------- keeping


def test_the_last_and_the_best_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for number, score in enumerate([3.0, 1.0, None, 2.0, 5.0]):
        write(store, number, score)
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["2", "4", "5"]


def test_a_best_whose_record_cannot_be_read_now_is_not_removed(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep=1)
    for number, score in enumerate([1.0, 2.0]):
        write(store, number, score)
    read = pathlib.Path.read_text

    def fails(path, *args):
        if path.parent.name == "checkpoint-00000001":
            raise OSError(5, "Input/output error")
        return read(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_text", fails)
        with pytest.raises(OSError, match="Input/output"):
            write(store, 2, 3.0)
    assert (tmp_path / "checkpoint-00000001").exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Each file, then their directory; only then the rename, and then the directory that has the name."""
    events = []

    def flushed(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def renamed(source, target):
        events.append("rename")
        os.replace(source, target)

    monkeypatch.setattr(store_module.os, "fsync", flushed)
    monkeypatch.setattr(store_module.os, "rename", renamed)
    path = CheckpointStore(tmp_path, keep=1).write(lambda folder: fill(folder, 0))
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {os.path.basename(name) for name in before[:-1]} == {file.name for file in path.iterdir()}
    assert os.path.basename(before[-1]).startswith(".writing-")
    assert after == [os.fspath(tmp_path)]


def test_what_has_diverged_is_not_the_best(tmp_path):
    class Diverges(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                self.model.set_weights([weight * np.nan for weight in self.model.get_weights()])

    given = {**ROWS, "epochs": 5, "every": Every(steps=7), "keep": 1, "callbacks": [Diverges()]}
    train(models.dense, given, tmp_path)
    records = [json.loads((path / "state.json").read_text()) for path in checkpoints(tmp_path)]
    assert [record["score"] is None for record in records] == [False, True]
    assert records[0]["at"]["total_steps"] <= 14  # and not that of step 21, before which the loss was nan


def test_older_checkpoints_that_cannot_be_removed_are_no_failure_to_write(tmp_path, monkeypatch):
    def fail(store, run):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(CheckpointStore, "prune", fail)
    with pytest.warns(UserWarning, match="Older checkpoints could not be removed from .*Permission denied"):
        train(models.dense, {**ROWS, "on_error": "warn", "epochs": 5}, tmp_path)
    assert len(checkpoints(tmp_path)) == 5
    with pytest.raises(CheckpointError, match="Older checkpoints could not be removed"):
        train(models.dense, {**ROWS, "epochs": 6}, tmp_path)


def test_what_a_callback_raises_is_no_failure_to_write(tmp_path):
    class Fails(keras.callbacks.Callback):
        def get_state(self):
            raise FileNotFoundError("the user's own file")

        def set_state(self, state):
            raise AssertionError

    with pytest.raises(FileNotFoundError, match="the user's own file"):
        train(models.dense, {**ROWS, "callbacks": [Fails()], "on_error": "warn"}, tmp_path)


def test_ctrl_c_while_the_directory_is_opened_leaves_no_lock(tmp_path, monkeypatch):
    (tmp_path / ".writing-1234").mkdir()

    def interrupted(path, **options):
        raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(store_module.shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(models.dense, ROWS, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == handler
    train(models.dense, ROWS, tmp_path)


@pytest.mark.parametrize("every", [Every(steps=3), Every(seconds=1e-6)])
def test_within_epochs_the_best_is_by_what_was_found_last(every, tmp_path):
    """Of those since an epoch or validation was found best, the first is kept: it is the nearest to it."""

    class Scales(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.first = getattr(self, "first", self.model.get_weights())
            self.model.set_weights([weight * [8.0, 0.0, 4.0, 16.0][epoch] for weight in self.first])

    given = {"validation_data": (X, Y), "keep": 1, "epochs": 4, "callbacks": [Scales()]}
    given["every"] = every
    _, history = train(models.dense, {**ROWS, **given}, tmp_path, optimizer=lambda: keras.optimizers.SGD(0.0))
    found = history.history["val_loss"]
    assert found[1] == min(found)
    records = [json.loads((path / "state.json").read_text()) for path in checkpoints(tmp_path)]
    best, last = ((record["at"]["epoch"], record["at"]["step"], record["score"]) for record in records)
    assert best == ((2, 2, found[1]) if every.steps else (2, 0, found[1]))  # step 12 of 20; each block and epoch
    assert last == (4, 0, found[3])


def test_the_best_is_by_what_early_stopping_monitors(tmp_path):
    given = {"early_stopping": EarlyStopping("val_accuracy", patience=9), "keep": 1, "epochs": 5}
    _, history = train(models.dense, {**ROWS, **given, "validation_data": (X, Y)}, tmp_path)
    kept = [int(path.name[-1]) for path in checkpoints(tmp_path)]
    best = 1 + int(np.argmax(history.history["val_accuracy"]))
    assert kept == sorted({best, 5})


# ---------------------------------------------------------------------------------------- full, gone, read-only


def run_with_failing_disk(prepare, tmp_path, on_error, undo=""):
    """Trains in a process of its own, in which `prepare` breaks the disk after two epochs. Returns its output."""
    code = f"""
    import os, resource, shutil, sys, warnings
    warnings.simplefilter("always")
    from tests.parity import models
    from tests.resume.cut import train
    from customfit.compat import keras
    X, Y = models.rows(70)
    folder = {os.fspath(tmp_path)!r}
    def break_it(epoch, logs):
        if epoch == 2:
            {prepare}
        if epoch == 4:
            {undo or "pass"}
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=break_it)
    model, history = train(models.dropout, dict(
        x=X, y=Y, epochs=6, callbacks=[callback], on_error={on_error!r}), folder)
    print("epochs", len(history.epoch))
    """
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return processes.run(command, env=environment, timeout=300)


FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
NOT_FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)"
VANISH = "shutil.rmtree(folder)"
READ_ONLY = "os.chmod(folder, 0o555); os.getuid() == 0 and os.setresuid(65534, 65534, 0)"
WRITABLE = "os.getresuid()[2] == 0 and os.setresuid(0, 0, 0); os.chmod(folder, 0o755)"


@pytest.mark.parametrize(("failure", "undo"), [(FULL, NOT_FULL), (VANISH, ""), (READ_ONLY, WRITABLE), (READ_ONLY, "")])
@pytest.mark.slow
def test_where_the_disk_fails_training_goes_on_or_stops_and_nothing_half_written_stays(failure, undo, tmp_path):
    for on_error in ("warn", "raise"):
        folder = tmp_path / on_error
        result = run_with_failing_disk(failure, folder, on_error, undo)
        assert "A checkpoint could not be written to" in result.stderr, result.stderr[-2000:]
        if on_error == "warn":
            assert "epochs 6" in result.stdout, result.stderr[-2000:]
        else:
            assert "CheckpointError" in result.stderr
            assert result.returncode != 0
        if failure == VANISH:
            assert not folder.exists()
            continue
        folder.chmod(0o755)
        names = [path.name for path in folder.iterdir() if path.name != "lock"]
        assert all(name.startswith("checkpoint-") for name in names)
        assert CheckpointStore(folder, 3).newest()[1]["progress"]
        taken_up = train(models.dropout, {**ROWS, "epochs": 7}, folder)
        assert_same(taken_up, left_alone())


@functools.cache
def left_alone():
    return train(models.dropout, {**ROWS, "epochs": 7})


def test_a_full_disk_is_an_error_of_ours_and_leaves_the_last_checkpoint(tmp_path):
    """Within this process: the limit holds for what TensorFlow and Python write alike."""
    store = CheckpointStore(tmp_path, keep=3)
    store.write(lambda folder: fill(folder, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            store.write(lambda folder: fill(folder, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]
    assert store.newest()[1]["number"] == 0


def test_a_directory_that_vanishes_warns_or_raises(tmp_path):
    for on_error in ("warn", "raise"):
        folder = tmp_path / on_error
        vanish = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: shutil.rmtree(folder, ignore_errors=True))  # noqa: B023
        given = {**ROWS, "callbacks": [vanish], "on_error": on_error}
        if on_error == "warn":
            with pytest.warns(UserWarning, match="could not be written .*Training continues"):
                assert len(train(models.dense, given, folder)[1].epoch) == 3
        else:
            with pytest.raises(CheckpointError, match="could not be written"):
                train(models.dense, given, folder)


# ----------------------------------------------------------------------------------------------------------------- lock


def owner(**changes):
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started(os.getpid()), **changes})


def test_a_second_training_of_this_process_is_refused(tmp_path):
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    first.acquire()
    with pytest.raises(DirectoryLockedError, match="one run uses at a time.*used by another run of this process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_another_process_is_refused_while_the_owner_lives_and_not_after_sigkill(tmp_path):
    taken, directory = tmp_path / "taken", tmp_path / "directory"
    os.mkfifo(taken)
    directory.mkdir()
    code = f"""if True:
        import signal
        from pathlib import Path
        from customfit.checkpoint.lock import DirectoryLock
        DirectoryLock(Path({os.fspath(directory)!r})).acquire()
        Path({os.fspath(taken)!r}).write_text("taken")
        signal.pause()
    """
    process = processes.Process([sys.executable, "-c", code])
    assert taken.read_text() == "taken"  # once it is
    lock = DirectoryLock(directory)
    with pytest.raises(DirectoryLockedError, match=f"used by process {process.pid}"):
        lock.acquire()
    process.kill()
    process.communicate()
    lock.acquire()
    lock.release()


@pytest.mark.parametrize(
    ("text", "age", "held"),
    [
        (owner(), 0, True),
        (owner(started=1), 0, False),  # a process of the same number, but another one
        (owner(pid=2**22 + 1), 0, False),
        (owner(host="elsewhere"), STALE_SECONDS - 60, True),
        (owner(host="elsewhere"), STALE_SECONDS + 60, False),
        ("", 0, True),  # just being made
        ("", 60, False),
        ('{"pid": 1', 60, False),
    ],
    ids=range(8),
)
def test_stale_locks_are_recognized(text, age, held, tmp_path):
    (tmp_path / "lock").write_text(text)
    now = (tmp_path / "lock").stat().st_mtime + age
    lock = DirectoryLock(tmp_path, clock=lambda: now)
    if held:
        with pytest.raises(DirectoryLockedError):
            lock.acquire()
        assert (tmp_path / "lock").read_text() == text
    else:
        lock.acquire()
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_live_owner_shows_it_and_takes_a_lock_again_that_has_vanished(tmp_path):
    now = [time.time()]
    lock = DirectoryLock(tmp_path, clock=lambda: now[0])
    lock.acquire()
    now[0] += STALE_SECONDS
    lock.keep()
    assert (tmp_path / "lock").stat().st_mtime == pytest.approx(now[0], abs=1)
    (tmp_path / "lock").unlink()
    lock.keep()
    with pytest.raises(DirectoryLockedError):
        DirectoryLock(tmp_path).acquire()


def test_an_owner_finds_out_before_it_writes_that_another_has_the_lock_now(tmp_path):
    """On two hosts, when one was taken for dead: its next checkpoint must not land among those of the other."""
    lost = []

    class Loses(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                (tmp_path / "lock").write_text(owner(pid=1, started=started(1)))
                lost.extend(checkpoints(tmp_path))

    with pytest.raises(DirectoryLockedError, match="used by process 1"):
        train(models.dense, {**ROWS, "callbacks": [Loses()], "on_error": "warn"}, tmp_path)
    assert checkpoints(tmp_path) == lost
    assert json.loads((tmp_path / "lock").read_text())["pid"] == 1


def test_of_two_who_find_a_stale_lock_one_takes_it(tmp_path):
    """The second has read the stale one, and looks at its owner, when the first one takes it."""
    (tmp_path / "lock").write_text(owner(pid=2**22 + 1))
    first, second = DirectoryLock(tmp_path), DirectoryLock(tmp_path)
    judge, between = second._why_held, iter([first.acquire])

    def judges(text):
        reason = judge(text)
        next(between, lambda: None)()
        return reason

    second._why_held = judges
    with pytest.raises(DirectoryLockedError, match="another run of this process"):
        second.acquire()
    first.keep()  # it is still its own
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_training_shows_now_and_then_that_it_lives(tmp_path):
    now = [0.0]
    checkpointer = Checkpointer(Checkpoints(tmp_path), Workers.of(tf.distribute.get_strategy()), clock=lambda: now[0])
    checkpointer.open()
    os.utime(tmp_path / "lock", (0, 0))
    checkpointer.heartbeat()
    assert (tmp_path / "lock").stat().st_mtime == 0
    now[0] += HEARTBEAT_SECONDS
    checkpointer.heartbeat()
    assert (tmp_path / "lock").stat().st_mtime > 0
    checkpointer.close()


def test_a_lock_that_somebody_else_has_taken_is_not_given_back(tmp_path):
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    (tmp_path / "lock").write_text(owner(pid=1))
    lock.release()
    assert (tmp_path / "lock").exists()


def test_the_directory_is_free_after_training_however_it_ends(tmp_path):
    def fail(epoch, logs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing = {"callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=fail)]}
        train(models.dense, {**ROWS, **failing}, tmp_path)
    assert not (tmp_path / "lock").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what ours are; Keras 2.12 draws seeds as Python deprecates
        train(models.dense, ROWS, tmp_path)
