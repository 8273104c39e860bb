"""`TrainingSession`: a loop of one's own keeps callbacks, progress, metrics, validation and early stopping."""

import io
import re
import sys

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, TrainingSession
from customfit.callbacks import LogEvery
from customfit.compat import keras, tf
from customfit.data import Block, SingleBatch
from customfit.training.chief import Silenced
from customfit.training.hooks import REFRESH_SECONDS, BatchHooks
from tests.parity import models
from tests.parity.compare import assert_equal

X, Y = models.rows(64)


def batches():
    return [(X[start : start + 16], Y[start : start + 16]) for start in range(0, 64, 16)]


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    model = models.dropout(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fitted():
    keras.utils.set_random_seed(3)
    model = models.dropout(keras.Model)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, model.fit(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, validation_data=(X, Y))


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numpy", "tensors"])
def test_an_own_loop_equals_fit_to_the_bit(model, as_tensors):
    with TrainingSession(model, epochs=3, verbose=0, validation_data=(X, Y), validation_batch_size=16) as session:
        for _epoch in session.epochs():
            for batch in batches():
                session.train_on(tuple(map(tf.constant, batch)) if as_tensors else batch)
    assert_equal((model, session.history), fitted())


def test_explicit_calls_change_nothing_but_who_makes_them(model):
    with TrainingSession(model, epochs=3, verbose=0, validation_data=(X, Y), validation_batch_size=16) as session:
        for _epoch in session.epochs():
            for batch in batches():
                session.train_on(batch)
            validation = session.validate()
            logs = session.end_epoch()
            assert validation["val_loss"] == logs["val_loss"]
    assert_equal((model, session.history), fitted())


def test_it_works_without_with(model):
    session = TrainingSession(model, epochs=2, verbose=0)
    for _epoch in session.epochs():
        for batch in batches():
            session.train_on(batch)
    assert len(session.history.epoch) == 2


def test_a_loop_left_by_break_keeps_its_last_epoch(model):
    with TrainingSession(model, epochs=5, verbose=0) as session:
        for epoch in session.epochs():
            session.train_on(batches()[0])
            if epoch == 1:
                break
    assert session.history.epoch == [0, 1]


def test_a_loop_without_with_left_by_break_keeps_its_last_epoch(model):
    session = TrainingSession(model, epochs=5, verbose=0)
    epochs = session.epochs()
    for epoch in epochs:
        session.train_on(batches()[0])
        if epoch == 1:
            break
    epochs.close()  # as the end of its last reference does
    assert session.history.epoch == [0, 1]


def test_own_values_reach_history_and_early_stopping(model):
    stopping = EarlyStopping("average_return", mode="max", stopping_threshold=3.0, patience=10)
    with TrainingSession(model, epochs=10, verbose=0, early_stopping=stopping) as session:
        for epoch in session.epochs():
            session.train_on(batches()[0])
            session.log(average_return=tf.constant(float(epoch)))
    assert session.history.history["average_return"] == [0.0, 1.0, 2.0, 3.0]
    assert "stopping_threshold=3" in session.stop_reason


def test_an_exception_in_the_loop_fires_on_train_end_and_propagates(model):
    ended = []
    callback = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(True))
    with pytest.raises(KeyboardInterrupt), TrainingSession(model, verbose=0, callbacks=[callback]) as session:
        for _epoch in session.epochs():
            raise KeyboardInterrupt
    assert ended == [True]


def test_steps_are_counted_for_callbacks(model):
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(("begin", batch))

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("end", batch, sorted(logs)))

    with TrainingSession(model, verbose=0, callbacks=Steps()) as session:
        for _epoch in session.epochs():
            for batch in batches()[:2]:
                session.train_on(batch)
    logs = ["accuracy", "loss"]
    assert seen == [("begin", 0), ("end", 0, logs), ("begin", 1), ("end", 1, logs)]


def test_validate_without_data_is_refused(model):
    with TrainingSession(model, verbose=0) as session:
        with pytest.raises(ValueError, match="`validation_data` must be given"):
            session.validate()


def test_a_model_without_the_mixin_is_refused():
    model = models.dense(keras.Model)
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="must be a `CustomTrainModel`.* Received: a Functional"):
        TrainingSession(model)


def test_a_generator_that_ends_ends_training_with_a_warning(model):
    def generate():
        for _ in range(7):
            yield X[:16], Y[:16]

    with pytest.warns(UserWarning, match="ran out of data; the epoch ends after 3 of 4 steps"):
        history = model.custom_fit(generate(), steps_per_epoch=4, epochs=5, verbose=0)
    assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations.numpy()) == 7


# --------------------------------------------------------------------------------------------------- progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_progress_bar_is_refreshed_by_the_clock_and_sees_the_last_step(model):
    shown = []
    callbacks = keras.callbacks.CallbackList(add_progbar=True, model=model, verbose=1, epochs=1, steps=100)
    progress = next(c for c in callbacks.callbacks if isinstance(c, keras.callbacks.ProgbarLogger))
    progress.on_train_batch_end = lambda step, logs: shown.append((step, logs))
    clock = Clock()
    hooks = BatchHooks(callbacks, "train", clock=clock)
    for step in range(100):
        block = Block(step, 1, 1, SingleBatch(), None, done=1)
        hooks.begin(block)
        hooks.end(block, {"loss": tf.constant(float(step))})
        clock.now += REFRESH_SECONDS / 9.99  # a little more than a tenth, so that rounding does not matter
    hooks.refresh()
    assert [step for step, _ in shown] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]
    assert shown[-1][1] == {"loss": 99.0}
    hooks.refresh()
    assert len(shown) == 11  # there was nothing new to show


@pytest.mark.parametrize("how", ["fit", "custom_fit", "log_every"])
def test_a_line_every_n_steps_over_all_epochs(how, capsys):
    keras.utils.set_random_seed(3)
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": 16, "epochs": 3, "verbose": 0, "shuffle": False}
    if how == "log_every":
        model.custom_fit(X, Y, log_every=5, **arguments)
    else:
        getattr(model, how)(X, Y, callbacks=[LogEvery(5)], **arguments)
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 2, step 5", "Epoch 3, step 10"]
    assert all("loss = " in line and "accuracy = " in line for line in lines)


def test_lines_count_right_beside_a_callback_that_hears_every_step(capsys):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    listener = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    model.custom_fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[listener], log_every=5)
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 2, step 5", "Epoch 3, step 10"]


@pytest.mark.parametrize("how", ["fit", "custom_fit", "every step"])
def test_lines_beside_a_progress_bar_have_lines_of_their_own(how, capsys):
    """The bar is drawn in place and ends without a newline. Each of our lines begins on a new one."""
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    listener = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    callbacks = [LogEvery(2), *([listener] if how == "every step" else [])]
    getattr(model, "fit" if how == "fit" else "custom_fit")(
        X, Y, batch_size=8, epochs=2, verbose=1, callbacks=callbacks
    )
    lines = capsys.readouterr().out.split("\n")
    ours = [line for line in lines if "step " in line and "Epoch " in line and " = " in line]
    assert len(ours) == 2 * (-(-len(X) // 8)) // 2
    assert all(re.fullmatch(r"Epoch \d, step \d+: loss = \d\.\d{4}", line) for line in ours)
    assert not any("loss:" in line and " = " in line for line in lines)


def test_lines_without_a_progress_bar_follow_one_another(capsys):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.custom_fit(X, Y, batch_size=8, epochs=2, verbose=2, log_every=2)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if " = " in line]) >= 4
    assert all(lines)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_progress_bar_is_erased_before_a_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    LogEvery(1).show({"loss": 0.5}, after_bar=True)
    assert terminal.getvalue() == "\r" + " " * 19 + "\r" + "Epoch 1, step 0: loss = 0.5000\n"
    LogEvery(1, print_fn=lambda line: None).show({"loss": 0.5}, after_bar=False)
    assert terminal.getvalue().endswith("loss = 0.5000\n")


@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_verbose(model, verbose, capsys):
    model.custom_fit(X, Y, epochs=2, verbose=verbose, validation_data=(X, Y))
    printed = capsys.readouterr().out
    assert ("Epoch 2/2" in printed) == (verbose != 0)
    assert ("val_loss" in printed) == (verbose != 0)


def test_history_is_the_model_s_too(model):
    history = model.custom_fit(X, Y, verbose=0)
    assert model.history is history
    assert history.stop_reason is None
    assert np.isfinite(history.history["loss"]).all()


def test_of_callbacks_only_those_of_a_library_are_silenced_on_other_workers():
    class Theirs(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.verbose, self.writer = 1, self

    class Stopping(keras.callbacks.EarlyStopping):
        pass

    theirs, stopping = Theirs(), Stopping(verbose=1)
    silenced = Silenced([theirs, stopping])
    assert (theirs.verbose, theirs.writer, stopping.verbose) == (1, theirs, 0)
    silenced.close()
    assert stopping.verbose == 1
