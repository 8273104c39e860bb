"""The learning rate in logs and History: what the last update used, whatever has set it."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train
from tests.resume.cut import assert_resumes

X, Y = models.rows(70)
METHODS = ("fit", "custom_fit")
SGD = keras.optimizers.SGD


def history(how, callbacks=(), **options):
    arguments = {"x": X, "y": Y, "callbacks": list(callbacks), "validation_data": (X, Y)}
    _, trained = train(models.dense, how, arguments, **{"gradient_metrics": "learning_rate", **options})
    return trained.history


@pytest.mark.parametrize("how", METHODS)
def test_a_schedule_s_rate_is_that_of_the_epoch_s_last_update(how):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    rates = history(how, optimizer=SGD(schedule))["learning_rate"]
    np.testing.assert_allclose(rates, [0.1 * 0.5**last for last in (4, 9, 14)], rtol=1e-5)


@pytest.mark.parametrize("how", METHODS)
def test_a_callback_s_rate(how):
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))
    rates = history(how, [scheduler], optimizer=SGD(0.5))["learning_rate"]
    np.testing.assert_allclose(rates, [0.1, 0.05, 0.1 / 3], rtol=1e-6)


@pytest.mark.parametrize("how", METHODS)
def test_each_group_has_its_own(how):
    groups = [("kernel", SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))), ("bias", SGD(0.3))]
    found = history(how, optimizer=groups)
    np.testing.assert_allclose(found["learning_rate/kernel"], [0.1 * 0.5**last for last in (4, 9, 14)], rtol=1e-5)
    np.testing.assert_allclose(found["learning_rate/bias"], [0.3] * 3)
    assert "learning_rate" not in found


def test_it_changes_no_number():
    ours = train(models.dropout, "custom_fit", {"x": X, "y": Y}, optimizer="adam", gradient_metrics="learning_rate")
    assert ours[1].history.pop("learning_rate") == [pytest.approx(0.001)] * 3
    assert_equal(ours, train(models.dropout, "fit", {"x": X, "y": Y}, keras.Model, optimizer="adam"))


def test_with_accumulation_and_a_loss_scale():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    rates = history("custom_fit", optimizer=SGD(schedule), gradient_accumulation_steps=2)["learning_rate"]
    np.testing.assert_allclose(rates, [0.1 * 0.5**last for last in (2, 5, 8)], rtol=1e-5)  # three updates an epoch
    scaled = keras.mixed_precision.LossScaleOptimizer(SGD(0.25))
    np.testing.assert_allclose(history("custom_fit", optimizer=scaled)["learning_rate"], [0.25] * 3)


def test_two_optimizers_of_one_step_have_one_each():
    class Two(CustomTrainModel):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
            variables = self.trainable_variables
            for optimizer, some in ((self.optimizer, variables[:2]), (self.second, variables[2:])):
                self.apply_gradients(self.compute_gradients(loss, tape, some, optimizer), some, optimizer)
            return {"loss": loss}

    model = compiled(models.dense, Two, optimizer=SGD(0.1), gradient_metrics="learning_rate", metrics=None)
    model.second = SGD(0.2)
    logs = model.custom_fit(X, Y, verbose=0).history
    assert logs["learning_rate"] == [pytest.approx(0.1)]
    assert logs["learning_rate#2"] == [pytest.approx(0.2)]


def test_it_is_resumed(tmp_path):
    schedule = lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9))
    options = {"optimizer": schedule, "gradient_metrics": ["learning_rate", "grad_norm"]}
    assert_resumes(models.dense, {"x": X, "y": Y}, tmp_path, cuts=(7,), **options)


def test_it_is_in_the_logs_of_batches():
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history("custom_fit", [watch], optimizer=SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)))
    np.testing.assert_allclose([float(logs["learning_rate"]) for logs in seen], 0.1 * 0.5 ** np.arange(15), rtol=1e-5)
