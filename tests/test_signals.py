"""Real signals: the step is finished, `on_train_end` fires, best weights come back, handlers are put back."""

import os
import signal
import threading

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, TrainingSession
from customfit.compat import keras
from customfit.data import ArraySource
from customfit.training import run_epochs
from customfit.training.signals import SignalHandlers
from tests.parity import models

X, Y = models.rows(64)


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    model = models.dropout(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.fixture(autouse=True)
def handlers_are_put_back():
    given = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    yield
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, given)
    assert after == before


class Sends(keras.callbacks.Callback):
    """Sends this process a signal in a hook, and notes what comes after it."""

    def __init__(self, number, epoch=1, times=1):
        super().__init__()
        self.number, self.epoch, self.times = number, epoch, times
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(epoch)
        if epoch == self.epoch:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
            self.calls.append("signalled")

    def on_train_end(self, logs=None):
        self.calls.append("end")


def test_ctrl_c_finishes_the_step_and_leaves_a_usable_model(model):
    sends = Sends(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.custom_fit(X, Y, epochs=9, batch_size=64, verbose=0, callbacks=[sends])
    assert sends.calls == [0, 1, "signalled", "end"]
    assert int(model.optimizer.iterations.numpy()) == 2  # the step that was going on is whole
    assert len(model.history.epoch) == 1
    assert np.isfinite(model.predict(X, verbose=0)).all()
    assert len(model.custom_fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_a_second_ctrl_c_stops_at_once(model):
    sends = Sends(signal.SIGINT, times=2)
    with pytest.raises(KeyboardInterrupt):
        model.custom_fit(X, Y, epochs=9, batch_size=64, verbose=0, callbacks=[sends])
    assert sends.calls == [0, 1, "end"]  # in the hook itself
    assert int(model.optimizer.iterations.numpy()) == 1


def test_sigterm_returns_the_history_and_says_so(model):
    sends = Sends(signal.SIGTERM)
    stopping = EarlyStopping("loss", mode="max", patience=9)  # the first epoch stays the best
    history = model.custom_fit(
        X, Y, epochs=9, batch_size=64, verbose=0, callbacks=[sends], early_stopping=stopping, shuffle=False
    )
    assert sends.calls == [0, 1, "signalled", "end"]
    assert history.stop_reason == "SIGTERM"
    assert history.epoch == [0]  # the epoch that was cut short has no logs
    weights = model.get_weights()
    keras.utils.set_random_seed(3)
    first = models.dropout(CustomTrainModel)
    first.compile("adam", "sparse_categorical_crossentropy")
    first.custom_fit(X, Y, epochs=1, batch_size=64, verbose=0, shuffle=False)
    for mine, other in zip(weights, first.get_weights()):
        np.testing.assert_array_equal(mine, other)  # the best weights are back


def run(model, **options):
    """A run that exits with SIGTERM's code, as a service manager expects it."""
    data = ArraySource(X, Y)
    return run_epochs(TrainingSession(model, steps_per_epoch=data.steps, verbose=0, on_sigterm="exit", **options), data)


def test_sigterm_exits_where_the_caller_wants_that(model):
    sends = Sends(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        run(model, epochs=9, callbacks=[sends])
    assert exit_.value.code == 143
    assert sends.calls[-1] == "end"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_validation_ends_it(model, number):
    class SendsInValidation(Sends):
        def on_epoch_begin(self, epoch, logs=None):
            self.calls.append(epoch)

        def on_test_batch_end(self, batch, logs=None):
            self.calls.append(f"validated {batch}")
            os.kill(os.getpid(), number)

    sends = SendsInValidation(number)
    fit = lambda: model.custom_fit(X, Y, epochs=9, verbose=0, callbacks=[sends], validation_data=(X, Y))
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            fit()
    else:
        assert fit().stop_reason == "SIGTERM"
    assert sends.calls == [0, "validated 0", "end"]


def test_sigterm_in_the_last_moment_is_not_lost(model):
    late = keras.callbacks.LambdaCallback(on_train_end=lambda logs: os.kill(os.getpid(), signal.SIGTERM))
    assert model.custom_fit(X, Y, epochs=2, verbose=0, callbacks=[late]).stop_reason == "SIGTERM"
    with pytest.raises(SystemExit):
        run(model, epochs=2, callbacks=[late])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_of_the_caller_s_stays(model, number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        assert len(model.custom_fit(X, Y, epochs=3, verbose=0, callbacks=[Sends(number)]).epoch) == 3
    finally:
        signal.signal(number, before)
    assert heard == [number]


def test_another_thread_sets_no_handlers_and_trains(model):
    histories, seen = [], []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=lambda: histories.append(model.custom_fit(X, Y, verbose=0, callbacks=[note])))
    thread.start()
    thread.join()
    assert len(histories[0].epoch) == 1
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_an_own_loop_without_with_exits(model):
    session = TrainingSession(model, epochs=3, verbose=0)
    epochs = session.epochs()
    with pytest.raises(SystemExit):
        for epoch in epochs:
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            session.train_on((X[:16], Y[:16]))
    epochs.close()
    assert session.history.epoch[0] == 0


def test_a_wrong_option_is_refused():
    with pytest.raises(ValueError, match='`on_sigterm` must be "return" or "exit". Received: on_sigterm=\'die\''):
        SignalHandlers("die")
