"""However steps run, the numbers are those of `fit`: one by one, in blocks, eagerly, by XLA, resident or streamed."""

import functools
import itertools

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from customfit.data import placement
from tests.parity import models
from tests.parity.compare import assert_parity as compare_both_loops
from tests.parity.compare import train

assert_parity = functools.partial(compare_both_loops, fit_of_ours=False)  # it is the loop that could differ
X, Y = models.rows(150)  # batches of 16 leave a ragged last one
pytestmark = pytest.mark.slow
XLA_TOLERANCE = 1e-4  # XLA fuses operations, and so rounds elsewhere


def known():
    return {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), "batch_size": None}


def unknown():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    return {"x": data.filter(lambda x, y: True), "steps_per_epoch": 10, "epochs": 1, "batch_size": None}


def generator():
    def batches():
        for begin in itertools.cycle(range(0, 144, 16)):
            yield X[begin : begin + 16], Y[begin : begin + 16]

    return {"x": batches(), "steps_per_epoch": 7, "batch_size": None}


def arrays():
    return {"x": X, "y": Y}


def streamed():
    return arrays()


@pytest.fixture(autouse=True)
def little_memory(request, monkeypatch):
    """Where the test is about streamed arrays, has so little memory that they are, in chunks of three batches."""
    if "streamed" in request.node.name:
        monkeypatch.setattr(compat, "free_memory", lambda: 0.0)
        monkeypatch.setattr(placement.StreamedRows.__init__, "__defaults__", (16 * 3 * (8 * 4 + 8),))


class Listener(keras.callbacks.Callback):
    """Has steps run one by one, or as many as `steps_per_execution`."""

    def __init__(self):
        super().__init__()
        self.heard = 0

    def on_train_batch_end(self, batch, logs=None):
        self.heard += 1


ALL = [arrays, streamed, known, unknown, generator]
# Of the datasets, steps that run eagerly or by XLA see batches only: not whether their number is known.
KINDS = [arrays, streamed, unknown]


@pytest.mark.parametrize(
    ("mode", "data"),
    [(mode, data) for mode in ("one by one", "blocks", "eager") for data in (KINDS if mode == "eager" else ALL)],
)
def test_modes(data, mode):
    options = {"run_eagerly": True} if mode == "eager" else {}

    def arguments():
        given = {"validation_data": (X[:40], Y[:40]), **data()}
        return {**given, "callbacks": [Listener()]} if mode == "one by one" else given

    assert_parity(models.dropout, arguments, **options)


@pytest.mark.parametrize("data", KINDS)
def test_xla(data):
    """A ragged tail is a program of its own, and padding is not trained on."""
    arguments = lambda: {"validation_data": (X[:40], Y[:40]), **data()}
    assert_parity(models.batch_norm, arguments, rtol=XLA_TOLERANCE, jit_compile=True)


def test_xla_one_by_one():
    arguments = lambda: {**arrays(), "callbacks": [Listener()]}
    assert_parity(models.dense, arguments, rtol=XLA_TOLERANCE, jit_compile=True, steps_per_execution=1)


@pytest.mark.parametrize("data", [arrays, streamed, known, generator])
def test_a_step_of_the_user_s_gives_its_last_logs(data):
    """Its logs are not the metrics' results, so each step's are carried on to the next."""

    def build(base):
        class Mine(base):
            def train_step(self, batch):
                x, y = batch
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self(x, training=True) - tf.one_hot(y, 3)) ** 2)
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
                return {"my_loss": loss, "rows": tf.shape(x)[0], "each": tf.reduce_sum(x, axis=1)}

        return models.dense(Mine)

    ours, theirs = (
        train(build, how, data, base=base, metrics=None)
        for how, base in (("custom_fit", CustomTrainModel), ("fit", keras.Model))
    )
    for name in ("my_loss", "rows"):
        assert ours[1].history[name] == theirs[1].history[name]
    assert [len(each) for each in ours[1].history["each"]] == ours[1].history["rows"]
    assert ours[1].history["rows"] == [16 if data is generator else 6] * 3
    for mine, other in zip(ours[0].get_weights(), theirs[0].get_weights()):
        np.testing.assert_array_equal(mine, other)


def test_blocks_have_many_steps():
    model, _ = train(models.dense, "custom_fit", {"x": X, "y": Y, "batch_size": 2, "epochs": 5})
    assert model._compiled_steps.train.pace.steps > 10
