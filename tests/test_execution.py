"""Compiled steps: traced once, whatever is trained and however often."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(96)


def counting(base=CustomTrainModel):
    """A model that counts how often its steps are traced."""

    class Counting(base):
        train_traces = 0
        test_traces = 0

        def train_step(self, data):
            type(self).train_traces += 1
            return super().train_step(data)

        def test_step(self, data):
            type(self).test_traces += 1
            return super().test_step(data)

    return Counting


def train(cls, how, arguments, **options):
    keras.utils.set_random_seed(0)
    model = models.dense(cls)
    model.compile("adam", "sparse_categorical_crossentropy", **options)
    getattr(model, how)(X, Y, verbose=0, validation_data=(X[:40], Y[:40]), **arguments)
    return model


@pytest.mark.parametrize("steps_per_execution", [1, 2, 4])
@pytest.mark.parametrize("rows", [96, 70], ids=["even", "ragged"])
def test_fifty_epochs_and_further_calls_trace_no_more_than_one_epoch(steps_per_execution, rows):
    cls = counting()
    keras.utils.set_random_seed(0)
    model = models.dense(cls)
    model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=steps_per_execution)
    arguments = {"x": X[:rows], "y": Y[:rows], "validation_data": (X[:40], Y[:40]), "verbose": 0}
    model.custom_fit(**arguments)
    traced = cls.train_traces, cls.test_traces
    model.custom_fit(epochs=50, **arguments)
    model.custom_fit(epochs=2, **arguments)
    assert (cls.train_traces, cls.test_traces) == traced


def test_no_more_traces_than_fit_makes():
    ours, theirs = counting(), counting()
    train(ours, "custom_fit", {"epochs": 3})
    train(theirs, "fit", {"epochs": 3})
    assert ours.train_traces <= theirs.train_traces
    assert ours.test_traces <= theirs.test_traces


def test_data_of_another_length_traces_no_step_again():
    cls = counting()
    model = train(cls, "custom_fit", {})
    traced = cls.train_traces
    model.custom_fit(X[:64], Y[:64], verbose=0)
    assert cls.train_traces == traced


def test_compile_again_changes_what_a_step_does():
    model = train(CustomTrainModel, "custom_fit", {})
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.custom_fit(X, Y, verbose=0)
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("switch", ["model.run_eagerly", "tf.config"])
def test_eager_can_be_switched_on_between_calls(switch):
    eager = []

    class Watch(CustomTrainModel):
        def train_step(self, data):
            eager.append(tf.executing_eagerly())
            return super().train_step(data)

    model = train(Watch, "custom_fit", {})
    assert not any(eager)
    eager.clear()
    if switch == "tf.config":
        tf.config.run_functions_eagerly(True)
    else:
        model.run_eagerly = True
    model.custom_fit(X, Y, verbose=0)
    assert eager == [True] * 3


def test_logs_stay_on_the_device_until_someone_looks():
    """No step's logs are turned into numbers while no callback has a batch hook and no progress bar is shown."""
    from customfit import compat

    read = []
    original = compat.to_host
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compat, "to_host", lambda logs: read.append(logs) or original(logs))
        model.custom_fit(X, Y, batch_size=2, verbose=0, log_every=16)
    # 48 steps: three lines, and the epoch's own logs from the last step and from the metrics.
    assert len(read) == 3 + 2
