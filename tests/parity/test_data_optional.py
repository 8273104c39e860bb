"""Batches that hold `None` for an optional input of a functional model: as under `fit`."""

import inspect

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled, train

X, Y = models.rows()
GENERATORS = compat.IS_KERAS_3 and compat.KERAS_VERSION >= (3, 13)
supports = pytest.mark.supports
pytestmark = pytest.mark.skipif(
    "optional" not in inspect.signature(keras.Input).parameters, reason="this Keras has no optional inputs"
)


class Merge(keras.layers.Layer):
    def call(self, left, right=None):
        return left if right is None else left + right


def build(cls):
    inputs = keras.Input((8,), name="left"), keras.Input((8,), name="right", optional=True)
    return cls(list(inputs), keras.layers.Dense(3, activation="softmax")(Merge()(*inputs)))


def generate():
    for begin in range(0, 64, 16):
        yield (X[begin : begin + 16], None), Y[begin : begin + 16]


def pieces():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


DATA = {
    "generator": lambda: {"x": generate(), "epochs": 1},
    "generator to validate on": lambda: {"x": [X, None], "y": Y, "batch_size": 16, "validation_data": generate()},
    "dataset": lambda: {"x": pieces().map(lambda x, y: ((x, None), y)), "epochs": 2},
    "dataset of unknown size": lambda: {"x": pieces().map(lambda x, y: ((x, None), y)).filter(lambda *_: True)},
    "slices": lambda: {"x": tf.data.Dataset.from_tensor_slices(((X, None), Y)).batch(16)},
    "arrays": lambda: {"x": [X, None], "y": Y, "batch_size": 16},
}


@supports("Data", "`None` for an optional input, in batches of any kind", fit="Keras 3", keras=3)
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}, {"jit_compile": True}])
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_left_out_inputs(kind, options):
    if "generator" in kind and not GENERATORS:
        pytest.skip("fit of this Keras takes none from a generator")
    if kind == "generator to validate on" and options:
        pytest.skip("one kind of step is enough")
    if kind == "dataset of unknown size" and "steps_per_execution" in options and not compat.IS_KERAS_3:
        pytest.skip("Keras 2 takes no dataset of unknown size here")
    given = lambda: {"batch_size": None, **DATA[kind]()}
    options = {"optimizer": "sgd", **options}  # `fit` counts the end of a dataset of unknown size as an iteration
    assert_equal(train(build, "custom_fit", given, **options), train(build, "fit", given, base=keras.Model, **options))


@pytest.mark.skipif(not GENERATORS, reason="fit of this Keras takes none from a generator")
def test_a_run_on_left_out_inputs_resumes(tmp_path):
    def run(**arguments):
        keras.utils.set_random_seed(SEED)
        model = compiled(build, CustomTrainModel)
        return model, model.custom_fit(generate(), epochs=1, steps_per_epoch=4, verbose=0, **arguments)

    whole = run()
    run(checkpoint=tmp_path, max_steps=2)
    with pytest.warns(UserWarning, match="position of the data cannot be restored"):
        resumed = run(checkpoint=tmp_path)
    for ours, theirs in zip(resumed[0].get_weights(), whole[0].get_weights()):
        np.testing.assert_array_equal(ours, theirs)
