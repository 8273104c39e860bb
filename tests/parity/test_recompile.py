"""Callbacks that change the model in mid-run: from the next step on the change holds, or it is an error at once."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows(64)
HOOKS = ["on_epoch_begin", "on_epoch_end", "on_train_batch_end"]


class Changes(keras.callbacks.Callback):
    """Calls `change(model)` in the second epoch."""

    def __init__(self, hook, change):
        super().__init__()
        self.epoch, self.done = 0, False

        def call(*args, **kwargs):
            if hook == "on_epoch_begin":
                self.epoch = args[0]
            if self.epoch == 1 and not self.done:
                self.done = True
                change(self.model)

        setattr(self, hook, call)
        if hook != "on_epoch_begin":
            self.on_epoch_begin = self.note

    def note(self, epoch, logs=None):
        self.epoch = epoch


def freeze_and_compile(model):
    model.layers[1].trainable = False
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])


@pytest.mark.parametrize("hook", HOOKS)
def test_compile_holds_from_the_next_step_on(hook):
    """As two calls would have it, the second after `compile()`."""
    first_calls = {"on_epoch_begin": 4, "on_epoch_end": 8, "on_train_batch_end": 5}
    model = compiled(models.dense, optimizer=lambda: keras.optimizers.SGD(0.1))
    before = {}

    def change(model):
        before["weights"] = model.get_weights()
        freeze_and_compile(model)

    history = model.custom_fit(
        X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[Changes(hook, change)]
    )
    assert int(model.optimizer.iterations.numpy()) == 12 - first_calls[hook]
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], before["weights"][0])
    assert not np.array_equal(model.get_weights()[-1], before["weights"][-1])
    assert all(loss > 0 for loss in history.history["loss"])


def test_compile_between_epochs_is_what_two_calls_are():
    one = compiled(models.dense, optimizer=lambda: keras.optimizers.SGD(0.1))
    two = compiled(models.dense, optimizer=lambda: keras.optimizers.SGD(0.1))
    two.set_weights(one.get_weights())
    given = {"batch_size": 16, "shuffle": False, "verbose": 0}
    one.custom_fit(X, Y, epochs=3, callbacks=[Changes("on_epoch_begin", freeze_and_compile)], **given)
    two.custom_fit(X, Y, epochs=1, **given)
    freeze_and_compile(two)
    two.custom_fit(X, Y, epochs=2, **given)
    for mine, other in zip(one.get_weights(), two.get_weights()):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_train_function_made_again_is_used_as_under_fit(hook):
    def change(model):
        model.layers[1].trainable = False
        model.make_train_function(force=True)

    given = lambda: {"x": X, "y": Y, "shuffle": False, "callbacks": [Changes(hook, change)]}
    ours = train(models.dense, "custom_fit", given)
    assert_equal(ours, train(models.dense, "fit", given, base=keras.Model))


@pytest.mark.parametrize("how", ["replaced", "forgotten", "eager"])
def test_what_a_step_depends_on_may_be_replaced(how):
    seen = []

    class Looks(CustomTrainModel):
        def train_step(self, data):
            seen.append(getattr(data[0], "numpy", None) is not None)
            return super().train_step(data)

    def change(model):
        if how == "replaced":
            model.optimizer = keras.optimizers.SGD(0.5)
        elif how == "forgotten":
            model.forget_steps()
        else:
            model.run_eagerly = True
        seen.append("changed")

    model = compiled(models.dense, Looks)
    model.custom_fit(X, Y, batch_size=16, epochs=3, verbose=0, callbacks=[Changes("on_epoch_begin", change)])
    assert len(seen) > seen.index("changed") + 1  # traced, or run, again
    if how == "replaced":
        assert int(model.optimizer.iterations.numpy()) == 8


def test_a_loss_that_is_replaced_is_an_error_at_once():
    def change(model):
        model.loss = "mse"

    model = compiled(models.dense)
    with pytest.raises(ValueError, match=r"`model.loss` must not be replaced.*Call `model.compile\(\)`"):
        model.custom_fit(X, Y, epochs=3, verbose=0, callbacks=[Changes("on_epoch_begin", change)])
    assert int(model.optimizer.iterations.numpy()) == 2
