"""On two replicas `custom_predict` returns the rows in their order, as `predict` does."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.test_prediction import OUTPUTS, Recorder, Returns, described

X, _ = models.rows(70)


def under(strategy, build, base=CustomTrainModel):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        return build(base)


@pytest.mark.supports("Prediction", "several replicas: rows come back in their order")
@pytest.mark.parametrize("build", [models.dense, models.two_outputs, models.batch_norm, models.subclassed])
@pytest.mark.parametrize("rows", [64, 70, 5, 1])
def test_rows_come_back_in_order(strategy, one_device, build, rows):
    """Products of other numbers of rows may be rounded differently."""
    x = X[:rows]
    ours = under(strategy, build).custom_predict(x, batch_size=16, verbose=0)
    alone = under(one_device, build).custom_predict(x, batch_size=16, verbose=0)
    for mine, other in zip(tf.nest.flatten(ours), tf.nest.flatten(alone)):
        assert len(mine) == rows
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("build", [models.dense, models.two_outputs, models.batch_norm])
def test_it_is_what_predict_returns(strategy, build):
    model = under(strategy, build)
    for arguments in ({"x": X[:64], "batch_size": 16}, {"x": tf.data.Dataset.from_tensor_slices(X[:64]).batch(16)}):
        ours, theirs = (getattr(model, how)(**arguments, verbose=0) for how in ("custom_predict", "predict"))
        assert described(ours) == described(theirs)


# `predict` does not take sparse outputs on replicas, nor those of which each replica has another width.
NOT_ON_REPLICAS = {"sparse", "as wide as the batch", "other rows than the inputs"}


@pytest.mark.parametrize("name", [name for name in OUTPUTS if name not in NOT_ON_REPLICAS])
def test_outputs(strategy, one_device, name):
    """Of an output that has no rows, such as a scalar, there is one for each replica."""
    ours = under(strategy, lambda _: Returns(OUTPUTS[name])).custom_predict(X[:64], batch_size=16, verbose=0)
    if name == "scalar":
        np.testing.assert_allclose(ours, [X[begin : begin + 8].sum() for begin in range(0, 64, 8)], rtol=1e-5)
        return
    theirs = under(one_device, lambda _: Returns(OUTPUTS[name])).custom_predict(X[:64], batch_size=16, verbose=0)
    assert described(ours) == described(theirs)


def test_eagerly(strategy):
    model = under(strategy, models.dense)
    compiled = model.custom_predict(X, batch_size=16, verbose=0)
    with strategy.scope():
        model.compile(run_eagerly=True)
    np.testing.assert_allclose(model.custom_predict(X, batch_size=16, verbose=0), compiled, rtol=1e-6)


def test_callbacks_hear_of_all_rows(strategy):
    recorder = Recorder()
    under(strategy, models.dense).custom_predict(X[:32], batch_size=16, verbose=0, callbacks=[recorder])
    assert [call[:2] for call in recorder.calls[1:-1]] == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]


def test_a_dataset_that_is_distributed_already(strategy):
    data = tf.data.Dataset.from_tensor_slices(X[:64]).batch(16)
    model = under(strategy, models.dense)
    ours = model.custom_predict(strategy.experimental_distribute_dataset(data), steps=4, verbose=0)
    np.testing.assert_array_equal(ours, model.custom_predict(data, verbose=0))


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 makes its dropout's state a variable")
def test_random_ops_on_replicas_are_left_as_they_are(strategy, recwarn):
    model = under(strategy, lambda _: Returns(lambda x: x + tf.random.uniform(tf.shape(x))))
    drawn = model.custom_predict(X[:64], batch_size=64, verbose=0) - X[:64]
    assert len(np.unique(drawn)) > 500
    assert not [warning for warning in recwarn if "resumed run" in str(warning.message)]
