"""Bad input: a clear error before the first step, with the model untouched."""

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping
from customfit.compat import tf
from tests.parity import models

X, Y = models.rows()


@pytest.fixture
def model():
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def untouched(model):
    weights = model.get_weights()
    yield
    for now, before in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, before)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"`x` must be given"),
        ({"x": X, "y": Y[:-1]}, r"same number of rows. Received: x: 70, y: 69"),
        ({"x": X, "y": Y, "sample_weight": np.ones(3)}, r"same number of rows. Received: .*sample_weight: 3"),
        ({"x": X[:0], "y": Y[:0]}, r"at least one row. Received: x: 0, y: 0"),
        ({"x": X, "y": Y, "epochs": -1}, r"`epochs` must be an integer, 0 or more. Received: epochs=-1"),
        ({"x": X, "y": Y, "epochs": 2.5}, r"`epochs` must be an integer, 0 or more. Received: epochs=2.5"),
        ({"x": X, "y": Y, "initial_epoch": -1}, r"`initial_epoch`"),
        ({"x": X, "y": Y, "batch_size": 0}, r"`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"x": X, "y": Y, "steps_per_epoch": 0}, r"`steps_per_epoch` must be a positive integer"),
        ({"x": X, "y": Y, "validation_split": 1.5}, r"`validation_split` must be between 0 and 1. Received: .*1.5"),
        ({"x": X, "y": Y, "validation_freq": 0}, r"`validation_freq` must be a positive integer"),
        ({"x": X, "y": Y, "validation_data": (X, Y[:-1])}, r"same number of rows"),
        (
            {"x": X, "y": Y, "early_stopping": "3"},
            r"`early_stopping` must be a patience.* Received: early_stopping='3'",
        ),
        (
            {"x": X, "y": Y, "early_stopping": EarlyStopping("val_loss")},
            r"no validation data. .* Received: monitor='val_loss'",
        ),
        ({"x": X, "y": Y, "log_every": 0}, r"`log_every` must be a positive integer. Received: log_every=0"),
    ],
)
def test_wrong_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.custom_fit(verbose=0, **arguments)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("size", ["known", "unknown"])
def test_an_empty_dataset(model, size):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    data = data.take(0) if size == "known" else data.filter(lambda x, y: False)
    with pytest.raises(ValueError, match="at least one batch|non-empty"):
        model.custom_fit(data, verbose=0)


@pytest.mark.usefixtures("untouched")
def test_an_endless_dataset_without_steps(model):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.custom_fit(data, verbose=0)


def test_no_compile():
    with pytest.raises(RuntimeError, match="must be compiled"):
        models.dense(CustomTrainModel).custom_fit(X, Y)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("argument", ["metrics", "weighted_metrics"])
def test_a_metric_misspelt(model, argument):
    with pytest.raises(ValueError, match="Did you mean 'accuracy'.* Received: 'acuracy'"):
        model.compile("adam", "mse", **{argument: ["mae", "acuracy"]})
    assert model.custom_fit(X, Y, epochs=0, verbose=0).epoch == []  # it is compiled as it was


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipnorm": 1.0, "clipvalue": 1.0}, r"At most one of .* Received: clipvalue=1.0, clipnorm=1.0"),
        ({"clipvalue": -1}, r"`clipvalue` must be a positive number. Received: clipvalue=-1"),
        ({"global_clipnorm": 0.0}, r"`global_clipnorm` must be a positive number. Received: global_clipnorm=0.0"),
        (
            {"adaptive_clip": "0.01"},
            r"`adaptive_clip` must be a positive number or an `AdaptiveClip`. Received: adaptive_clip='0.01'",
        ),
    ],
)
def test_wrong_clips(model, options, message):
    optimizer = model.optimizer
    with pytest.raises(ValueError, match=message):
        model.compile("sgd", "mse", **options)
    assert model.optimizer is optimizer
    assert model.gradient_clip is None
