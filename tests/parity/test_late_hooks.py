"""Batch hooks that a callback binds to itself while it trains are called as under `fit` of each generation."""

import pytest

from customfit import CustomTrainModel, TrainingSession, compat
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import assert_equal, train

X, Y = models.rows(64)
VALIDATED = {"validation_data": (X[:40], Y[:40]), "validation_batch_size": 8}


class Late(keras.callbacks.Callback):
    """Binds `hook` to itself in another hook, at its first call, and notes what it is called with."""

    def __init__(self, bind_in, hook):
        super().__init__()
        self.calls = []
        self.hook = hook
        if bind_in is not None:
            setattr(self, bind_in, self.bind)

    def bind(self, *args, **kwargs):
        setattr(self, self.hook, self.note)

    def note(self, batch, logs=None):
        self.calls.append((batch, sorted(logs or {})))


def calls(how, bind_in, hook, verbose=0, others=(), **arguments):
    """What the late hook is called with, and the trained model."""
    late = Late(bind_in, hook)
    base = CustomTrainModel if how == "custom_fit" else keras.Model
    arguments = {"x": X, "y": Y, "batch_size": 8, "verbose": verbose, "callbacks": [*others, late], **arguments}
    return late.calls, train(models.dense, how, arguments, base=base)


def assert_called_as_in_fit(*args, expected, **arguments):
    (ours, our_run), (theirs, their_run) = (calls(how, *args, **arguments) for how in ("custom_fit", "fit"))
    assert ours == theirs
    assert len(theirs) == expected
    assert_equal(our_run, their_run)


@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_batch_begin", "on_batch_end"])
@pytest.mark.parametrize("bind_in", ["on_train_begin", "on_epoch_begin"])
def test_a_hook_bound_before_the_first_step(bind_in, hook, verbose):
    """Keras 2 decides before training whether it calls batch hooks at all; a progress bar makes it."""
    called = compat.IS_KERAS_3 or verbose == 1
    assert_called_as_in_fit(bind_in, hook, verbose, expected=3 * 8 * called)


@pytest.mark.parametrize("bind_in", ["on_epoch_end", "on_test_begin"])
def test_a_hook_bound_at_the_end_of_an_epoch(bind_in):
    assert_called_as_in_fit(bind_in, "on_train_batch_end", 1, **VALIDATED, expected=2 * 8)


@pytest.mark.parametrize("hook", ["on_test_batch_begin", "on_test_batch_end"])
@pytest.mark.parametrize("bind_in", ["on_train_begin", "on_test_begin"])
def test_a_hook_of_validation(bind_in, hook):
    """In Keras 2 a progress bar has no such hook while `fit` validates, so the list calls none."""
    assert_called_as_in_fit(
        bind_in,
        hook,
        1,
        **VALIDATED,
        expected=3
        * 5
        * compat.calls_batch_hooks(
            keras.callbacks.CallbackList(add_progbar=True, verbose=1, epochs=1, steps=1), "test"
        ),
    )


def test_a_hook_bound_in_a_batch_hook_of_another_callback():
    def bind_at_the_third_step(late):
        def hook(batch, logs=None):
            if batch == 2:
                late.bind()

        return keras.callbacks.LambdaCallback(on_train_batch_begin=hook)

    recorded = []
    for how, base in (("custom_fit", CustomTrainModel), ("fit", keras.Model)):
        late = Late(None, "on_train_batch_end")
        arguments = {"x": X, "y": Y, "batch_size": 8, "epochs": 1, "callbacks": [bind_at_the_third_step(late), late]}
        train(models.dense, how, arguments, base=base)
        recorded.append(late.calls)
    assert recorded[0] == recorded[1]
    assert [batch for batch, _ in recorded[0]] == [2, 3, 4, 5, 6, 7]


def test_a_hook_that_is_bound_between_two_blocks_is_called_after_the_next_one():
    late = Late(None, "on_train_batch_end")
    model = models.dense(CustomTrainModel)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with TrainingSession(model, callbacks=[late], verbose=1) as session:
        for _ in session.epochs():
            session.train_on((X[:8], Y[:8]))
            late.bind()
            session.train_on((X[:8], Y[:8]))
            del late.on_train_batch_end
            session.train_on((X[:8], Y[:8]))
    assert [batch for batch, _ in late.calls] == [1]


def test_tqdm_counts_every_batch():
    tqdm = pytest.importorskip("tqdm.keras")
    counted = {}
    for how in ("custom_fit", "fit"):
        callback = tqdm.TqdmCallback(verbose=2, file=open("/dev/null", "w"))  # noqa: SIM115
        model = models.dense(CustomTrainModel)
        model.compile("sgd", "sparse_categorical_crossentropy")
        getattr(model, how)(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
        counted[how] = callback.batch_bar.n, callback.epoch_bar.n
    assert counted["custom_fit"] == counted["fit"] == (8, 2)
