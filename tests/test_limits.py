"""Limits: exact to the step, with blocks on, and in the words of who set them."""

import datetime
import math

import numpy as np
import pytest

from customfit import CustomTrainModel, TrainingSession
from customfit.compat import keras, tf
from customfit.data import make_source
from customfit.training import run_epochs
from customfit.training.limits import Limits
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows(64)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_time_ends_with_the_step_in_which_it_is_over():
    clock = Clock()
    limits = Limits(max_time=10, clock=clock)
    limits.begin()
    assert limits.steps_left(0) == 1  # how long a step takes is not known yet
    steps = 0
    while limits.steps_left(steps):
        assert limits.reached(steps) is None
        block = int(min(100, limits.steps_left(steps)))
        limits.before_block()
        steps, clock.now = steps + block, clock.now + 0.75 * block
        limits.after_block(block)
    assert steps == math.ceil(10 / 0.75)
    assert limits.reached(steps) == "reached max_time=10"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90.0), (0.5, 0.5), (datetime.timedelta(minutes=2), 120.0), ("01:02:03", 3723.0), ("100:00:00", 360000.0)],
)
def test_durations(given, seconds):
    assert Limits(max_time=given).max_seconds == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_time": time} for time in (0, -1, "1:2", "00:60:00", "00:00:00", math.inf, True, datetime.timedelta(0))),
        *({"max_steps": steps} for steps in (0, -3, 2.5, True, "10")),
    ],
    ids=str,
)
def test_wrong_limits_are_refused_before_the_first_step(wrong):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        model.custom_fit(X, Y, verbose=0, **wrong)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize("steps", [1, 4, 6, 9])
@pytest.mark.parametrize("data", ["arrays", pytest.param("dataset", marks=pytest.mark.slow)])
def test_max_steps_ends_after_exactly_so_many(steps, data):
    """Also in the middle of a block, of an epoch, at an epoch's end."""
    arguments = {"x": X, "y": Y, "shuffle": True, "epochs": 50}
    if data == "dataset":
        arguments = {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), "batch_size": None, "epochs": 50}
    model, history = train(models.dropout, "custom_fit", {**arguments, "max_steps": steps})
    assert int(model.optimizer.iterations.numpy()) == steps
    assert len(history.epoch) == math.ceil(steps / 4)
    assert history.stop_reason == f"reached max_steps={steps}"


def test_what_is_trained_up_to_the_limit_is_what_fit_trains():
    ours = train(models.dropout, "custom_fit", {"x": X, "y": Y, "epochs": 50, "max_steps": 8})
    assert_equal(ours, train(models.dropout, "fit", {"x": X, "y": Y, "epochs": 2}, base=keras.Model))


def test_max_steps_holds_beside_a_callback_that_hears_steps():
    heard = []
    listener = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: heard.append(batch))
    arguments = {"x": X, "y": Y, "epochs": 9, "max_steps": 6, "callbacks": [listener]}
    model, _ = train(models.dense, "custom_fit", arguments, steps_per_execution=4)
    assert int(model.optimizer.iterations.numpy()) == 6


def test_max_time_ends_training_and_the_epoch_is_closed():
    model, history = train(models.dense, "custom_fit", {"x": X, "y": Y, "epochs": 10**6, "max_time": 0.2})
    assert history.stop_reason == "reached max_time=0.2"
    assert int(model.optimizer.iterations.numpy()) > 0
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(("seconds", "steps"), [(1, 1), (7, 7), (40, 40), (6.5, 7)])
def test_max_time_is_exact_to_the_step_with_blocks_on(seconds, steps):
    """A clock that each step moves on by a second: blocks are cut so that the last one ends when the time does."""
    now, blocks = [0.0], []

    class Slow(CustomTrainModel):
        def train_step(self, data):
            logs = super().train_step(data)
            ticks = tf.numpy_function(lambda: np.float32(now.__setitem__(0, now[0] + 1) or 0), [], tf.float32)
            return {name: log + ticks for name, log in logs.items()}

    model = compiled(models.dense, Slow)
    data = make_source(X, Y, batch_size=16, epochs=50, model=model)
    session = TrainingSession(model, epochs=50, verbose=0, max_time=seconds, clock=lambda: now[0])
    train_block = session.train_block
    session.train_block = lambda block: (train_block(block), blocks.append(block.done))[0]
    history = run_epochs(session, data)
    assert int(model.optimizer.iterations.numpy()) == steps == now[0]
    assert history.stop_reason == f"reached max_time={seconds}"
    assert steps < 10 or max(blocks) > 1


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_epoch_begin"])
def test_an_epoch_for_which_no_time_is_left_is_not_begun_or_gets_a_step(hook, monkeypatch):
    now = [0.0]
    monkeypatch.setitem(TrainingSession.__init__.__kwdefaults__, "clock", lambda: now[0])

    def passes(epoch, logs):
        now[0] += 100 if epoch == 1 else 0

    callback = keras.callbacks.LambdaCallback(**{hook: passes})
    given = {"x": X, "y": Y, "epochs": 9, "max_time": 50, "callbacks": [callback], "validation_data": (X, Y)}
    model, history = train(models.dense, "custom_fit", given)
    assert history.stop_reason == "reached max_time=50"
    assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations.numpy()) == (8 if hook == "on_epoch_end" else 5)
    assert min(history.history["loss"]) > 0.1  # that of no step at all would be 0


def test_an_own_loop_asks_whether_to_stop():
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    with TrainingSession(model, epochs=9, verbose=0, max_steps=5) as session:
        for _epoch in session.epochs():
            for _step in range(3):
                session.train_on((X[:16], Y[:16]))
                if session.should_stop:
                    break
    assert session.total_steps == 5
    assert session.stop_reason == "reached max_steps=5"
