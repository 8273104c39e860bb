"""`AveragedWeights`: the mean over epochs, statistics of batch normalization put right, the better of the two."""

import numpy as np
import pytest

from customfit import EarlyStopping
from customfit.callbacks import AveragedWeights
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import compiled, train
from tests.resume.cut import assert_resumes

X, Y = models.rows(70)
METHODS = ("fit", "custom_fit")


class Watch(keras.callbacks.Callback):
    """The weights after each epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


@pytest.mark.supports("Callbacks", "`AveragedWeights`: the mean over epochs, or the optimizer's moving average")
@pytest.mark.parametrize("how", METHODS)
def test_the_average_is_the_mean_over_epochs(how):
    watch, averaged = Watch(), AveragedWeights(start_epoch=1)
    model, _ = train(models.dense, how, {"x": X, "y": Y, "callbacks": [watch, averaged], "epochs": 4})
    for index, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(weight, np.mean([epoch[index] for epoch in watch.weights[1:]], axis=0), rtol=1e-5)
    assert averaged.kept == "averaged"


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("ema", [False, True])
def test_what_is_trained_is_not_touched(how, ema):
    watch, alone = Watch(), Watch()
    averaged = AveragedWeights(ema=ema, data=X, validation_data=(X, Y))
    options = {"optimizer": lambda: keras.optimizers.Adam(0.01, use_ema=ema, ema_momentum=0.5)}
    build = models.batch_norm
    _, history = train(build, how, {"x": X, "y": Y, "callbacks": [watch, averaged]}, **options)
    _, other = train(build, how, {"x": X, "y": Y, "callbacks": [alone]}, **options)
    for mine, theirs in zip(watch.weights, alone.weights):
        for one, two in zip(mine, theirs):
            np.testing.assert_array_equal(one, two)
    assert {name: values for name, values in history.history.items() if "averaged" not in name} == other.history
    assert len(history.history["averaged_loss"]) == 3


def test_the_moving_average_is_the_optimizer_s():
    options = {"optimizer": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)}
    model, _ = train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [AveragedWeights(ema=True)]}, **options)
    alone, _ = train(models.dense, "custom_fit", {"x": X, "y": Y}, **options)  # Keras ends with its moving average
    for mine, theirs in zip(model.get_weights(), alone.get_weights()):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_statistics_are_those_of_the_averaged_weights():
    model, _ = train(models.batch_norm, "custom_fit", {"x": X, "y": Y, "callbacks": [AveragedWeights(data=X)]})
    dense, normalization = model.layers[1:3]
    hidden = np.asarray(dense(X))
    batches = [hidden[begin : begin + 32] for begin in range(0, 70, 32)]
    mean, variance = (np.asarray(value) for value in (normalization.moving_mean, normalization.moving_variance))
    np.testing.assert_allclose(mean, np.mean([batch.mean(0) for batch in batches], axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, np.mean([batch.var(0) for batch in batches], axis=0), rtol=0.1)
    assert normalization.momentum == 0.99


@pytest.mark.parametrize("rate", [0.001, 50.0])
def test_the_model_ends_with_the_better_of_the_two(rate):
    averaged = AveragedWeights(validation_data=(X, Y))
    optimizer = lambda: keras.optimizers.Adam(rate)
    model, _ = train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [averaged]}, optimizer=optimizer)
    losses = {which: metrics["loss"] for which, metrics in averaged.results.items()}
    assert model.evaluate(X, Y, verbose=0)[0] == pytest.approx(min(losses.values()), rel=1e-5)
    assert averaged.kept == min(losses, key=losses.get)


def test_early_stopping_can_monitor_it():
    stopping = EarlyStopping("averaged_loss", patience=1, restore_best_weights=False, min_delta=100)
    averaged = AveragedWeights(validation_data=(X, Y))
    history = compiled(models.dense).custom_fit(
        X, Y, epochs=9, verbose=0, callbacks=[averaged], early_stopping=stopping
    )
    assert len(history.epoch) == 2


def test_early_stopping_must_not_put_other_weights_in_its_place():
    with pytest.raises(ValueError, match="`restore_best_weights=False`"):
        compiled(models.dense).custom_fit(X, Y, verbose=0, callbacks=[AveragedWeights()], early_stopping=1)


@pytest.mark.parametrize("ema", [False, True])
def test_it_is_resumed(tmp_path, ema):
    averaged = lambda: AveragedWeights(0 if ema else 1, ema=ema, validation_data=(X, Y))
    arguments = lambda: {"x": X, "y": Y, "epochs": 4, "callbacks": [averaged()]}
    optimizer = lambda: keras.optimizers.Adam(0.01, use_ema=ema, ema_momentum=0.5)
    assert_resumes(models.dropout, arguments, tmp_path, cuts=(7, 12), optimizer=optimizer)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"`AveragedWeights\(data=\)` must be given"):
        train(models.batch_norm, "custom_fit", {"x": X, "y": Y, "callbacks": [AveragedWeights()]})
    with pytest.raises(ValueError, match="pass `use_ema=True`"):
        train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [AveragedWeights(ema=True)]})
    with pytest.raises(ValueError, match="`monitor` must be one of.*'val_loss'"):
        callback = AveragedWeights(validation_data=(X, Y), monitor="val_loss")
        train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [callback]})
