"""Early stopping: when, why, and with which weights; by itself, and in `custom_fit`."""

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping
from customfit.callbacks import make_early_stopping
from customfit.compat import keras

METHODS = ("fit", "custom_fit")


@pytest.fixture(autouse=True, scope="module")
def _fresh_keras():
    """Once a file and not, as elsewhere, once a test: it takes Keras 3 a quarter of a second, and most tests none."""
    yield
    keras.backend.clear_session()


class FakeModel:
    """What early stopping touches of a model. The weights are the number of the epoch."""

    def __init__(self):
        self.stop_training = False
        self.weights = [-1]
        self.times_set = 0

    def get_weights(self):
        return list(self.weights)

    def set_weights(self, weights):
        self.weights = list(weights)
        self.times_set += 1


def drive(callback, values, monitor="loss", end=True):
    """Runs epochs as `fit` does, until `values` or the callback ends training. Returns the model and the last epoch."""
    model = FakeModel()
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        model.weights = [epoch]
        callback.on_epoch_end(epoch, {monitor: value})
        if model.stop_training:
            break
    if end:
        callback.on_train_end({monitor: value})
    return model, epoch


def quiet(*args, **options):
    return EarlyStopping(*args, verbose=0, **options)


# --------------------------------------------------------------------------------------- the same epochs as Keras's

# Numbers that are exact in binary, so that `value + min_delta < best` and `value < best - min_delta` agree.
SEQUENCES = {
    "falls": [8, 7, 6, 5, 4, 3, 2, 1],
    "rises": [1, 2, 3, 4, 5, 6, 7, 8],
    "constant": [4, 4, 4, 4, 4, 4, 4, 4],
    "falls_then_rises": [8, 6, 4, 2, 3, 4, 5, 6],
    "zigzag": [4, 5, 3, 4, 2, 3, 1, 2],
    "slower_zigzag": [4, 5, 5, 3, 4, 4, 2, 3, 3],
    "small_steps": [4, 3.75, 3.5, 3.25, 3, 2.75, 2.5, 2.25],
    "negative": [-1, -3, -2, -4, -2, -2, -5, -5],
}
SETTINGS = {
    "plain": {},
    "min_delta": {"min_delta": 0.25},
    "bigger_min_delta": {"min_delta": 1},
    "negative_min_delta": {"min_delta": -0.5},
    "start_from_epoch": {"start_from_epoch": 3},
    "late_start": {"start_from_epoch": 20},
    "all": {"min_delta": 0.25, "start_from_epoch": 2},
}
BASELINES = {
    "baseline_reached": {"baseline": 6},
    "baseline_in_the_middle": {"baseline": 3.5},
    "baseline_out_of_reach": {"baseline": 0},
    "baseline_and_delta": {"baseline": 3.5, "min_delta": 0.5},
    "baseline_and_start": {"baseline": 3.5, "start_from_epoch": 2},
}


def stops(callback, values):
    """The epoch after which training stopped, or `None`."""
    model, epoch = drive(callback, values, end=False)
    return epoch if model.stop_training else None


def assert_stops_as_keras(mode, options):
    differences = {}
    for patience in (0, 1, 2):
        for name, values in SEQUENCES.items():
            options = {**options, "monitor": "loss", "mode": mode, "patience": patience}
            ours, theirs = stops(quiet(**options), values), stops(keras.callbacks.EarlyStopping(**options), values)
            if ours != theirs:
                differences[f"{name}, patience={patience}"] = f"ours {ours}, Keras {theirs}"
    assert not differences


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_stops_in_the_same_epoch_as_keras(setting, mode):
    assert_stops_as_keras(mode, SETTINGS[setting])


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("setting", BASELINES)
def test_stops_in_the_same_epoch_as_keras_with_a_baseline(setting, mode):
    assert_stops_as_keras(mode, BASELINES[setting])


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_an_instance_can_be_used_again(patience):
    stopping = quiet("loss", patience=patience)
    first, second = ((*drive(stopping, values)[0].weights, stopping.stop_reason) for values in [[1, 2, 3, 4]] * 2)
    assert first == second


# -------------------------------------------------------------------------------------------- when it stops, and why


def test_patience_stops_with_a_reason():
    stopping = quiet("loss", patience=2)
    _, epoch = drive(stopping, [3, 1, 2, 2, 0])
    assert epoch == stopping.stopped_epoch == 3
    assert stopping.stop_reason == "loss has not improved for 2 epochs (best 1 in epoch 2)"


def test_without_a_stop_there_is_no_reason():
    stopping = quiet("loss", patience=2)
    drive(stopping, [3, 2, 1])
    assert stopping.stop_reason is None
    assert stopping.stopped_epoch is None
    assert (stopping.best, stopping.best_epoch) == (1, 2)


@pytest.mark.parametrize(
    ("monitor", "values", "last"),
    [
        ("loss", [3, 2, 0.5, 1], 2),
        ("loss", [1.0, 0], 0),
        ("accuracy", [0.1, 0.9, 1.0], 1),
        ("accuracy", [0.25, 0.5], 1),
    ],
)
def test_stopping_threshold_stops_as_soon_as_it_is_reached(monitor, values, last):
    stopping = quiet(monitor, patience=10, stopping_threshold=1.0 if monitor == "loss" else 0.5)
    model, epoch = drive(stopping, values, monitor)
    assert model.stop_training
    assert epoch == stopping.stopped_epoch == last
    assert "stopping_threshold" in stopping.stop_reason
    assert monitor in stopping.stop_reason


@pytest.mark.parametrize(
    ("monitor", "values", "last"), [("loss", [3, 4, 5, 1], 2), ("accuracy", [0.9, 0.5, 0.25, 0.9], 2), ("loss", [9], 0)]
)
def test_divergence_threshold_stops_as_soon_as_the_metric_is_worse(monitor, values, last):
    stopping = quiet(monitor, patience=10, divergence_threshold=4.0 if monitor == "loss" else 0.5)
    model, epoch = drive(stopping, values, monitor)
    assert model.stop_training
    assert epoch == stopping.stopped_epoch == last
    assert "divergence_threshold" in stopping.stop_reason
    assert monitor in stopping.stop_reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("before", [[], [3, 2]])
def test_check_finite_stops_at_once(before, bad):
    stopping = quiet("loss", patience=10)
    model, epoch = drive(stopping, [*before, bad, 1])
    assert model.stop_training
    assert epoch == stopping.stopped_epoch == len(before)
    assert stopping.stop_reason == f"loss = {bad} is not finite"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_without_check_finite_a_bad_epoch_is_one_without_improvement(bad):
    stopping = quiet("loss", patience=2, check_finite=False)
    model, _ = drive(stopping, [3, bad, 2, bad, 1])
    assert not model.stop_training
    assert stopping.best_epoch == 4


def test_without_check_finite_patience_still_ends_on_nan():
    stopping = quiet("loss", patience=2, check_finite=False)
    _, epoch = drive(stopping, [3, np.nan, np.nan, np.nan])
    assert epoch == 2
    assert "not improved for 2 epochs" in stopping.stop_reason


def test_epochs_that_are_not_watched_stop_nothing():
    stopping = quiet("loss", start_from_epoch=3, divergence_threshold=5, stopping_threshold=1)
    _, epoch = drive(stopping, [np.nan, 9, 0, 4, 3, 6])
    assert epoch == 5
    assert "divergence_threshold" in stopping.stop_reason


def test_epochs_without_validation_are_not_counted():
    stopping = quiet("val_loss", patience=1)
    model = FakeModel()
    stopping.set_model(model)
    stopping.on_train_begin()
    stopped = []
    for epoch in range(6):
        stopping.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0} if epoch % 2 else {"loss": 1.0})
        stopped.append(model.stop_training)
    assert stopped == [False, False, False, True, True, True]


def test_a_metric_that_was_never_available_is_warned_of():
    stopping = quiet("val_loss")
    stopping.set_model(FakeModel())
    stopping.on_train_begin()
    stopping.on_epoch_end(0, {"loss": 1.0})
    with pytest.warns(UserWarning, match="val_loss.*loss"):
        stopping.on_train_end({"loss": 1.0})


def test_numbers_of_numpy_are_taken():
    stopping = quiet("loss", patience=np.int64(1), min_delta=np.float32(0.5))
    assert stops(stopping, [np.float32(3), np.float64(2), np.float32(2)]) == 2


def test_a_reason_is_printed_once(capsys):
    lines = []
    drive(EarlyStopping("loss", print_fn=lines.append), [1, 2])
    assert lines == [
        "Epoch 2: early stopping: loss has not improved for 1 epoch (best 1 in epoch 1).",
        "Restored the weights of the best epoch, 1: loss = 1.",
    ]
    assert capsys.readouterr().out == ""


def test_verbose_0_prints_nothing(capsys):
    drive(quiet("loss"), [1, 2])
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------------ best weights


@pytest.mark.parametrize("patience", [1, 10], ids=["stopped", "all_epochs_ran"])
def test_best_weights_are_restored_on_train_end(patience):
    model, _ = drive(quiet("loss", patience=patience), [3, 1, 2])
    assert model.weights == [1]


def test_weights_are_not_touched_before_train_end():
    model, _ = drive(quiet("loss"), [1, 2], end=False)
    assert model.stop_training
    assert model.weights == [1]
    assert model.times_set == 0


def test_restore_twice_changes_nothing():
    stopping = quiet("loss")
    model, _ = drive(stopping, [1, 2])
    model.weights = [99]
    stopping.restore()
    assert model.weights == [99]


def test_without_restore_best_weights_the_last_ones_stay():
    model, _ = drive(quiet("loss", restore_best_weights=False), [1, 2])
    assert model.weights == [1]
    assert model.times_set == 0


def test_of_equally_good_epochs_the_first_is_the_best():
    model, _ = drive(quiet("loss", patience=10), [2, 1, 1, 1])
    assert model.weights == [1]


def test_epochs_before_start_from_epoch_are_not_the_best():
    model, _ = drive(quiet("loss", start_from_epoch=2), [0, 0, 2, 1, 3])
    assert model.weights == [3]


def test_nan_from_the_first_epoch_on_restores_nothing():
    model, _ = drive(quiet("loss", patience=3, check_finite=False), [np.nan, np.nan])
    assert model.weights == [1]


@pytest.mark.parametrize(("mode", "bad"), [("min", -np.inf), ("max", np.inf), ("min", np.nan), ("max", np.nan)])
def test_weights_of_an_epoch_that_is_not_finite_are_not_the_best(mode, bad):
    stopping = quiet("loss", mode=mode, patience=10)
    model, _ = drive(stopping, [1.0, 1.0, bad])
    assert model.weights == [0]
    assert stopping.best == 1.0


# ----------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("monitor", 3),
        ("monitor", ["loss"]),
        ("patience", -1),
        ("patience", 1.5),
        ("patience", "3"),
        ("patience", True),
        ("patience", None),
        ("start_from_epoch", -1),
        ("start_from_epoch", 1.0),
        ("min_delta", "0.1"),
        ("min_delta", None),
        ("min_delta", float("nan")),
        ("mode", "lowest"),
        ("mode", None),
        ("baseline", "1"),
        ("baseline", float("nan")),
        ("stopping_threshold", "1"),
        ("stopping_threshold", True),
        ("divergence_threshold", [1]),
        ("divergence_threshold", float("nan")),
    ],
)
def test_a_wrong_option_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be") as error:
        EarlyStopping(**{"monitor": "loss", name: value})
    assert str(error.value).endswith(f"Received: {name}={value!r}")


def test_mode_auto_infers_the_direction_from_usual_names():
    """By what it does: after 1 comes 2, and the better one is the best."""
    higher = ["accuracy", "val_acc", "auc", "val_precision_1", "recall", "f1_score", "r2_score", "cosine_similarity"]
    lower = ["loss", "val_loss", "mean_absolute_error", "val_mse", "mae", "categorical_crossentropy", "kl_divergence"]
    best = {}
    for name in higher + lower:
        stopping = quiet(name, patience=9)
        drive(stopping, [1, 2], name)
        best[name] = stopping.best
    assert best == {**dict.fromkeys(higher, 2), **dict.fromkeys(lower, 1)}


@pytest.mark.parametrize("name", ["quality", "val_quality"])
def test_mode_auto_refuses_a_name_that_does_not_tell(name):
    with pytest.raises(ValueError, match='`mode` must be "min" or "max"') as error:
        EarlyStopping(name)
    assert repr(name) in str(error.value)
    assert EarlyStopping(name, mode="max").monitor == name


# ---------------------------------------------------------------------------------------------- make_early_stopping


@pytest.mark.parametrize("option", [None, False])
def test_nothing_is_no_early_stopping(option):
    assert make_early_stopping(option, ["val_"], 1) is None


@pytest.mark.parametrize("option", [0, 3, np.int64(3)])
def test_an_int_is_a_patience(option):
    stopping = make_early_stopping(option, ["val_"], 1)
    assert isinstance(stopping, EarlyStopping)
    assert stopping.patience == option


@pytest.mark.parametrize("verbose", [0, 1])
def test_verbose_is_passed_on_for_a_patience(verbose):
    assert make_early_stopping(3, ["val_"], verbose).verbose == verbose


@pytest.mark.parametrize("cls", [EarlyStopping, keras.callbacks.EarlyStopping])
def test_an_object_is_taken_as_it_is(cls):
    stopping = cls(monitor="loss", patience=3)
    assert make_early_stopping(stopping, [], 1) is stopping


@pytest.mark.parametrize(
    ("validates", "monitor"), [(["val_"], "val_loss"), ([], "loss"), (["val_near_", "val_far_"], "val_near_loss")]
)
@pytest.mark.parametrize("option", [2, EarlyStopping(patience=2)])
def test_the_default_monitor_is_val_loss_only_with_validation(option, validates, monitor):
    assert make_early_stopping(option, validates, 1).monitor == monitor


def test_the_default_monitor_of_an_object_is_chosen_for_each_run():
    stopping = EarlyStopping(patience=2)
    monitors = [make_early_stopping(stopping, validates, 1).monitor for validates in (False, ["val_"], False)]
    assert monitors == ["loss", "val_loss", "loss"]


@pytest.mark.parametrize(
    "option", ["3", "val_loss", -1, True, 3.5, [3], {"patience": 2}, keras.callbacks.EarlyStopping]
)
def test_any_other_option_is_refused(option):
    with pytest.raises(ValueError, match="`early_stopping` must be") as error:
        make_early_stopping(option, ["val_"], 1)
    assert f"early_stopping={option!r}" in str(error.value)


@pytest.mark.parametrize(
    "option",
    [EarlyStopping("val_accuracy"), keras.callbacks.EarlyStopping()],
    ids=["ours", "keras"],
)
def test_a_monitor_of_validation_is_refused_without_validation(option):
    with pytest.raises(ValueError, match="no validation data.*monitor='val_"):
        make_early_stopping(option, [], 1)


# --------------------------------------------------------------------------------------------------- in a real model

X, Y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")


def compiled_model(learning_rate, **options):
    """`y = w x` with `w = 1`, and `0` wanted: a step multiplies `w` by `1 - 2 learning_rate`."""
    inputs = keras.Input((1,))
    model = CustomTrainModel(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))
    # Eagerly: nothing here depends on the graph, and a trace takes longer than all the epochs.
    model.compile(keras.optimizers.SGD(learning_rate), "mse", **{"run_eagerly": True, **options})
    return model


def standing_still():
    return compiled_model(0.0)


def diverging():
    """Each epoch doubles the weight and has four times the loss, so the first one is the best: `w = -2` after it."""
    return compiled_model(1.5)


def custom_fit(model, method="custom_fit", **arguments):
    return getattr(model, method)(X, Y, **{"verbose": 0, "epochs": 4, "shuffle": False, **arguments})


class Record(keras.callbacks.Callback):
    """Keeps the weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


class Raise(Record):
    """Raises in one hook, in one epoch; before that it records."""

    def __init__(self, hook, error, epoch=None):
        super().__init__()
        recorded = getattr(self, hook)

        def raising(*args, **kwargs):
            if epoch is None or len(self.weights) == epoch:
                raise error
            recorded(*args, **kwargs)

        setattr(self, hook, raising)


def assert_has_weights(model, weights):
    for mine, other in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(mine, other)


def test_a_patience_of_2_stops_after_two_epochs_without_improvement():
    for options in ({"early_stopping": 2}, {"early_stopping": quiet(patience=2)}):
        history = custom_fit(standing_still(), epochs=10, **options)
        assert history.epoch == [0, 1, 2]
        assert len(history.history["loss"]) == 3
        assert history.stop_reason == "loss has not improved for 2 epochs (best 1 in epoch 1)"


def test_stopping_works_with_a_compiled_graph_and_several_steps_per_execution():
    model = compiled_model(0.0, run_eagerly=False, steps_per_execution=2)
    history = custom_fit(model, epochs=10, batch_size=1, early_stopping=2)
    assert history.epoch == [0, 1, 2]


def test_history_has_no_stop_reason_when_all_epochs_ran():
    assert custom_fit(diverging(), epochs=2, early_stopping=5).stop_reason is None
    assert custom_fit(diverging(), epochs=2).stop_reason is None


def test_the_default_monitor_is_val_loss_with_validation():
    for arguments in ({"validation_data": (X, Y)}, {"validation_split": 0.5}):
        history = custom_fit(standing_still(), epochs=10, early_stopping=1, **arguments)
        assert history.stop_reason.startswith("val_loss ")
        assert history.epoch == [0, 1]


def test_a_monitor_that_does_not_exist_is_refused_in_the_first_epoch():
    record = Record()
    with pytest.raises(ValueError, match=r"'val_lost' is not available for early stopping") as error:
        custom_fit(
            standing_still(),
            callbacks=[record],
            validation_data=(X, Y),
            early_stopping=EarlyStopping("val_lost", mode="min"),
        )
    assert "Available metrics: loss, val_loss. Did you mean 'val_loss'?" in str(error.value)
    assert len(record.weights) == 1


def test_a_monitor_of_validation_without_validation_is_refused_before_the_first_step():
    model = diverging()
    with pytest.raises(ValueError, match="no validation data"):
        custom_fit(model, early_stopping=EarlyStopping("val_loss"))
    assert_has_weights(model, [[[1.0]]])


def test_nan_stops_with_a_reason():
    model = standing_still()
    history = model.custom_fit(X * np.nan, Y, epochs=5, verbose=0, early_stopping=3)
    assert history.epoch == [0]
    assert history.stop_reason == "loss = nan is not finite"


def test_verbose_1_prints_why_training_stopped(capsys):
    custom_fit(standing_still(), early_stopping=1, verbose=2)
    assert "Epoch 2: early stopping: loss has not improved for 1 epoch" in capsys.readouterr().out


def test_verbose_0_is_silent(capsys):
    custom_fit(standing_still(), early_stopping=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("patience", [1, 10], ids=["stopped", "all_epochs_ran"])
def test_the_model_ends_with_its_best_weights(patience):
    record, model = Record(), diverging()
    history = custom_fit(model, callbacks=[record], early_stopping=patience)
    assert len(record.weights) == len(history.epoch) == (2 if patience == 1 else 4)
    assert_has_weights(model, record.weights[0])
    assert np.any(record.weights[0][0] != record.weights[1][0])


@pytest.mark.parametrize(
    ("hook", "epoch", "error"),
    [
        ("on_train_batch_end", 2, KeyboardInterrupt()),
        ("on_epoch_begin", 2, KeyboardInterrupt()),
        ("on_epoch_end", 2, KeyboardInterrupt()),
        ("on_epoch_end", 2, OSError("disk full")),
        ("on_train_batch_end", 2, OSError("disk full")),
        ("on_train_end", None, OSError("disk full")),
        ("on_train_end", None, KeyboardInterrupt()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_the_model_has_its_best_weights_also_after_an_exception(hook, epoch, error):
    raises, model = Raise(hook, error, epoch), diverging()
    with pytest.raises(type(error)) as caught:
        custom_fit(model, callbacks=[raises], early_stopping=10)
    assert caught.value is error
    assert len(raises.weights) == (4 if epoch is None else 2)
    assert_has_weights(model, raises.weights[0])


def test_an_exception_in_the_first_epoch_leaves_the_weights_as_they_are():
    model = diverging()
    with pytest.raises(KeyboardInterrupt):
        custom_fit(model, callbacks=[Raise("on_train_batch_end", KeyboardInterrupt())], early_stopping=1)
    assert_has_weights(model, [[[-2.0]]])


def test_without_restore_best_weights_an_exception_leaves_the_last_weights():
    raises, model = Raise("on_epoch_begin", KeyboardInterrupt(), 2), diverging()
    with pytest.raises(KeyboardInterrupt):
        custom_fit(model, callbacks=[raises], early_stopping=EarlyStopping(patience=9, restore_best_weights=False))
    assert_has_weights(model, raises.weights[-1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("patience", [1, 10], ids=["stopped", "all_epochs_ran"])
def test_ours_works_as_a_callback(patience, method):
    record, model = Record(), diverging()
    stopping = quiet(patience=patience)
    history = custom_fit(model, method, callbacks=[record, stopping])
    assert len(history.epoch) == (2 if patience == 1 else 4)
    assert (stopping.stop_reason is None) == (patience == 10)
    assert_has_weights(model, record.weights[0])


@pytest.mark.parametrize("option", ["early_stopping", "callbacks"])
def test_keras_own_works_as_an_option_and_as_a_callback(option):
    record, model = Record(), diverging()
    stopping = keras.callbacks.EarlyStopping("loss", mode="min", patience=2, restore_best_weights=True)
    arguments = {"callbacks": [record], "early_stopping": stopping}
    history = custom_fit(model, **(arguments if option == "early_stopping" else {"callbacks": [record, stopping]}))
    assert history.epoch == [0, 1, 2]
    assert stopping.stopped_epoch == 2
    assert_has_weights(model, record.weights[0])


def test_epochs_without_validation_do_not_use_up_patience():
    arguments = {"epochs": 10, "validation_data": (X, Y), "validation_freq": 2}
    for option in (1, EarlyStopping("val_loss", patience=1), keras.callbacks.EarlyStopping("val_loss", patience=1)):
        history = custom_fit(standing_still(), early_stopping=option, **arguments)
        assert history.epoch == [0, 1, 2, 3]
        assert len(history.history["val_loss"]) == 2


def test_early_stopping_starts_over_in_a_second_custom_fit():
    stopping, model = quiet("loss", patience=1), standing_still()
    assert [custom_fit(model, early_stopping=stopping).epoch for _ in range(2)] == [[0, 1], [0, 1]]
