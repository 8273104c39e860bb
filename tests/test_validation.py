"""Validation every so many steps: the training metrics count on, and everybody who should hears of it."""

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, Every
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import assert_equal, train

X, Y = models.rows(64)
V, W = models.rows(40, seed=1)
ROWS = {"x": X, "y": Y, "validation_data": (V, W)}
supports = pytest.mark.supports


@supports("Validation", "`validation_freq=Every(steps=)`: within an epoch", fit="no")
@pytest.mark.parametrize("build", [models.dropout, models.batch_norm])
def test_training_and_its_metrics_are_those_of_a_run_without_validation(build):
    ours = train(build, "custom_fit", {**ROWS, "validation_freq": Every(steps=3)})
    theirs = train(build, "fit", {"x": X, "y": Y}, base=keras.Model)
    logs = ours[1].history
    ours[1].history = {name: values for name, values in logs.items() if not name.startswith("val_")}
    assert_equal(ours, theirs)


def test_each_pass_is_what_evaluate_gives_after_so_many_steps():
    _, history = train(models.dropout, "custom_fit", {**ROWS, "validation_freq": Every(steps=3)})
    assert [(entry["step"], entry["epoch"]) for entry in history.validation] == [(3, 0), (6, 1), (9, 2), (12, 2)]
    for entry in history.validation:
        model, _ = train(models.dropout, "custom_fit", {"x": X, "y": Y, "max_steps": entry["step"]})
        expected = model.evaluate(V, W, batch_size=16, verbose=0, return_dict=True)
        assert {name: entry[f"val_{name}"] for name in expected} == expected
    # an epoch's logs: its last pass
    assert history.history["val_loss"] == [history.validation[index]["val_loss"] for index in (0, 1, 3)]


def test_callbacks_and_early_stopping_hear_of_each_pass_with_its_step():
    heard = []

    class Hears(keras.callbacks.Callback):
        def on_validation_end(self, step, logs):
            heard.append((step, logs["val_loss"]))

    stopping = EarlyStopping("val_loss", mode="max", patience=2, verbose=0)  # the loss falls: step 2 stays the best
    stopped = {
        **ROWS,
        "validation_freq": Every(steps=2),
        "callbacks": [Hears()],
        "early_stopping": stopping,
        "epochs": 9,
    }
    model, history = train(models.dense, "custom_fit", stopped)
    assert heard == [(entry["step"], entry["val_loss"]) for entry in history.validation]
    assert [step for step, _ in heard] == [2, 4, 6]
    assert (stopping.best_step, stopping.stopped_step, stopping.wait) == (2, 6, 2)
    assert "has not improved for 2 validations (best" in history.stop_reason
    assert history.stop_reason.endswith("at step 2)")
    best, _ = train(models.dense, "custom_fit", {"x": X, "y": Y, "max_steps": 2})
    for mine, other in zip(model.get_weights(), best.get_weights()):
        np.testing.assert_array_equal(mine, other)  # the best weights are back


def test_it_holds_beside_a_callback_that_hears_steps():
    listener = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    _, history = train(models.dense, "custom_fit", {**ROWS, "validation_freq": Every(steps=3), "callbacks": [listener]})
    assert [entry["step"] for entry in history.validation] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_freq": 0, "validation_data": (V, W)}, "`validation_freq` must be a positive integer"),
        ({"validation_freq": 2.5, "validation_data": (V, W)}, "`validation_freq` must be a positive integer"),
        ({"validation_freq": Every(steps=2)}, r"`validation_freq=Every\(steps=2\)` needs validation data"),
    ],
)
def test_wrong_options(arguments, message):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message):
        model.custom_fit(X, Y, verbose=0, **arguments)
