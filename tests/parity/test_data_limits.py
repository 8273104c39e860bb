"""Keras's global limits, `keras.config.set_max_epochs` and `set_max_steps_per_epoch`: `custom_fit` keeps to them."""

import os
import subprocess
import sys

import pytest

from customfit.compat import keras, tf
from customfit.data import ArraySource
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows()
supports = pytest.mark.supports
pytestmark = [
    pytest.mark.skipif(
        not hasattr(getattr(keras, "config", None), "set_max_epochs"), reason="this Keras has no global limits"
    ),
    pytest.mark.filterwarnings("ignore:(Limiting|.*ran out of data)"),
]


@pytest.fixture(params=[(2, None), (None, 3), (2, 2), (9, 9)], ids=["epochs", "steps", "both", "neither"])
def limits(request):
    epochs, steps = request.param
    keras.config.set_max_epochs(epochs)
    keras.config.set_max_steps_per_epoch(steps)
    yield request.param
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "validation_data": (X, Y)},
    "arrays without a batch size": lambda: {"x": X, "y": Y, "batch_size": None},
    "dataset": lambda: {"x": batches(), "batch_size": None, "validation_data": batches()},
    "steps": lambda: {"x": X, "y": Y, "steps_per_epoch": 2, "validation_data": (X, Y), "validation_steps": 2},
}


@supports("Data", "`keras.config.set_max_epochs`, `set_max_steps_per_epoch`", keras=3)
@pytest.mark.parametrize("kind", DATA)
def test_global_limits(kind, limits):
    ours = train(models.dense, "custom_fit", DATA[kind])
    theirs = train(models.dense, "fit", DATA[kind], base=keras.Model)
    assert_equal(ours, theirs)
    assert len(ours[1].epoch) == (2 if limits[0] == 2 else 3)
    evaluated = theirs[0].evaluate(X, Y, batch_size=16, verbose=0)
    assert ours[0].custom_evaluate(X, Y, batch_size=16, verbose=0) == evaluated


def test_a_source_is_limited_too(limits):
    arrays = train(models.dense, "custom_fit", {"x": X, "y": Y})
    source = {"x": ArraySource(X, Y, batch_size=16), "batch_size": None, "shuffle": True}
    assert_equal(train(models.dense, "custom_fit", source), arrays)


@pytest.mark.parametrize("limits", [(2, 2)], indirect=True)
def test_a_limit_that_bounds_something_is_said(limits):
    model = compiled(models.dense)
    with pytest.warns(UserWarning, match=r"Limiting epochs to 2, as set by `keras.config.set_max_epochs\(2\)`"):
        model.custom_fit(X, Y, epochs=3, verbose=0)
    with pytest.warns(UserWarning, match="Limiting steps_per_epoch to 2"):
        model.custom_fit(X, Y, verbose=0)
    with pytest.warns(UserWarning, match="Limiting validation_steps to 2"):
        model.custom_fit(X, Y, validation_data=(X, Y), verbose=0)
    with pytest.warns(UserWarning, match="Limiting steps to 2"):
        model.custom_evaluate(X, Y, verbose=0)


@pytest.mark.slow
def test_the_environment_s_limits():
    code = """
import numpy as np
from customfit import CustomTrainModel
from customfit.compat import keras
inputs = keras.Input((2,))
model = CustomTrainModel(inputs, keras.layers.Dense(1)(inputs))
model.compile("sgd", "mse")
model.custom_fit(np.ones((64, 2)), np.ones((64, 1)), batch_size=8, epochs=5, verbose=0)
print("steps", int(model.optimizer.iterations.numpy()))
"""
    environment = {**os.environ, "KERAS_MAX_EPOCHS": "2", "KERAS_MAX_STEPS_PER_EPOCH": "3"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "steps 6" in found.stdout
