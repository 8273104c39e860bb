"""`Throughput` counts what was trained on, and tells a slow input pipeline from a slow step."""

import time

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.callbacks import Throughput
from customfit.compat import keras, tf
from customfit.data import Block, SingleBatch
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows(70)


def slow_generator():
    for begin in range(0, 64, 16):
        time.sleep(0.1)  # the data is what is slow: this is the thing measured, not a wait for it
        yield X[begin : begin + 16], Y[begin : begin + 16]


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 16},
    "dataset": lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)},
    "unknown": lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).filter(lambda x, y: True)},
}


@pytest.mark.parametrize(
    ("mode", "data"), [*(("graph", data) for data in DATA), ("xla", "arrays"), ("xla", "dataset"), ("eager", "arrays")]
)
def test_every_sample_and_step_is_counted(data, mode):
    options = {"graph": {}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}[mode]
    arguments = {**DATA[data](), "epochs": 1 if data == "unknown" else 3}
    said = []
    throughput = Throughput(print_fn=said.append)
    model = compiled(models.dense, **options)
    model.custom_fit(**arguments, verbose=0, callbacks=[throughput], validation_data=(X, Y))
    results = throughput.results
    assert results["samples_per_second"] / results["steps_per_second"] == pytest.approx(70 / 5)
    shares = [results[part] for part in ("step", "data", "callbacks", "validation")]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= 0
    assert len(said) == 1
    assert "The bottleneck is the " in said[0]


def test_slow_data_is_the_bottleneck():
    said = []
    model = compiled(models.dense)
    model.custom_fit(X, Y, verbose=0)  # traces
    throughput = Throughput(print_fn=said.append)
    model.custom_fit(slow_generator(), verbose=0, callbacks=[throughput])
    assert throughput.results["data"] > 0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(("read", "bottleneck"), [(3.0, "input pipeline"), (0.5, "step")])
def test_where_the_time_went(read, bottleneck):
    """By hand: two blocks of 4 seconds of which `read` went into data, a second between them, two of validation."""
    clock, said = Clock(), []
    throughput = Throughput(said.append, clock)
    throughput.set_model(compiled(models.dense))
    throughput.on_train_begin()
    throughput.on_epoch_begin(0)
    for between in (1.0, 0.0):
        block = Block(0, 10, 10, SingleBatch(), np.zeros((32, 8)), done=10)
        throughput.before_block(block)
        clock.now += 4.0
        block.fetch.meter.seconds.assign_add(read)
        block.fetch.meter.rows.assign_add(320)
        throughput.after_block(block)
        throughput.after_callbacks()
        clock.now += between
    throughput.on_test_begin()
    clock.now += 2.0
    throughput.on_test_end()
    throughput.on_train_end()
    results = throughput.results
    assert results["seconds"] == 11.0
    assert results["steps_per_second"] == pytest.approx(20 / 9)
    assert results["samples_per_second"] == pytest.approx(640 / 9)
    assert results["data"] == pytest.approx((2 * read + 1) / 11)
    assert results["step"] == pytest.approx((8 - 2 * read) / 11)
    assert results["validation"] == pytest.approx(2 / 11)
    assert results["callbacks"] == pytest.approx(0)
    assert said[0].endswith(f"The bottleneck is the {bottleneck}.")


def test_under_fit_only_steps_are_measured():
    said = []
    throughput = Throughput(print_fn=said.append)
    compiled(models.dense, keras.Model).fit(X, Y, batch_size=16, verbose=0, callbacks=[throughput])
    assert throughput.results["steps_per_second"] > 0
    assert throughput.results["samples_per_second"] is None
    assert throughput.results["data"] is None
    assert "bottleneck" not in said[0]


@pytest.mark.parametrize("listener", [False, True])
def test_it_changes_no_number(listener):
    more = [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)] if listener else []
    arguments = {"x": X, "y": Y, "callbacks": [Throughput(print_fn=lambda line: None), *more]}
    ours = train(models.dropout, "custom_fit", arguments)
    assert_equal(ours, train(models.dropout, "fit", {"x": X, "y": Y}, base=keras.Model))
    assert isinstance(ours[0], CustomTrainModel)
