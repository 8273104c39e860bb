"""`set_seed`: two processes end with the same bits."""

import random
import sys

import numpy as np
import pytest

import customfit
from customfit.compat import keras, tf
from tests import processes

TRAININGS = """
import hashlib
import numpy as np
import customfit
from customfit.compat import keras, tf
from tests.parity.models import rows

customfit.set_seed(5)
layers = keras.layers


def train(first, *more, shape=(8,), data=None):
    model = customfit.CustomTrainSequential([keras.Input(shape), first, *more, layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = rows(96, features=int(np.prod(shape)))
    if data is None:
        model.custom_fit(x.reshape(-1, *shape), y, epochs=2, verbose=0)
    else:
        model.custom_fit(data(x, y), epochs=2, verbose=0)
    throughput = customfit.callbacks.Throughput(print_fn=str)  # whose operations must not read the clock here
    model.custom_fit(x.reshape(-1, *shape), y, verbose=0, callbacks=[throughput])
    assert throughput.results["samples_per_second"] > 0
    assert throughput.results["data"] is None
    return hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest()


def augmented(x, y):
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(96)
    noise = lambda a, b: (a + tf.random.normal(tf.shape(a)), b)
    return data.map(noise, num_parallel_calls=8).batch(16).prefetch(tf.data.AUTOTUNE)


print("mlp", train(layers.Dense(16), layers.Dropout(0.5)))
print("cnn", train(layers.Conv2D(4, 3), layers.MaxPooling2D(), layers.Flatten(), shape=(8, 8, 1)))
print("lstm", train(layers.LSTM(8), shape=(8, 2)))
print("tf.data", train(layers.Dense(16), data=augmented))
"""


def test_two_processes_end_with_the_same_bits():
    runs = [processes.run([sys.executable, "-c", TRAININGS], timeout=300) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert [line.split()[0] for line in runs[0].stdout.splitlines()] == ["mlp", "cnn", "lstm", "tf.data"]
    assert runs[0].stdout == runs[1].stdout


def test_every_generator_is_seeded_and_operations_are_not_changed_unless_asked():
    def drawn():
        customfit.set_seed(3, deterministic=False)
        eager = tf.random.uniform([2]).numpy().tolist()
        return random.random(), np.random.rand(), eager, keras.layers.Dense(2)(np.ones((1, 2))).numpy().tolist()

    assert drawn() == drawn()


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, True])
def test_a_seed_must_be_what_numpy_takes(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        customfit.set_seed(seed)
