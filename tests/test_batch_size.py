"""`find_batch_size`: the largest batch that fits, found in a process that may be killed."""

import os
import signal
import sys

import numpy as np
import pytest

import customfit
from customfit import CustomTrainSequential
from customfit.compat import keras, tf

X, Y = np.random.RandomState(0).rand(4096, 8).astype("float32"), np.zeros((4096, 1), "float32")
MEGABYTE = 2**20


def wide():
    """4 MB of activations a row, forward and backward."""
    model = CustomTrainSequential(
        [keras.Input((8,)), keras.layers.Dense(500_000, activation="tanh", use_bias=False), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    return model


def end_process_if_large(inputs):
    if len(inputs) >= 16:
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    return np.float32(len(inputs))


class Killed(CustomTrainSequential):
    def train_step(self, data):
        x, _ = data
        return {"rows": tf.numpy_function(end_process_if_large, [x], tf.float32)}


def killed():
    model = Killed([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def broken():
    raise KeyError("no such file")


def search(build, x=X, y=Y, **options):
    return customfit.find_batch_size(build, x, y, **options)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory of a process is limited on Linux")
@pytest.mark.long
def test_more_memory_fits_a_larger_batch():
    found = search(wide, memory=1000 * MEGABYTE, smallest=16)
    assert list(found.tried.values()) == ["fits"] * (len(found.tried) - 1) + ["too large"]
    assert 16 <= found.batch_size < 1000
    assert found.batch_size == max(size for size, outcome in found.tried.items() if outcome == "fits")


def test_a_process_that_is_killed_had_a_batch_too_large():
    found = search(killed)
    assert found.tried == {1: "fits", 2: "fits", 4: "fits", 8: "fits", 16: "too large"}
    assert found.batch_size == 8
    assert str(found).splitlines()[-1].split() == ["16", "too", "large"]


def test_a_dataset_ends_where_it_is_told_to():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert search(killed, data, None, smallest=2, largest=8).tried == {2: "fits", 4: "fits", 8: "fits"}


def test_another_error_is_raised_as_it_is():
    with pytest.raises(RuntimeError, match="(?s)not for want of memory.*no such file"):
        search(broken)
    with pytest.raises(ValueError, match="reading anything else would change it"):
        search(killed, iter([(X, Y)]), None)


def test_what_to_change_with_it():
    found = customfit.BatchSizeSearch(256, {256: "fits"})
    assert found.accumulation_steps(1000) == 4
    assert found.scaled_rate(0.1, 32) == pytest.approx(0.8)
    assert found.scaled_rate(0.1, 64, "sqrt") == pytest.approx(0.2)
