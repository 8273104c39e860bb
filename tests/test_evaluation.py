"""`custom_evaluate` returns what `evaluate` returns, and moves no weight."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled, train
from tests.parity.test_callbacks import Recorder

X, Y = models.rows(70)
WEIGHT = np.linspace(0, 1, 70)


@pytest.fixture(
    scope="module",
    params=[None, ["accuracy"], ["accuracy", "sparse_categorical_crossentropy"]],
    ids=["loss", "one", "two"],
)
def trained(request):
    """A model with so many metrics."""
    return train(models.batch_norm, "fit", {"x": X, "y": Y, "epochs": 1}, metrics=request.param)[0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": X, "y": Y},
        {"x": X, "y": Y, "batch_size": 16},
        {"x": X, "y": Y, "batch_size": 16, "steps": 2},
        {"x": X, "y": Y, "sample_weight": WEIGHT},
        {"x": X, "y": Y, "return_dict": True},
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)},
    ],
    ids=["arrays", "batch_size", "steps", "sample_weight", "return_dict", "dataset"],
)
def test_the_same_values_as_evaluate(arguments, trained):
    model = trained
    weights = model.get_weights()
    theirs = model.evaluate(**arguments, verbose=0)
    ours = model.custom_evaluate(**arguments, verbose=0)
    assert ours == theirs
    assert type(ours) is type(theirs)
    for now, before in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, before)


def test_several_outputs():
    model = compiled(
        models.two_outputs,
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    data = X, {"kind": Y, "size": X[:, :1]}
    assert model.custom_evaluate(*data, verbose=0) == model.evaluate(*data, verbose=0)
    assert model.custom_evaluate(*data, verbose=0, return_dict=True) == model.evaluate(
        *data, verbose=0, return_dict=True
    )


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_callbacks_hear_the_same(steps_per_execution):
    model, _ = train(models.dense, "fit", {"x": X[:64], "y": Y[:64]}, steps_per_execution=steps_per_execution)
    calls = []
    for evaluate in (model.evaluate, model.custom_evaluate):
        recorder = Recorder()
        evaluate(X[:64], Y[:64], batch_size=16, verbose=0, callbacks=[recorder])
        calls.append(recorder.calls)
    assert calls[0] == calls[1]
    assert calls[0]


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress(verbose, capsys):
    compiled(models.dense).custom_evaluate(X, Y, verbose=verbose)
    assert "loss: " in capsys.readouterr().out


def test_it_must_be_compiled():
    with pytest.raises(RuntimeError, match="must be compiled before it is evaluated"):
        models.dense(CustomTrainModel).custom_evaluate(X, Y)
    with pytest.raises(TypeError, match="unexpected keyword argument 'step'"):
        compiled(models.dense).custom_evaluate(X, Y, step=2)


def test_a_trace_for_all_calls():
    class Counting(CustomTrainModel):
        traces = 0

        def test_step(self, data):
            type(self).traces += 1
            return super().test_step(data)

    model = compiled(lambda base: models.dense(Counting))
    model.custom_fit(X, Y, verbose=0, validation_data=(X, Y), epochs=3)
    traces = Counting.traces
    for _ in range(3):
        model.custom_evaluate(X, Y, verbose=0)
    assert Counting.traces == traces
    assert isinstance(model, keras.Model)


@pytest.mark.parametrize("how", ["custom_fit", "custom_evaluate"])
def test_what_a_metric_raises_is_not_swallowed(how):
    class Broken(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            return super().update_state(y_pred)

        def result(self):
            if tf.executing_eagerly():
                raise TypeError("a mistake in the user's metric")
            return super().result()

    model = compiled(models.dense, metrics=lambda: [Broken()])
    with pytest.raises(TypeError, match="a mistake in the user's metric"):
        getattr(model, how)(X, Y, verbose=0)
