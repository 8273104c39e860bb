"""Integer arguments: any integer there is, and an error by the argument's own name, at the call, for anything else."""

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, Every
from customfit.callbacks import LogEvery
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows()
INTEGERS = {
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "array": np.array,
    "tensor": tf.constant,
    "cardinality": lambda count: tf.data.Dataset.range(count).cardinality(),
}
NO_INTEGERS = {
    "float": 2.0,
    "numpy float": np.float32(2),
    "float array": np.array(2.0),
    "float tensor": tf.constant(2.0),
    "bool": True,
    "numpy bool": np.bool_(True),
    "bool tensor": tf.constant(True),
    "string": "2",
    "one in an axis": np.array([2]),
}
COUNTS = {  # of `custom_fit`: what else must be given
    "epochs": {},
    "batch_size": {},
    "steps_per_epoch": {},
    "initial_epoch": {},
    "validation_steps": {"validation_data": (X, Y)},
    "validation_batch_size": {"validation_data": (X, Y)},
    "validation_freq": {"validation_data": (X, Y)},
    "max_steps": {},
    "log_every": {},
}


@pytest.fixture
def untouched():
    model = compiled(models.dense)
    yield model
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize("integer", INTEGERS.values(), ids=INTEGERS)
def test_every_count_may_be_any_integer(integer):
    def arguments(count):
        return {
            "x": X,
            "y": Y,
            "validation_data": (X, Y),
            "epochs": count(4),
            "initial_epoch": count(1),
            "batch_size": count(16),
            "steps_per_epoch": count(2),
            "validation_steps": count(2),
            "validation_batch_size": count(8),
            "validation_freq": count(2),
        }

    plain = train(models.dense, "custom_fit", arguments(int))
    assert_equal(train(models.dense, "custom_fit", arguments(integer)), plain)
    stopping = EarlyStopping(patience=integer(5), restore_best_weights=False)
    more = {"max_steps": integer(50), "log_every": integer(100), "early_stopping": stopping}
    assert_equal(train(models.dense, "custom_fit", {**arguments(integer), **more}), plain)
    test = plain[0].custom_evaluate(X, Y, batch_size=integer(16), steps=integer(3), verbose=0)
    assert test == plain[0].custom_evaluate(X, Y, batch_size=16, steps=3, verbose=0)


@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_counts_of_batches_may_be_any_integer(kind):
    def data():
        if kind == "dataset":
            return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
        return ((X[:16], Y[:16]) for _ in range(100))

    given = lambda count: (
        lambda: {
            "x": data(),
            "batch_size": None,
            "steps_per_epoch": count(2),
            "validation_data": data(),
            "validation_steps": count(2),
            "epochs": 1,
        }
    )
    assert_equal(train(models.dense, "custom_fit", given(np.int64)), train(models.dense, "custom_fit", given(int)))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", NO_INTEGERS.values(), ids=NO_INTEGERS)
def test_anything_else_is_refused_by_the_name_of_the_argument(name, value, untouched):
    if name == "validation_freq" and isinstance(value, np.ndarray) and value.ndim:
        pytest.skip("a list of epochs")
    with pytest.raises(ValueError, match=rf"^`{name}` must be .*integer.* Received: {name}="):
        untouched.custom_fit(X, Y, verbose=0, **{name: value}, **COUNTS[name])


@pytest.mark.parametrize("value", [-1, 0])
@pytest.mark.parametrize("name", sorted(COUNTS.keys() - {"epochs", "initial_epoch"}))
def test_counts_are_positive(name, value, untouched):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a positive integer.* Received: {name}={value}"):
        untouched.custom_fit(X, Y, verbose=0, **{name: value}, **COUNTS[name])


@pytest.mark.parametrize("name", ["steps", "batch_size"])
@pytest.mark.parametrize("value", NO_INTEGERS.values(), ids=NO_INTEGERS)
def test_custom_evaluate_names_its_own_arguments(name, value, untouched):
    with pytest.raises(ValueError, match=rf"^`{name}` must be a positive integer. Received: {name}="):
        untouched.custom_evaluate(X, Y, verbose=0, **{name: value})


@pytest.mark.parametrize(
    ("make", "name", "attribute"),
    [
        (lambda value: Every(epochs=value), "epochs", "epochs"),
        (lambda value: Every(steps=value), "steps", "steps"),
        (lambda value: EarlyStopping(patience=value), "patience", "patience"),
        (lambda value: EarlyStopping(start_from_epoch=value), "start_from_epoch", "start_from_epoch"),
        (LogEvery, "log_every", "steps"),
    ],
    ids=["Every(epochs)", "Every(steps)", "patience", "start_from_epoch", "LogEvery"],
)
def test_counts_of_objects(make, name, attribute):
    for integer in INTEGERS.values():
        assert type(getattr(make(integer(3)), attribute)) is int
    for value in NO_INTEGERS.values():
        with pytest.raises(ValueError, match=rf"^`{name}` must be .*integer"):
            make(value)


def test_an_endless_dataset_asks_for_the_argument_that_was_left_out(untouched):
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()
    with pytest.raises(ValueError, match="^`steps_per_epoch` must be given"):
        untouched.custom_fit(endless, verbose=0)
    with pytest.raises(ValueError, match="^`validation_steps` must be given"):
        untouched.custom_fit(X, Y, validation_data=endless, verbose=0)
    with pytest.raises(ValueError, match="^`steps` must be given"):
        untouched.custom_evaluate(endless, verbose=0)


def test_a_cardinality_that_is_no_count_is_refused_in_plain_numbers(untouched):
    endless = tf.data.Dataset.range(3).repeat()
    with pytest.raises(ValueError, match=r"Received: steps_per_epoch=-1$"):
        untouched.custom_fit(X, Y, steps_per_epoch=endless.cardinality(), verbose=0)


def test_a_checkpoint_agrees_with_any_integer(tmp_path):
    def run(integer, epochs):
        keras.utils.set_random_seed(7)
        model = compiled(models.dense, CustomTrainModel)
        given = {"batch_size": integer(16), "early_stopping": integer(5), "steps_per_epoch": integer(5)}
        return model.custom_fit(X, Y, epochs=integer(epochs), checkpoint=tmp_path, verbose=0, **given)

    run(np.int64, 2)
    assert run(int, 3).epoch == [0, 1, 2]
