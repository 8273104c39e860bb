"""Every callback that ships with Keras has the same effect under both loops: weights, History, files, what it sends."""

import functools
import http.server
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled, train
from tests.parity.test_callbacks import HOOKS, Recorder

callbacks = keras.callbacks
X, Y = models.rows()
ROWS = {"x": X, "y": Y, "validation_split": 0.2}
supports = pytest.mark.supports


def both(tmp_path, make, build=models.dropout, arguments=ROWS, **options):
    """Trains under `fit` and `custom_fit` with `make(folder)`'s callbacks; gives the two folders."""
    runs, folders = [], []
    for how, base in (("fit", keras.Model), ("custom_fit", CustomTrainModel)):
        folder = tmp_path / how
        folder.mkdir()
        made = make(folder)
        made = made if isinstance(made, list) else [made]
        runs.append(train(build, how, {**arguments, "callbacks": made}, base=base, **options))
        folders.append(folder)
    assert_equal(runs[1], runs[0])
    names = [sorted(os.fspath(path.relative_to(folder)) for path in folder.rglob("*.h5")) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        for ours, theirs in zip(*(_weights(folder / name) for folder in folders)):
            np.testing.assert_array_equal(ours, theirs)
    return folders


def _weights(path):
    model = models.dropout(keras.Model)
    model.load_weights(path)
    return model.get_weights()


def checkpoint(folder, **options):
    path = os.fspath(folder / "at-{epoch}.weights.h5")
    return callbacks.ModelCheckpoint(path, save_weights_only=True, **options)


@supports("Callbacks", "ModelCheckpoint: each epoch, every so many steps, the best only")
@pytest.mark.parametrize("options", [{}, {"save_freq": 3}, {"save_best_only": True, "monitor": "val_loss"}], ids=str)
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_model_checkpoint(tmp_path, options, steps_per_execution):
    folders = both(
        tmp_path,
        functools.partial(checkpoint, **options),
        arguments={"x": X[:64], "y": Y[:64], "validation_data": (X[:32], Y[:32])},
        steps_per_execution=steps_per_execution,
    )
    assert list(folders[0].iterdir())


class KilledError(Exception):
    pass


@supports("Callbacks", "BackupAndRestore: a run that was cut off resumes at the epoch")
def test_backup_and_restore(tmp_path):
    def run(how, base):
        folder = os.fspath(tmp_path / how)

        def die(epoch, logs=None):
            if epoch == 2:
                raise KilledError

        keras.utils.set_random_seed(SEED)
        model = compiled(models.dense, base)
        fit = functools.partial(getattr(model, how), X, Y, batch_size=16, epochs=4, verbose=0, shuffle=False)
        with pytest.raises(KilledError):
            fit(callbacks=[callbacks.BackupAndRestore(folder), callbacks.LambdaCallback(on_epoch_begin=die)])
        keras.utils.set_random_seed(SEED + 1)
        again = compiled(models.dense, base)
        again.build((None, 8))
        return again, getattr(again, how)(
            X, Y, batch_size=16, epochs=4, verbose=0, shuffle=False, callbacks=[callbacks.BackupAndRestore(folder)]
        )

    ours, theirs = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert ours[1].epoch == theirs[1].epoch
    if not compat.IS_KERAS_3 or compat.KERAS_VERSION >= (3, 1):  # 3.0 restores the weights only
        assert ours[1].epoch == [2, 3]
    assert_equal(ours, theirs)


@supports("Callbacks", "ReduceLROnPlateau, LearningRateScheduler")
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=1.0),
        lambda folder: callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 * rate),
    ],
    ids=["plateau", "scheduler"],
)
def test_learning_rates(tmp_path, make):
    both(tmp_path, make, arguments={**ROWS, "epochs": 4})


@supports("Callbacks", "EarlyStopping, TerminateOnNaN, LambdaCallback")
def test_early_stopping(tmp_path):
    stop = lambda folder: callbacks.EarlyStopping(patience=1, min_delta=1.0, restore_best_weights=True)
    both(tmp_path, stop, arguments={**ROWS, "epochs": 6})


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_terminate_on_nan(steps_per_execution):
    y = X[:64, :3].copy()
    y[40] = np.nan

    def run(how, base):
        arguments = {"x": X[:64], "y": y, "callbacks": [callbacks.TerminateOnNaN()]}
        options = {"loss": "mse", "steps_per_execution": steps_per_execution}
        return train(models.dense, how, arguments, base=base, **options)

    ours, theirs = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert ours[1].epoch == theirs[1].epoch == [0]
    assert int(ours[0].optimizer.iterations.numpy()) == int(theirs[0].optimizer.iterations.numpy()) < 12


def test_lambda_callback():
    def run(how, base):
        seen = []
        note = lambda name: lambda index, logs=None: seen.append((name, int(index), sorted(logs or ())))
        options = {name: note(name) for name in ("on_epoch_begin", "on_epoch_end", "on_train_batch_end")}
        train(models.dense, how, {**ROWS, "callbacks": [callbacks.LambdaCallback(**options)]}, base=base)
        return seen

    assert run("custom_fit", CustomTrainModel) == run("fit", keras.Model)


@supports("Callbacks", "CSVLogger")
@pytest.mark.parametrize("append", [False, True])
def test_csv_logger(tmp_path, append):
    logger = lambda folder: callbacks.CSVLogger(os.fspath(folder / "log.csv"), append=append)
    ours, theirs = ((folder / "log.csv").read_text() for folder in both(tmp_path, logger))
    assert ours == theirs
    assert len(ours.splitlines()) == 4


def scalars(folder):
    """Every scalar and histogram that was written, without the clock's."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for path in sorted({path.parent for path in folder.rglob("events.*")}):
        events = accumulator.EventAccumulator(os.fspath(path), {"tensors": 0})
        events.Reload()
        for tag in events.Tags()["tensors"]:
            if "per_second" in tag or tag == "keras" or re.fullmatch(r"batch_\d+", tag):  # the clock, models, traces
                continue
            name = tag.split("/")[-1] if "/" in tag else tag  # layers are numbered on in one process
            found.setdefault((path.name, name), []).extend(
                (event.step, tf.make_ndarray(event.tensor_proto).tolist()) for event in events.Tensors(tag)
            )
    return found


@supports("Callbacks", 'TensorBoard: scalars, histograms, `update_freq="batch"`, profile')
@pytest.mark.parametrize(
    "options",
    [{}, {"histogram_freq": 1}, {"update_freq": "batch"}, {"update_freq": 3}, {"profile_batch": (2, 3)}],
    ids=str,
)
def test_tensorboard(tmp_path, options):
    pytest.importorskip("tensorboard")
    board = lambda folder: callbacks.TensorBoard(os.fspath(folder), write_graph=False, **options)
    theirs, ours = both(tmp_path, board)
    assert scalars(ours) == scalars(theirs) != {}
    profiles = [len(list(folder.rglob("*.xplane.pb"))) for folder in (ours, theirs)]
    assert profiles[0] == profiles[1] == int("profile_batch" in options)


@supports("Callbacks", "RemoteMonitor")
def test_remote_monitor(tmp_path):
    pytest.importorskip("requests")
    received = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        both(tmp_path, lambda folder: callbacks.RemoteMonitor(root=root, send_as_json=True))
    finally:
        server.shutdown()
        server.server_close()
    assert received[:3] == received[3:]
    assert [logs["epoch"] for logs in received[:3]] == [0, 1, 2]


@supports("Callbacks", "SwapEMAWeights", keras=3)
@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_swap_ema_weights(tmp_path, swap_on_epoch):
    if not hasattr(callbacks, "SwapEMAWeights"):
        pytest.skip("this Keras has no SwapEMAWeights")
    both(
        tmp_path,
        lambda folder: callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch),
        optimizer=lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    )


# ------------------------------------------------------------------------------------ what hooks may do to the loop

TRAINING_HOOKS = [hook for hook in HOOKS if hook not in ("on_batch_begin", "on_batch_end")]


@supports("Callbacks", "`model.stop_training` set in any hook")
@pytest.mark.parametrize("hook", TRAINING_HOOKS)
def test_stop_training_in_any_hook(hook):
    def run(how, base):
        class Stop(Recorder):
            pass

        def stop(self, *args, **kwargs):
            self._note(hook, *args, *kwargs.values())
            self.model.stop_training = True

        setattr(Stop, hook, stop)
        stopper = Stop()
        result = train(models.dense, how, {**ROWS, "callbacks": [stopper]}, base=base)
        return stopper.calls, result

    (our_calls, ours), (their_calls, theirs) = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert our_calls == their_calls
    assert_equal(ours, theirs)


@supports("Callbacks", "`evaluate()` and `predict()` called in hooks")
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end", "on_train_batch_end", "on_test_end"])
@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_evaluate_and_predict_in_hooks(hook, method):
    """`evaluate` in a batch hook resets the training metrics, under `fit` as here."""

    def run(how, base):
        results = []

        class Looks(callbacks.Callback):
            busy = False

            def look(self, *args, **kwargs):
                if self.busy:  # Keras 2 hands its own callbacks on
                    return
                self.busy = True
                data = (X[:20],) if method == "predict" else (X[:20], Y[:20])
                results.append(np.asarray(getattr(self.model, method)(*data, verbose=0)).tolist())
                self.busy = False

        setattr(Looks, hook, Looks.look)
        return results, train(models.dense, how, {**ROWS, "epochs": 2, "callbacks": [Looks()]}, base=base)

    (our_results, ours), (their_results, theirs) = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert our_results == their_results
    assert_equal(ours, theirs)


@supports("Callbacks", "an exception in any hook: `on_train_end` fires, the next call works", fit="no")
@pytest.mark.parametrize("hook", TRAINING_HOOKS)
def test_an_exception_in_any_hook(hook):
    class Fails(Recorder):
        pass

    def fail(self, *args, **kwargs):
        self._note(hook, *args, *kwargs.values())
        raise ZeroDivisionError(hook)

    setattr(Fails, hook, fail)
    failing, beside = Fails(), Recorder()
    keras.utils.set_random_seed(SEED)
    model = compiled(models.dense)
    with pytest.raises(ZeroDivisionError, match=hook):
        model.custom_fit(X, Y, validation_data=(X, Y), verbose=0, callbacks=[beside, failing])
    assert [call[0] for call in beside.calls].count("on_train_end") == 1
    assert beside.calls[-1][0] == "on_train_end"
    again = model.custom_fit(X, Y, epochs=2, validation_data=(X, Y), verbose=0)
    assert again.epoch == [0, 1]
    assert model.evaluate(X, Y, verbose=0)


@supports("Callbacks", "a `CallbackList` passed in")
def test_a_callback_list_hears_the_same():
    def run(how, base):
        recorder = Recorder()
        keras.utils.set_random_seed(SEED)
        model = compiled(models.dense, base)
        given = callbacks.CallbackList(
            [recorder], add_history=True, add_progbar=False, model=model, verbose=0, epochs=2, steps=5
        )
        return recorder.calls, (
            model,
            getattr(model, how)(X, Y, batch_size=16, epochs=2, shuffle=False, callbacks=given),
        )

    (our_calls, ours), (their_calls, theirs) = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert our_calls == their_calls
    assert_equal(ours, theirs)


def test_every_callback_that_ships_with_keras_is_tested_here():
    shipped = {name for name in dir(callbacks) if isinstance(getattr(callbacks, name), type)}
    tested = Path(__file__).read_text()
    left_out = {"Callback", "CallbackList", "History", "ProgbarLogger", "BaseLogger", "ModelCheckpoint"}
    # Of these the first needs a package for another way to save, the second an evaluator in another process.
    left_out |= {"OrbaxCheckpoint", "SidecarEvaluatorModelExport", "MonitorCallback"}
    assert {name for name in shipped - left_out if f"callbacks.{name}(" not in tested} == set()
