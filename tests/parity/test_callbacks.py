"""Callbacks hear the same under `custom_fit` as under `fit`: the same hooks in order, indices and logs."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, train

X, Y = models.rows()
HOOKS = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_") and "predict" not in name]


class Recorder(keras.callbacks.Callback):
    """Notes each call: the hook, its index, its logs as numbers."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def _note(self, hook, *args):
        logs = args[-1] if args and isinstance(args[-1], dict) else {}
        index = next((int(arg) for arg in args if not isinstance(arg, dict) and arg is not None), None)
        self.calls.append((hook, index, {name: float(np.asarray(value)) for name, value in sorted(logs.items())}))


def _hook(name):
    def hook(self, *args, **kwargs):
        self._note(name, *args, *kwargs.values())

    return hook


for name in HOOKS:
    setattr(Recorder, name, _hook(name))


def recorded(how, base, arguments, **compile_options):
    recorder = Recorder()
    arguments = arguments() if callable(arguments) else arguments
    train(models.dense, how, {**arguments, "callbacks": [recorder]}, base=base, **compile_options)
    return recorder.calls


def batches(unknown_size=False):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    return (data.filter(lambda x, y: True) if unknown_size else data).batch(16)


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": X, "y": Y},
        {"x": X, "y": Y, "validation_split": 0.3, "validation_freq": 2},
        {"x": X, "y": Y, "initial_epoch": 1},
        lambda: {"x": batches(), "validation_data": batches(), "batch_size": None},
        lambda: {"x": batches().repeat(), "steps_per_epoch": 3, "batch_size": None},
    ],
    ids=["arrays", "validation", "initial_epoch", "dataset", "steps_per_epoch"],
)
def test_the_same_calls(arguments):
    theirs = recorded("fit", keras.Model, arguments)
    ours = recorded("custom_fit", CustomTrainModel, arguments)
    assert [call[:2] for call in ours] == [call[:2] for call in theirs]
    assert ours == theirs


@pytest.mark.parametrize("rows", [64, 70], ids=["whole", "cut short"])
@pytest.mark.parametrize("steps_per_execution", [2, 3])
def test_the_same_calls_by_execution(rows, steps_per_execution):
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 7) and -(-rows // 16) % steps_per_execution:
        pytest.skip("`fit` of Keras 3.0-3.6 fails in an execution that is cut short")
    arguments = {"x": X[:rows], "y": Y[:rows], "validation_data": (X[:64], Y[:64])}
    theirs = recorded("fit", keras.Model, arguments, steps_per_execution=steps_per_execution)
    assert recorded("custom_fit", CustomTrainModel, arguments, steps_per_execution=steps_per_execution) == theirs


@pytest.mark.skipif(
    compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 2),
    reason="`fit` of Keras 3.0 and 3.1 counts the end of the data in the loss",
)
def test_a_dataset_of_unknown_size_begins_a_batch_that_never_ends():
    arguments = lambda: {"x": batches(unknown_size=True), "batch_size": None, "epochs": 1}
    theirs = recorded("fit", keras.Model, arguments, optimizer="sgd")
    assert recorded("custom_fit", CustomTrainModel, arguments, optimizer="sgd") == theirs


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_begin", "on_epoch_end"])
def test_stop_training_is_honoured_as_fit_does(hook):
    class Stop(Recorder):
        pass

    def stop(self, index, logs=None):
        self._note(hook, index, logs)
        if index == 1:
            self.model.stop_training = True

    setattr(Stop, hook, stop)

    def run(how, base):
        stopper = Stop()
        arguments = {"x": X, "y": Y, "epochs": 4, "validation_data": (X, Y), "callbacks": [stopper]}
        return stopper.calls, train(models.dense, how, arguments, base=base)

    (our_calls, ours), (their_calls, theirs) = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert our_calls == their_calls
    assert_equal(ours, theirs)


def test_standard_callbacks_have_the_same_effect(tmp_path):
    def run(how, base):
        folder = tmp_path / how
        folder.mkdir()
        callbacks = [
            keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=0, min_delta=1.0),
            keras.callbacks.CSVLogger(str(folder / "log.csv")),
            keras.callbacks.ModelCheckpoint(
                str(folder / "best.weights.h5"), save_weights_only=True, save_best_only=True
            ),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.EarlyStopping(patience=1, min_delta=1.0, restore_best_weights=True),
        ]
        run = train(models.dropout, how, {"x": X, "y": Y, "validation_split": 0.3, "callbacks": callbacks}, base=base)
        return run, (folder / "log.csv").read_text()

    (ours, our_log), (theirs, their_log) = run("custom_fit", CustomTrainModel), run("fit", keras.Model)
    assert len(ours[1].epoch) == 2  # it stopped early
    assert_equal(ours, theirs)
    assert our_log == their_log


def test_on_train_end_fires_after_an_exception_and_the_model_trains_again():
    class Fails(Recorder):
        def on_epoch_end(self, epoch, logs=None):
            raise ZeroDivisionError("in a callback")

    failing = Fails()
    keras.utils.set_random_seed(0)
    model = models.dense(CustomTrainModel)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        model.custom_fit(X, Y, verbose=0, callbacks=[failing])
    assert failing.calls[-1][0] == "on_train_end"
    assert len(model.custom_fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_on_train_end_fires_after_on_train_begin_has_failed():
    class Fails(Recorder):
        def on_train_begin(self, logs=None):
            raise ZeroDivisionError

    failing = Fails()
    with pytest.raises(ZeroDivisionError):
        train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [failing]})
    assert [call[0] for call in failing.calls] == ["on_train_end"]


def test_a_callback_list_is_taken_as_it_is():
    recorder = Recorder()
    keras.utils.set_random_seed(0)
    model = models.dense(CustomTrainModel)
    model.compile("sgd", "sparse_categorical_crossentropy")
    callbacks = keras.callbacks.CallbackList([recorder], model=model, epochs=2, steps=3, verbose=0)
    history = model.custom_fit(X, Y, epochs=2, callbacks=callbacks, early_stopping=5)
    assert len(history.epoch) == 2
    assert recorder.params["steps"] == 3
