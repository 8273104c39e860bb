"""Data whose number of batches changes from epoch to epoch: followed as `fit` of each generation does."""

import itertools
import warnings

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled

X, Y = models.rows()
GROWING, SHRINKING = [1, 2, 3, 4, 5, 6, 7, 8], [5, 4, 3, 2, 2, 1, 1, 1]
RECOUNTS = not compat.IS_KERAS_3
RENEWS = compat.IS_KERAS_3 and compat.KERAS_VERSION >= (3, 7)
supports = pytest.mark.supports
anyway = pytest.mark.filterwarnings("ignore:.*(ran out of data|they are counted once)")


class Changing(keras.utils.Sequence):
    """A length for each epoch."""

    def __init__(self, lengths):
        if compat.IS_KERAS_3:
            super().__init__()
        self.lengths = itertools.chain(lengths, itertools.repeat(lengths[-1]))
        self.length = next(self.lengths)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        rows = slice(index * 8, index * 8 + 8)
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.length = next(self.lengths)


def from_generator(lengths):
    """A `tf.data.Dataset` of Python code, whose number of batches nobody knows."""
    lengths = itertools.chain(lengths, itertools.repeat(lengths[-1]))

    def batches():
        for index in range(next(lengths)):
            yield X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]

    spec = tf.TensorSpec([None, 8], tf.float32), tf.TensorSpec([None], tf.int64)
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def run(how, base, arguments):
    """Trains with a batch hook, so that steps are counted. Returns the model, its History and steps by epoch."""
    seen = []

    class Count(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append([0, 0])

        def on_train_batch_end(self, batch, logs=None):
            seen[-1][0] += 1

        def on_test_batch_end(self, batch, logs=None):
            seen[-1][1] += 1

    keras.utils.set_random_seed(SEED)
    model = compiled(models.dense, base, optimizer="sgd")
    given = {"verbose": 0, "epochs": 4, "callbacks": [Count()], "shuffle": False, **arguments()}
    return model, getattr(model, how)(**given), seen


def both(arguments):
    (*theirs, seen_by_fit), (*ours, seen) = (
        run("fit", keras.Model, arguments),
        run("custom_fit", CustomTrainModel, arguments),
    )
    assert seen == seen_by_fit
    assert_equal(ours, theirs)
    return seen


KINDS = {"sequence": Changing, "dataset": from_generator}


@supports("Data", "a `Sequence` or dataset whose number of batches changes from epoch to epoch")
@pytest.mark.parametrize("lengths", [GROWING, SHRINKING, [3, 5, 2, 6, 1, 4, 4, 4]], ids=["grows", "shrinks", "both"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@anyway
def test_training(kind, lengths):
    both(lambda: {"x": kind(lengths)})


@pytest.mark.parametrize("lengths", [GROWING, SHRINKING], ids=["grows", "shrinks"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@anyway
def test_validation(kind, lengths):
    if RECOUNTS and kind is from_generator and lengths is SHRINKING:
        pytest.skip("fit of Keras 2 validates no more once the data is shorter; we do")
    both(lambda: {"x": X[:16], "y": Y[:16], "batch_size": 8, "validation_data": kind(lengths)})


@pytest.mark.parametrize("lengths", [GROWING, SHRINKING], ids=["grows", "shrinks"])
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@anyway
def test_steps_per_epoch(kind, steps, lengths):
    shortened = RENEWS and kind is Changing and (steps, lengths) == (2, SHRINKING)
    if shortened or (compat.IS_KERAS_3 and not RENEWS):
        pytest.skip("fit of this Keras trains an epoch on nothing after the data's end")
    both(lambda: {"x": kind(lengths), "steps_per_epoch": steps, "epochs": 3})


@anyway
def test_one_sequence_to_train_and_validate_on():
    """Keras 2 calls `on_epoch_end` after validation; after the last epoch we do so before it."""

    def arguments():
        data = Changing([2, 3, 4, 5, 5 if RECOUNTS else 6, 5 if RECOUNTS else 7, 5 if RECOUNTS else 8])
        return {"x": data, "validation_data": data, "epochs": 3}

    both(arguments)


def told(arguments, epochs=4):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = compiled(models.dense)
        model.custom_fit(**arguments, epochs=epochs, verbose=0)
    return [str(w.message) for w in caught if "they are counted once" in str(w.message)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("lengths", [[2] * 9, SHRINKING])
def test_nothing_is_said_of_data_that_does_not_grow(kind, lengths):
    assert told({"x": kind(lengths)}) == []
    assert told({"x": X, "y": Y, "validation_data": kind(lengths)}) == []


def test_a_sequence_that_fit_would_truncate_in_silence_is_named():
    said = told({"x": Changing([2, 2, 4, 6, 8, 8])})
    if RECOUNTS:
        assert said == []
    else:
        assert len(said) == 1
        assert "The data now has 4 batches, and an epoch reads only 2" in said[0]


def test_a_dataset_that_fit_would_truncate_in_silence_is_named():
    said = told({"x": from_generator([2, 4, 6, 8])})
    assert len(said) == 1
    assert f"The data now has more batches, and an epoch reads only {2 if RECOUNTS else 3}" in said[0]


def test_validation_data_that_fit_would_truncate_in_silence_is_named():
    """From Keras 3.7 on a `Sequence` is counted before its `on_epoch_end`, which comes before each pass as well."""
    sequence, dataset = (
        told({"x": X, "y": Y, "validation_data": kind([2, 4, 6, 8])}) for kind in (Changing, from_generator)
    )
    assert len(sequence) == (0 if RECOUNTS else 1)
    assert len(dataset) == (0 if RENEWS else 1)


def test_an_iterable_is_followed():
    """`fit` takes none."""

    class Batches:
        epochs = iter([2, 4, 3])

        def __iter__(self):
            for index in range(next(self.epochs)):
                yield X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]

    model = compiled(models.dense)
    model.custom_fit(Batches(), epochs=3, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 9


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_a_validation_generator_that_is_used_up_ends_validation_and_not_training():
    """So it is under `fit` of Keras 2. From Keras 3.7 on, the generator's first two batches are read again."""

    def given():
        generator = ((X[begin : begin + 8], Y[begin : begin + 8]) for begin in range(0, 64, 8))
        return {"x": X, "y": Y, "batch_size": 16, "epochs": 5, "validation_data": generator}

    keras.utils.set_random_seed(SEED)
    model = compiled(models.dense)
    history = model.custom_fit(**given(), shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 5
    assert len(history.history["val_loss"]) == (5 if RENEWS else 1)
    if RENEWS or not compat.IS_KERAS_3:
        keras.utils.set_random_seed(SEED)
        theirs = compiled(models.dense, keras.Model)
        assert_equal((model, history), (theirs, theirs.fit(**given(), shuffle=False, verbose=0)))


def test_a_validation_generator_that_is_used_up_is_said():
    generator = ((X[begin : begin + 8], Y[begin : begin + 8]) for begin in range(0, 64, 8))
    with pytest.warns(UserWarning, match="ran out of data; the epoch ends after . of . steps"):
        compiled(models.dense).custom_fit(
            X, Y, epochs=5, verbose=0, validation_data=generator, validation_steps=4, early_stopping=3
        )


def test_weights_do_not_move_by_a_look_ahead():
    """The warning of truncated datasets reads a batch: after the last epoch only."""
    plain = lambda: {"x": from_generator([4] * 9)}
    both(plain)
    np.testing.assert_array_equal(*(run("custom_fit", CustomTrainModel, plain)[0].get_weights()[0] for _ in range(2)))
