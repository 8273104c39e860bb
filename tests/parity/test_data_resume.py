"""Positions in data: a run cut off at any step and resumed reads the batches that are left, in the order of `fit`."""

import numpy as np
import pytest

from customfit import Every, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.resume.cut import assert_resumes, train

X, Y = models.rows()
CUTS = [2, 4, 5, 8, 10, 11]  # within a pass of five batches, at its end, after it
anyway = pytest.mark.filterwarnings("ignore:.*(ran out of data|they are counted once|is certain for the next)")


def shuffled():
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70, seed=5).batch(16)


def unknown():
    return shuffled().filter(lambda x, y: True)


def taken_and_skipped():
    data = shuffled()
    return {"x": data.take(3), "validation_data": data.skip(3)}


GIVEN = {
    "4 of 5 steps": lambda: {"x": shuffled(), "steps_per_epoch": 4},
    "5 of 5 steps": lambda: {"x": shuffled(), "steps_per_epoch": 5},
    "8 of 5 steps": lambda: {"x": shuffled(), "steps_per_epoch": 8},
    "2 steps, size unknown": lambda: {"x": unknown(), "steps_per_epoch": 2, "epochs": 6},
    "validation on another": lambda: {"x": shuffled(), "validation_data": shuffled().take(2)},
    "validation by steps": lambda: {"x": shuffled(), "validation_data": shuffled(), "validation_steps": 2},
    "validation on arrays by steps": lambda: {
        "x": shuffled(),
        "validation_data": (X, Y),
        "validation_steps": 2,
        "validation_batch_size": 16,
    },
}


@pytest.mark.parametrize("name", GIVEN)
@anyway
def test_datasets_that_shuffle_themselves(name, tmp_path):
    if name == "8 of 5 steps" and not compat.IS_KERAS_3:
        pytest.skip("Keras 2 ends training there")
    given = lambda: {"batch_size": None, "epochs": 3, **GIVEN[name]()}
    trained = int(train(models.dense, given, optimizer="sgd")[0].optimizer.iterations.numpy())
    cuts = [step for step in CUTS if step < trained]
    assert len(cuts) > 1
    assert_resumes(models.dense, given, tmp_path, cuts=cuts, every=Every(steps=1))


@anyway
def test_parts_of_one_dataset_between_epochs(tmp_path):
    """They share a seed. Within an epoch, the iterators of later ones are made before those of validation."""
    given = lambda: {"batch_size": None, "epochs": 3, **taken_and_skipped()}
    assert_resumes(models.dense, given, tmp_path, cuts=[3, 6])


@anyway
def test_a_sequence_that_grows(tmp_path):
    class Growing(keras.utils.Sequence):
        def __init__(self):
            if compat.IS_KERAS_3:
                super().__init__()
            self.length = 2

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            return X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]

        def on_epoch_end(self):
            self.length += 1

    given = lambda: {"x": Growing(), "validation_data": Growing(), "batch_size": None, "shuffle": False}
    ours, history = assert_resumes(models.dense, given, tmp_path, cuts=[1, 3, 5], every=Every(steps=1))
    assert len(history.epoch) == 3
    assert np.isfinite(ours.get_weights()[0]).all()
