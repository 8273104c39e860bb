"""`check_parity` says that equal is equal, and names what differs, where first and by how much."""

import numpy as np
import pytest

from customfit import CustomTrainModel, testing
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows()


def model_fn(cls=CustomTrainModel):
    model = models.dropout(cls)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize(
    "data",
    [(X, Y), (X, Y, np.ones(len(X))), lambda: (X, Y), lambda: {"x": X, "y": Y, "batch_size": 8}],
    ids=["x, y", "weights", "function", "arguments"],
)
def test_equal_is_equal(data):
    report = testing.check_parity(model_fn, data, reference_fn=lambda: model_fn(keras.Model), validation_split=0.2)
    assert report
    assert report.equal
    assert repr(report) == "ParityReport(fit() and custom_fit() agree)"


def test_datasets_and_callbacks_are_taken_as_fit_takes_them():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1.0)
    assert testing.check_parity(model_fn, data, callbacks=stop, epochs=4)


class Swerves(CustomTrainModel):
    """Trains otherwise than plain Keras from its third step on."""

    def transform_gradients(self, gradients, variables):
        late = tf.cast(self.optimizer.iterations >= 2, tf.float32)
        return [gradients[0] * (1.0 + late), *gradients[1:]]


def test_the_first_step_and_variable_that_differ_are_named():
    report = testing.check_parity(
        lambda: model_fn(Swerves), (X, Y), reference_fn=lambda: model_fn(keras.Model), batch_size=35, epochs=3
    )
    assert not report
    assert (report.epoch, report.step) == (1, 0)  # the third step, two to an epoch
    assert "kernel" in report.variable
    assert report.difference > 0
    assert f"{report.variable} differs by up to {report.difference:.3g} after step 0 of epoch 1" in report.message


def test_data_that_is_not_reproducible_is_told_from_a_loop_that_differs():
    calls = iter(range(100))
    report = testing.check_parity(model_fn, lambda: (X + next(calls), Y))
    assert not report
    assert "fit() differs from itself" in report.message
    assert report.step is None


def test_rounding_is_allowed_where_asked():
    class Rounded(CustomTrainModel):
        def transform_gradients(self, gradients, variables):
            return [gradient * (1 + 1e-6) for gradient in gradients]

    def build(cls):
        model = models.dense(cls)
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    arguments = {"data": (X, Y), "reference_fn": lambda: build(keras.Model)}
    assert not testing.check_parity(lambda: build(Rounded), **arguments)
    assert testing.check_parity(lambda: build(Rounded), rtol=1e-4, **arguments)
