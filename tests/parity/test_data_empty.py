"""Data with nothing in it: as under `fit`, or one sentence at the call that names the argument."""

import warnings

import numpy as np
import pytest

from customfit import compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows()


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def nothing():
    return
    yield


class NoBatches(keras.utils.Sequence):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


class NoLength:
    def __iter__(self):
        return nothing()


EMPTY = {
    "arrays": (lambda: (X[:0], Y[:0]), r"Arrays must have at least one row. Received: {x}: 0, {y}: 0"),
    "lists": (lambda: ([], []), r"`{x}` must not be empty. Received: {x}=\[\]"),
    "dicts": (lambda: ({}, Y), r"`{x}` must not be empty. Received: {x}={{}}"),
    "no targets": (lambda: (X, Y[:0]), r"Arrays must all have the same number of rows. Received: {x}: 70, {y}: 0"),
    "a list of no targets": (lambda: (X, []), r"`{y}` must not be empty. Received: {y}=\[\]"),
    "no axis": (lambda: (np.array(1.0), Y), r"`{x}` must be arrays of rows. Received: an array of shape \(\)"),
    "dataset": (lambda: (batches().take(0), None), r"`{whole}` must have at least one batch. Received: a dataset of"),
    "sequence": (lambda: (NoBatches(), None), r"`{whole}` must have at least one batch. Received: a NoBatches of"),
    "generator": (lambda: (nothing(), None), "at least one batch"),
    "iterable": (lambda: (NoLength(), None), "at least one batch"),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty_data_is_refused_at_the_call(name):
    make, message = EMPTY[name]
    model = compiled(models.dense)
    x, y = make()
    with pytest.raises(ValueError, match=message.format(x="x", y="y", whole="x")):
        model.custom_fit(x, y, verbose=0)
    x, y = make()
    with pytest.raises(ValueError, match=message.format(x="x", y="y", whole="x")):
        model.custom_evaluate(x, y, verbose=0)
    x, y = make()
    names = {"x": r"validation_data\[0\]", "y": r"validation_data\[1\]", "whole": "validation_data"}
    with pytest.raises(ValueError, match=message.format(**names)):
        model.custom_fit(X, Y, verbose=0, validation_data=x if y is None else (x, y))
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize("nothing", [[], (), {}])
def test_no_validation_data_is_none(nothing):
    model = compiled(models.dense)
    with pytest.raises(ValueError, match="leave it out to train without validation. Received: validation_data="):
        model.custom_fit(X, Y, verbose=0, validation_data=nothing)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(
    ("split", "rows", "message"),
    [
        (0.999, 70, r"must leave rows to train on and to validate on. Received: validation_split=0.999 of 70 rows"),
        (0.5, 1, r"must leave rows to train on and to validate on. Received: validation_split=0.5 of 1 rows"),
        (0.5, 0, r"Arrays must have at least one row. Received: x: 0, y: 0"),
        (1.0, 70, r"`validation_split` must be between 0 and 1. Received: validation_split=1.0"),
        (-0.1, 70, r"`validation_split` must be between 0 and 1. Received: validation_split=-0.1"),
        ("0.2", 70, r"`validation_split` must be between 0 and 1. Received: validation_split='0.2'"),
    ],
)
def test_a_split_leaves_rows_on_both_sides(split, rows, message):
    model = compiled(models.dense)
    with pytest.raises(ValueError, match=message):
        model.custom_fit(X[:rows], Y[:rows], validation_split=split, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize("split", [0.01, 0.98])
def test_a_split_of_one_row(split):
    given = {"x": X, "y": Y, "validation_split": split}
    assert_equal(train(models.dense, "custom_fit", given), train(models.dense, "fit", given, base=keras.Model))


def test_validation_data_that_turns_out_to_be_empty_ends_no_training():
    """`fit` of Keras 2 and 3.7 on validates in vain; its History has no `val_loss`."""
    given = lambda: {"x": X, "y": Y, "validation_data": batches().filter(lambda x, y: False)}
    with pytest.warns(UserWarning, match="ran out of data"):
        ours = train(models.dense, "custom_fit", given)
    assert len(ours[1].history["loss"]) == 3
    assert "val_loss" not in ours[1].history
    if not compat.IS_KERAS_3 or compat.KERAS_VERSION >= (3, 7):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_equal(ours, train(models.dense, "fit", given, base=keras.Model))


def test_training_data_that_turns_out_to_be_empty():
    model = compiled(models.dense)
    with pytest.raises(ValueError, match="must give at least one batch an epoch"):
        model.custom_fit(batches().filter(lambda x, y: False), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0
