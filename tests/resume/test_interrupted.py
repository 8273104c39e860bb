"""Ctrl-C and SIGTERM with checkpoints: the step is finished and kept, and the same call ends as if nothing had been."""

import functools
import os
import signal

import pytest

from customfit import Every
from customfit.compat import keras
from tests.parity import models
from tests.resume.cut import Interrupts, assert_same, train

X, Y = models.rows(70)
ROWS = {"x": X, "y": Y, "validation_data": (X, Y)}


@pytest.fixture(autouse=True)
def _heard():
    given = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    yield
    signal.signal(signal.SIGINT, given)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
@pytest.mark.parametrize(
    ("hook", "times"),
    [
        ("on_epoch_begin", 2),
        ("on_train_batch_end", 7),
        ("on_epoch_end", 2),
        ("on_test_batch_end", 2),
        ("on_test_end", 1),
    ],
)
def test_an_interrupted_training_ends_as_if_left_alone(number, hook, times, tmp_path):
    cut = {**ROWS, "callbacks": [Interrupts(hook, times, number)]}
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            train(models.dropout, cut, tmp_path)
    else:
        assert train(models.dropout, cut, tmp_path)[1].stop_reason == "SIGTERM"
    assert_same(train(models.dropout, {**ROWS, "resume": True}, tmp_path), left_alone())


@functools.cache
def left_alone():
    return train(models.dropout, ROWS)


def test_a_second_ctrl_c_in_validation_waits_for_no_checkpoint(tmp_path):
    class Twice(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(models.dropout, {**ROWS, "callbacks": [Twice()]}, tmp_path)
    assert not list(tmp_path.iterdir())  # neither a checkpoint nor a lock


def test_a_validation_inside_an_epoch_that_was_interrupted_is_made_again(tmp_path):
    given = {**ROWS, "validation_freq": Every(steps=3)}
    train(models.dropout, {**given, "callbacks": [Interrupts("on_test_batch_end", 1, signal.SIGTERM)]}, tmp_path)
    assert_same(train(models.dropout, {**given, "resume": True}, tmp_path), train(models.dropout, given))
