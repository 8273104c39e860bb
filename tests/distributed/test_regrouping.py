"""A run goes on with more or fewer replicas than have begun it: what they had apart is shared out anew."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.checkpoint.differences import differences
from customfit.checkpoint.regrouping import regrouped
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled

if not compat.divides_loss_by_replicas():
    pytest.skip("Keras 3 before 3.8 is refused: tests/distributed/test_refused.py", allow_module_level=True)

X, Y = models.rows(64)
SAVED = {"Keras": "3", "layers": [], "replicas": 1, "workers": 1}
OPTIONS = {
    "accumulation": {"gradient_accumulation_steps": 3, "optimizer": "sgd"},
    "percentile": {"clip_percentile": 50},
}


def train(strategy, folder, build=models.dense, metrics=("accuracy",), **given):
    """Three epochs of four steps. Returns the model and its history."""
    arguments = {"batch_size": 16, "epochs": 3, "verbose": 0, "checkpoint": folder}
    names = ("gradient_accumulation_steps", "clip_percentile", "optimizer")
    options = {name: given.pop(name) for name in names if name in given}
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = compiled(build, CustomTrainModel, metrics=list(metrics), **options)
    return model, model.custom_fit(X, Y, **{**arguments, **given}).history


@pytest.fixture(params=["two to one", "one to two", "two to one of a strategy"])
def strategies(request, strategy, one_device):
    if request.param == "two to one of a strategy":
        return strategy, tf.distribute.MirroredStrategy(["CPU:0"])
    return (strategy, one_device) if request.param == "two to one" else (one_device, strategy)


@pytest.mark.supports("Distribution", "resumes with more or fewer replicas, but for rounding", fit="no")
@pytest.mark.parametrize("build", [models.dense, models.embedding])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_ends_as_if_left_alone_but_for_rounding(strategies, tmp_path, build, options):
    """From the middle of an epoch and of a window of micro-batches, with the metrics of the steps before."""
    before, after = strategies
    alone, whole = train(before, None, build, **options)
    train(before, tmp_path, build, max_steps=6, **options)
    resumed, history = train(after, tmp_path, build, **options)
    assert int(resumed.optimizer.iterations.numpy()) == int(alone.optimizer.iterations.numpy())
    for ours, theirs in zip(resumed.get_weights(), alone.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for name, values in whole.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


def test_moving_averages_become_their_mean(strategy, one_device, tmp_path):
    before, _ = train(strategy, tmp_path, models.batch_norm, max_steps=7)
    after, _ = train(one_device, tmp_path, models.batch_norm, max_steps=7)
    for theirs, mine in zip(before.non_trainable_variables, after.non_trainable_variables):
        copies = strategy.experimental_local_results(compat.tf_variable(theirs))
        np.testing.assert_array_equal(mine, np.mean([copy.numpy() for copy in copies], axis=0, dtype="float32"))


def test_what_is_saved_later_is_of_the_replicas_that_have_saved_it(strategy, one_device, tmp_path):
    train(strategy, tmp_path, max_steps=7, gradient_accumulation_steps=3)
    once, _ = train(one_device, tmp_path, max_steps=10, gradient_accumulation_steps=3)
    again, _ = train(one_device, tmp_path, gradient_accumulation_steps=3)
    left, _ = train(one_device, tmp_path, gradient_accumulation_steps=3)
    assert int(once.optimizer.iterations.numpy()) < int(again.optimizer.iterations.numpy())
    for ours, theirs in zip(again.get_weights(), left.get_weights()):
        np.testing.assert_array_equal(ours, theirs)


def test_integers_that_differ_have_no_rule():
    state = tf.Variable([1, 2], trainable=False)
    parts = [{"model/0/state": np.array([1, 2])}, {"model/0/state": np.array([3, 4])}]
    with pytest.raises(ValueError, match=r"a checkpoint in which model/0/state \(.*\) differs\."):
        regrouped({"model/0/state": "int32[2]"}, parts, {"model/0/state": state}, is_chief=True)


def test_a_sum_that_replicas_share_is_not_shared_out():
    total = tf.Variable(10, trainable=False, aggregation=tf.VariableAggregation.SUM)
    parts = [{"other/0/total/replica_0": np.array(10), "other/0/total/replica_1": np.array(10)}]
    named = dict.fromkeys(parts[0], "int32[]")
    assert regrouped(named, parts, {"other/0/total": total}, is_chief=False)[1]["other/0/total"] == 10


def test_random_ops_with_states_have_no_rule():
    found = differences(SAVED, {**SAVED, "replicas": 2}, [], ["op/train_step/1"])
    assert found[0] == "replicas=2, was 1"
    assert "use 1 random ops that keep a state" in found[1]
    assert differences(SAVED, {**SAVED, "replicas": 2}, [], ["model/0/kernel"]) == []
