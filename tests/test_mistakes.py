"""What a mistake gets: one sentence before the first step that says what to do, and a traceback of the user's lines."""

import pathlib
import traceback

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, compat
from customfit.compat import keras, tf

X = np.random.RandomState(0).rand(48, 4).astype("float32")
LABELS = np.random.RandomState(1).randint(0, 3, 48)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
STRINGS = np.array(["cat", "dog", "cow"])[LABELS]


def model_of(base=CustomTrainModel, loss="sparse_categorical_crossentropy", metrics=("accuracy",), units=3):
    inputs = keras.Input((4,))
    model = base(inputs, keras.layers.Dense(units, activation="softmax")(inputs))
    model.compile("adam", loss, metrics=list(metrics))
    return model


def batches(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(16)


@pytest.fixture
def untouched():
    """A model of which a test must leave the weights and the optimizer as they were."""
    made = []

    def build(**options):
        made.append(model_of(**options))
        made.append(made[0].get_weights())
        return made[0]

    yield build
    model, weights = made
    assert int(model.optimizer.iterations.numpy()) == 0
    for now, before in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, before)


no_targets = r"`y` must be given, or be part of the batches: the loss .* needs targets. Received: no targets"
no_validation_targets = r"`validation_data` must hold targets, as `\(x, y\)` or in each .* Received: no targets"
DATA = {  # what is given, and what is said
    "no y": (lambda: {"x": X}, no_targets),
    "no y in batches": (lambda: {"x": batches(X)}, no_targets),
    "x and y in a tuple": (lambda: {"x": (X, LABELS)}, no_targets),
    "validation without y": (lambda: {"x": X, "y": LABELS, "validation_data": X}, no_validation_targets),
    "validation (x,)": (lambda: {"x": X, "y": LABELS, "validation_data": (X,)}, no_validation_targets),
    "validation batches": (lambda: {"x": X, "y": LABELS, "validation_data": batches(X)}, no_validation_targets),
    "one set": (lambda: {"x": X, "y": LABELS, "validation_data": {"a": (X, LABELS), "b": (X,)}}, no_validation_targets),
    "strings": (
        lambda: {"x": X, "y": STRINGS},
        r"`y` must have numbers as targets, .*StringLookup.* Received: strings",
    ),
    "a list of strings": (lambda: {"x": X, "y": STRINGS.tolist()}, r"`y` must have numbers"),
    "strings in batches": (lambda: {"x": batches(X, STRINGS)}, r"`y` must have numbers"),
    "strings to validate on": (
        lambda: {"x": X, "y": LABELS, "validation_data": (X, STRINGS)},
        r"`validation_data` must have numbers",
    ),
    "one-hot": (
        lambda: {"x": X, "y": ONE_HOT},
        r"an integer label for each row.*'categorical_crossentropy', or pass `y.argmax\(-1\)`. Received: .*\(\w+, 3\)",
    ),
    "one-hot in batches": (lambda: {"x": batches(X, ONE_HOT)}, r"an integer label for each row"),
    "label 3 of 3": (
        lambda: {"x": X, "y": LABELS + 1},
        r"labels from 0 to 2, .* 3 classes. Received: labels from 1 to 3",
    ),
    "label -1": (lambda: {"x": X, "y": tf.constant(LABELS - 1)}, r"labels from 0 to 2.* Received: labels from -1 to 1"),
    "labels of NaN": (lambda: {"x": X, "y": np.full(48, np.nan)}, r"labels from 0 to 2.* from nan to nan"),
    "validation label": (
        lambda: {"x": X, "y": LABELS, "validation_data": (X, LABELS * 2)},
        r"`validation_data` must hold labels from 0 to 2.* Received: labels from 0 to 4",
    ),
    "a path": (lambda: {"x": "/data/train"}, r"`x` must be data, not the name of a file.* Received: '/data/train'"),
    "a Path": (lambda: {"x": pathlib.Path("/data"), "y": LABELS}, r"`x` must be data, not the name of a file"),
}


@pytest.mark.parametrize("mistake", DATA)
def test_data(mistake, untouched):
    given, message = DATA[mistake]
    with pytest.raises(ValueError, match=message):
        untouched().custom_fit(verbose=0, **given())


def test_evaluation(untouched):
    model = untouched()
    for y, message in [(None, no_targets), (STRINGS, "must have numbers"), (LABELS + 3, "labels from 3 to 5")]:
        with pytest.raises(ValueError, match=message):
            model.custom_evaluate(X, y, verbose=0)
    with pytest.raises(TypeError, match="objects, not classes"):
        model.custom_evaluate(X, LABELS, callbacks=keras.callbacks.History, verbose=0)


CATEGORICAL = r"one-hot targets.* 'sparse_categorical_crossentropy', or pass `keras.utils.to_categorical\(y, 3\)`"
SHAPES = [  # loss, targets, and what is said if `fit` takes them in no release
    ("sparse_categorical_crossentropy", LABELS[:, None], None),
    (keras.losses.SparseCategoricalCrossentropy(), ONE_HOT, "an integer label for each row"),
    ("categorical_crossentropy", ONE_HOT, None),
    ("categorical_crossentropy", LABELS, CATEGORICAL),
    (keras.losses.CategoricalCrossentropy(), LABELS[:, None], CATEGORICAL),
    (keras.losses.categorical_crossentropy, LABELS, CATEGORICAL),
    ("mse", X[:, :3], None),
    ("mse", X[:, :1], None),
    ("mse", X[:, :2], r"the shape of the output, for the loss 'mean_squared_error'. Received: .*, 2\), .*, 3\)"),
    (["mae"], X, "the shape of the output"),
    (keras.losses.Huber(), X, "the shape of the output"),
    ("binary_crossentropy", X, "the shape of the output"),
    ("BinaryCrossentropy", X, "the shape of the output"),
]


@pytest.mark.parametrize(("loss", "targets", "message"), SHAPES)
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_shapes_of_targets(loss, targets, message, kind):
    """Refused is what `fit` refuses, and nothing else."""
    given = {"x": X, "y": targets} if kind == "arrays" else {"x": batches(X, targets)}
    if message is None:
        model_of(loss=loss, metrics=()).custom_fit(verbose=0, **given)
        model_of(keras.Model, loss=loss, metrics=()).fit(verbose=0, **given)
        return
    with pytest.raises(ValueError, match=message):
        model_of(loss=loss, metrics=()).custom_fit(verbose=0, **given)
    if kind == "arrays":
        with pytest.raises((ValueError, tf.errors.OpError)):
            model_of(keras.Model, loss=loss, metrics=()).fit(verbose=0, **given)


def own_loss(y_true, y_pred):
    return tf.reduce_mean(y_pred, -1)


class OwnStep(CustomTrainModel):
    def train_step(self, data):
        return {"mean": tf.reduce_mean(data[0] if isinstance(data, tuple) else data)}

    test_step = train_step


class OwnLoss(CustomTrainModel):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        return tf.reduce_mean(y_pred)


@pytest.mark.parametrize(
    ("base", "loss", "data"),
    [
        (CustomTrainModel, own_loss, {"y": ONE_HOT}),
        (CustomTrainModel, own_loss, {"y": LABELS + 7}),
        (OwnStep, "mse", {}),
        (OwnStep, "mse", {"y": STRINGS}),
        (OwnStep, "no such loss", {}),
        (OwnLoss, None, {}),
        (OwnLoss, "mse", {"validation_data": X}),
    ],
)
def test_what_computes_the_loss_itself_may_be_given_anything(base, loss, data):
    model_of(base, loss, metrics=()).custom_fit(X, verbose=0, **data)


def test_an_ignored_class_may_be_any_number():
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model_of(loss=loss, metrics=()).custom_fit(X, LABELS - 1, verbose=0)


@pytest.mark.parametrize("loss", ["categorical_crossentropi", ["categorical_crossentropi"]])
def test_a_misspelt_loss_is_refused_by_compile(loss):
    with pytest.raises(ValueError, match="`loss` must be .* Did you mean 'categorical_crossentropy'"):
        model_of(loss=loss)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (keras.callbacks.CSVLogger, r"objects, not classes: write `CSVLogger\(...\)`. Received: <class "),
        ([EarlyStopping], r"objects, not classes: write `EarlyStopping\(...\)`"),
        ([keras.callbacks.History(), [keras.callbacks.TerminateOnNaN]], r"write `TerminateOnNaN\(...\)`"),
        ([lambda epoch, logs: None], r"`keras.callbacks.LambdaCallback` calls functions. Received: <function"),
        (["early"], r"must hold `keras.callbacks.Callback`s.* Received: 'early'"),
    ],
)
def test_callbacks(callbacks, message, untouched):
    with pytest.raises(TypeError, match=message):
        untouched().custom_fit(X, LABELS, callbacks=callbacks, verbose=0)


class OwnLogs(CustomTrainModel):
    def train_step(self, data):
        return {**super().train_step(data), "own": tf.constant(1.0)}


class Adds(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["added_loss"] = 1.0


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        ("", {}),
        ("val_", {"validation_data": (X, LABELS)}),
        ("val_a_", {"validation_data": {"a": (X, LABELS), "b": (X, LABELS)}}),
    ],
)
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"jit_compile": True}])
def test_a_monitor_that_nothing_logs(prefix, data, options):
    model = model_of(OwnLogs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    for monitor in (f"{prefix}acc", f"{prefix}own_acc"):
        with pytest.raises(ValueError, match=f"Available metrics: {prefix}accuracy.* Received: monitor='{monitor}'"):
            model.custom_fit(X, LABELS, verbose=0, early_stopping=EarlyStopping(monitor), **data)
    assert int(model.optimizer.iterations.numpy()) == 0
    stopping = EarlyStopping(prefix + "accuracy" if prefix else "own", mode="min")
    model.custom_fit(X, LABELS, verbose=0, early_stopping=stopping, **data)


@pytest.mark.parametrize(
    "adds",
    [
        lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(added_loss=1.0)),
        lambda: bound(keras.callbacks.TerminateOnNaN()),
    ],
)
def test_a_monitor_that_a_function_logs(adds):
    """In a callback of Keras's own class."""
    stopping = EarlyStopping("added_loss")
    history = model_of().custom_fit(X, LABELS, verbose=0, epochs=5, callbacks=[adds()], early_stopping=stopping)
    assert len(history.epoch) == 2


def bound(callback):
    callback.on_epoch_end = lambda epoch, logs: logs.update(added_loss=1.0)
    return callback


def test_a_learning_rate_may_be_monitored():
    name = "learning_rate" if compat.IS_KERAS_3 else "lr"
    plateau = keras.callbacks.ReduceLROnPlateau("loss")
    stopping = EarlyStopping(name, mode="max")
    history = model_of().custom_fit(X, LABELS, verbose=0, epochs=5, callbacks=[plateau], early_stopping=stopping)
    assert len(history.epoch) == 2


def test_a_monitor_that_a_callback_logs():
    stopping = EarlyStopping("added_loss")
    history = model_of().custom_fit(X, LABELS, verbose=0, epochs=5, callbacks=[Adds()], early_stopping=stopping)
    assert len(history.epoch) == 2
    with pytest.raises(ValueError, match="'loss_added' is not available"):
        model_of().custom_fit(X, LABELS, verbose=0, callbacks=[Adds()], early_stopping=EarlyStopping("loss_added"))


# ------------------------------------------------------------------------------------------------------ tracebacks


class Breaks(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyError("mine")


def frames_of(call):
    with pytest.raises(Exception) as raised:  # noqa: PT011 - any will do
        call()
    return [pathlib.Path(frame.filename) for frame in traceback.extract_tb(raised.value.__traceback__)]


@pytest.mark.parametrize(
    "call",
    [
        lambda: model_of().custom_fit(X, LABELS, epochs="two"),
        lambda: model_of().custom_fit(X[:, :2], LABELS, verbose=0),
        lambda: model_of().custom_fit(batches(X, LABELS + 5), verbose=0),
        lambda: model_of().custom_evaluate(X[:, :2], LABELS, verbose=0),
        lambda: model_of().plan_fit(X, LABELS[1:]),
        lambda: model_of().fit(X[:, :2], LABELS, verbose=0),
    ],
)
def test_a_traceback_shows_the_users_lines(call):
    """And one of ours, in which the error is raised again, as Keras has one."""
    frames = frames_of(call)
    assert len([frame for frame in frames if frame == pathlib.Path(__file__)]) == 2
    others = [frame.name for frame in frames if frame != pathlib.Path(__file__)]
    assert others[0] == "tracebacks.py"
    # `fit` has Keras's as well and, on Keras 2, what AutoGraph makes of its loop
    assert all(name == "traceback_utils.py" or name.startswith("__autograph_generated") for name in others[1:])


def test_a_traceback_shows_lines_of_callbacks():
    frames = frames_of(lambda: model_of().custom_fit(X, LABELS, verbose=0, callbacks=[Breaks()]))
    assert frames[-1] == pathlib.Path(__file__)
    assert len(frames) <= 5


def test_the_filter_is_keras_s_own():
    setting = keras.config if compat.IS_KERAS_3 else tf.debugging
    setting.disable_traceback_filtering()
    try:
        frames = frames_of(lambda: model_of().custom_fit(X[:, :2], LABELS, verbose=0))
    finally:
        setting.enable_traceback_filtering()
    assert "session.py" in [frame.name for frame in frames]
