"""What a training run costs: the plan's numbers are those that one counts by hand."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential
from customfit.callbacks import Throughput
from customfit.compat import keras, tf
from tests import processes
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(64)
layers = keras.layers


def plan(model, **arguments):
    return model.plan_fit(X, Y, **{"batch_size": 16, "epochs": 2, **arguments})


def test_a_matrix_product_is_counted_in_both_directions():
    model = CustomTrainSequential(
        [keras.Input((8,)), layers.Dense(1000, use_bias=False), layers.Dense(3, use_bias=False)]
    )
    model.compile("sgd", "mse")
    targets = np.zeros((64, 3), "float32")
    found = model.plan_fit(X, targets, batch_size=16)
    # Two passes for the first layer, whose inputs need no gradient; three for the second.
    products = 2 * 16 * (2 * 8 * 1000 + 3 * 1000 * 3)
    assert products <= found.step_flops <= 1.1 * products + 1000
    assert found.parameters == 8 * 1000 + 1000 * 3
    assert 4 * 16 * 1000 <= found.activation_bytes <= 4 * 16 * 1000 * 1.1  # of the hidden layer


def test_costs_grow_with_the_batch():
    model = compiled(models.dense)
    small, large = plan(model, batch_size=16), plan(model, batch_size=32)
    assert large.step_flops > 1.8 * small.step_flops
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.1)


def test_the_time_is_known_once_the_model_has_trained():
    model = compiled(models.dense)
    assert plan(model).seconds is None
    model.custom_fit(X, Y, batch_size=16, epochs=4, verbose=0)
    twice, once = plan(model, epochs=2).seconds, plan(model, epochs=1).seconds
    assert twice == pytest.approx(2 * once)
    assert 0 < once < 60
    assert "time" in str(plan(model))


@pytest.mark.parametrize("what", ["unbuilt", "unknown shape"])
def test_what_is_not_known_is_said(what):
    if what == "unbuilt":
        found = plan(compiled(models.subclassed))
    else:
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        found = compiled(models.dense).plan_fit(data)
    assert found.step_flops is None
    assert "a step      not known" in str(found)


def test_counting_changes_nothing():
    def weights(plans):
        keras.utils.set_random_seed(1)
        model = compiled(models.dropout, CustomTrainModel, optimizer="adam")
        if plans:
            plan(model)
        model.custom_fit(X, Y, batch_size=16, verbose=0)
        return model.get_weights()

    for mine, theirs in zip(weights(True), weights(False)):
        np.testing.assert_array_equal(mine, theirs)


def test_throughput_says_the_share_of_the_peak():
    said = []
    model = compiled(models.dense)
    throughput = Throughput(said.append, step_flops=plan(model).step_flops, peak_flops=1e12)
    model.custom_fit(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[throughput])
    results = throughput.results
    assert results["flops_per_second"] == pytest.approx(results["steps_per_second"] * throughput.step_flops)
    assert results["peak_share"] == pytest.approx(results["flops_per_second"] / 1e12)
    assert "of the peak)" in said[0]
    measured = Throughput(said.append, step_flops=1)
    model.custom_fit(X, Y, verbose=0, callbacks=[measured])
    assert 0 < measured.results["peak_share"] < 1


def test_a_plan_says_nothing_but_what_it_returns():
    """TensorFlow's profiler warns of its own code, in the first call of a process."""
    code = """
import tensorflow as tf
from customfit import CustomTrainSequential
model = CustomTrainSequential([tf.keras.Input((8,)), tf.keras.layers.Dense(3)])
model.compile("sgd", "mse")
level = tf.get_logger().level
assert model.plan_fit(tf.zeros((32, 8)), tf.zeros((32, 3))).step_flops > 0
assert tf.get_logger().level == level
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    result = processes.run([sys.executable, "-c", code], env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "deprecated" not in result.stderr
