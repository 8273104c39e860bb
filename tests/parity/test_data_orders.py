"""The order in which a dataset that shuffles itself is read: as under `fit` of each generation, call after call.

Each iterator of a dataset with a `shuffle(seed=)` has another order than the one before, whether it is read or not. So
orders agree only if iterators are made when `fit` makes them, in training and validation, and also when training ends
early.
"""

import contextlib

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity.compare import SEED

ROWS = np.random.RandomState(0).rand(12, 2).astype("float32")
TARGETS = np.random.RandomState(1).rand(12, 1).astype("float32")
BEFORE_3_7 = compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 7)
LOSES_EPOCHS = BEFORE_3_7 or not compat.IS_KERAS_3
supports = pytest.mark.supports


def shuffled(seed=3):
    """Six batches of two rows in an order that each iterator draws."""
    return tf.data.Dataset.from_tensor_slices((ROWS, TARGETS)).shuffle(12, seed=seed).batch(2)


def unknown_size():
    return shuffled().filter(lambda x, y: True)


class At(keras.callbacks.Callback):
    """Does something at the n-th call of a hook."""

    def __init__(self, hook, count, act):
        super().__init__()
        self.left = count

        def called(*args):
            self.left -= 1
            if self.left == 0:
                act(self.model)

        setattr(self, hook, called)


class AtBatchEnd(At):
    """`At` with a batch hook on the class, where Keras 2 looks for it."""

    def __init__(self, count, act):
        super().__init__("unused", count, act)

    def on_train_batch_end(self, batch, logs=None):
        self.unused()


class AtTestBatchEnd(AtBatchEnd):
    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_batch_end(self, batch, logs=None):
        self.unused()


def stop(model):
    model.stop_training = True


def fail(model):
    raise KeyError("as a test asks")


class Calls:
    """`fit` and `evaluate` of a model, Keras's or ours. Notes what each call found."""

    def __init__(self, ours):
        keras.utils.set_random_seed(SEED)
        inputs = keras.Input((2,))
        self.model = (CustomTrainModel if ours else keras.Model)(inputs, keras.layers.Dense(1)(inputs))
        self.model.compile(keras.optimizers.SGD(0.5), "mse")
        self.ours = ours
        self.found = []

    def fit(self, data, **arguments):
        method = self.model.custom_fit if self.ours else self.model.fit
        with contextlib.suppress(KeyError):
            self.found.append(method(data, verbose=0, **arguments).history)
        self.found.append([weight.tolist() for weight in self.model.get_weights()])

    def evaluate(self, data, **arguments):
        method = self.model.custom_evaluate if self.ours else self.model.evaluate
        self.found.append(method(data, verbose=0, **arguments))


def assert_same_orders(pattern):
    theirs, ours = Calls(ours=False), Calls(ours=True)
    pattern(theirs)
    pattern(ours)
    assert ours.found == theirs.found


def twice(make, **arguments):
    """Two calls on one dataset: train, then fine-tune."""

    def pattern(calls):
        data = make()
        calls.fit(data, **{"epochs": 2, **arguments})
        calls.fit(data, **{"epochs": 2, **arguments})

    return pattern


def one_shared(**arguments):
    """Training and validation on one dataset."""

    def pattern(calls):
        data = shuffled()
        for _ in range(2):
            calls.fit(data, validation_data=data, epochs=2, **arguments)

    return pattern


def taken_and_skipped(**arguments):
    """Training and validation on parts of one shuffled dataset, which share its seed."""

    def pattern(calls):
        data = shuffled()
        for _ in range(2):
            calls.fit(data.take(4), validation_data=data.skip(4), **{"epochs": 3, **arguments})

    return pattern


def ended_by(callback, **arguments):
    """A first call that ends early, and a second one."""

    def pattern(calls):
        data = shuffled()
        calls.fit(data, epochs=3, callbacks=[callback()], **{"validation_data": data, **arguments})
        calls.fit(data, epochs=2)

    return pattern


def evaluated(**arguments):
    def pattern(calls):
        data = shuffled()
        calls.fit(data, epochs=2)
        calls.evaluate(data.take(3), **arguments)
        calls.fit(data, epochs=2)
        calls.evaluate(data.take(3), **arguments)

    return pattern


def zipped():
    left = tf.data.Dataset.from_tensor_slices(ROWS).shuffle(12, seed=3)
    right = tf.data.Dataset.from_tensor_slices(TARGETS).shuffle(12, seed=4)
    return tf.data.Dataset.zip((left, right)).batch(2)


def repeated(times=None):
    """Whose orders are drawn while it is read: TensorFlow must not read ahead, by as much as a thread happens to."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return lambda: shuffled().repeat(times).with_options(options)


def interleaved():
    part = lambda index: tf.data.Dataset.from_tensor_slices((ROWS, TARGETS)).shuffle(12, seed=3).batch(2).take(3)
    return tf.data.Dataset.range(2).interleave(part, cycle_length=2)


PATTERNS = {
    "two calls": twice(shuffled),
    "two calls, zip": twice(zipped),
    "two calls, interleave": twice(interleaved),
    "two calls, size unknown": twice(unknown_size),
    "two calls, mapped and prefetched": twice(lambda: shuffled().map(lambda x, y: (x, y)).prefetch(2)),
    "two calls, cached behind": twice(lambda: shuffled().map(lambda x, y: (x, y)).cache()),
    "two calls, repeat(2)": twice(repeated(2)),
    "two calls, class_weight": twice(
        lambda: shuffled().map(lambda x, y: (x, tf.cast(y > 0.5, tf.int32))), class_weight={0: 1.0, 1: 2.0}
    ),
    "initial_epoch": twice(shuffled, initial_epoch=1, epochs=3),
    "endless, 4 steps": twice(repeated(), steps_per_epoch=4, epochs=3),
    "endless, 6 steps": twice(repeated(), steps_per_epoch=6),
    "validation on the same": one_shared(),
    "validation on the same, 2 steps": one_shared(validation_steps=2),
    "validation on the same, every second epoch": one_shared(validation_freq=2),
    "validation on parts of one": taken_and_skipped(),
    "validation on parts of one, 1 step": taken_and_skipped(epochs=2, validation_steps=1),
    "stopped after an epoch": ended_by(lambda: At("on_epoch_end", 2, stop)),
    "stopped within an epoch": ended_by(lambda: AtBatchEnd(9, stop)),
    "stopped at an epoch's last batch": ended_by(lambda: AtBatchEnd(12, stop)),
    "early stopping": ended_by(lambda: keras.callbacks.EarlyStopping("loss", patience=0, baseline=-1.0)),
    "an exception within an epoch": ended_by(lambda: AtBatchEnd(9, fail)),
    "an exception at an epoch's last batch": ended_by(lambda: AtBatchEnd(12, fail)),
    "an exception after an epoch": ended_by(lambda: At("on_epoch_end", 2, fail)),
    "an exception before an epoch": ended_by(lambda: At("on_epoch_begin", 2, fail)),
    "an exception within validation": ended_by(lambda: AtTestBatchEnd(8, fail)),
    "an exception before validation": ended_by(lambda: At("on_test_begin", 2, fail)),
    "an exception after validation": ended_by(lambda: At("on_test_end", 2, fail)),
    "evaluate between calls": evaluated(),
    "evaluate 2 steps between calls": evaluated(steps=2),
    "evaluate all steps between calls": evaluated(steps=3),
}

# `fit` of Keras 2 and 3.0 to 3.6 trains an epoch on nothing after a pass whose end is that of an epoch. Keras 2 then
# stops, Keras 3 fails if it was a pass over validation data, and starts the next pass if not: we do so at once.
STEPS = {
    "4 of 6 steps": (twice(shuffled, steps_per_epoch=4, epochs=4), BEFORE_3_7),
    "4 of 6 steps, one pass and a bit": (twice(shuffled, steps_per_epoch=4, epochs=2), False),
    "3 of 6 steps": (twice(shuffled, steps_per_epoch=3, epochs=4), LOSES_EPOCHS),
    "3 of 6 steps, one pass": (twice(shuffled, steps_per_epoch=3, epochs=2), False),
    "1 of 6 steps": (twice(shuffled, steps_per_epoch=1, epochs=5), False),
    "6 of 6 steps": (twice(shuffled, steps_per_epoch=6, epochs=2), BEFORE_3_7),
    "8 of 6 steps": (twice(shuffled, steps_per_epoch=8, epochs=2), False),
    "8 of 12 steps, repeat(2)": (twice(repeated(2), steps_per_epoch=8, epochs=2), False),
    "4 of 6 steps, size unknown": (twice(unknown_size, steps_per_epoch=4, epochs=4), False),
    "4 steps and validation on the same": (one_shared(steps_per_epoch=4), False),
    "3 steps and validation on the same": (one_shared(steps_per_epoch=3), False),
    "6 steps and validation on the same": (one_shared(steps_per_epoch=6), BEFORE_3_7),
    "validation on the same, 6 steps": (one_shared(validation_steps=6), BEFORE_3_7),
    "4 steps, validation on the same of 2": (one_shared(steps_per_epoch=4, validation_steps=2), False),
    "3 steps, stopped after a pass": (
        ended_by(lambda: At("on_epoch_end", 2, stop), steps_per_epoch=3, validation_data=None),
        False,
    ),
    "3 steps, an exception at the end of a pass": (
        ended_by(lambda: AtBatchEnd(6, fail), steps_per_epoch=3, validation_data=None),
        False,
    ),
}


@supports("Data", "a dataset that shuffles itself: the order of `fit`, call after call")
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_orders(pattern):
    assert_same_orders(pattern)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_orders_by_steps(name):
    pattern, loses_epochs = STEPS[name]
    if loses_epochs:
        pytest.skip("fit of this Keras loses the epoch after the data's end")
    assert_same_orders(pattern)
