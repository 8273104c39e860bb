"""Strings, objects and pandas columns: trained on as under `fit`, or refused by dtype and column at the call."""

import re

import numpy as np
import pytest

from customfit import compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

layers = keras.layers
X, Y = models.rows()
RNG = np.random.RandomState(2)
VOCABULARY = ["a", "b", "cc", "ddd"]
WORDS = np.array(VOCABULARY)[RNG.randint(0, 4, len(X))]
PAIRS = np.stack([WORDS, WORDS[::-1]], axis=1)
supports = pytest.mark.supports


def reader(*shape):
    """A model of words that are looked up."""

    def build(cls):
        inputs = keras.Input(shape, dtype="string")
        vectors = layers.Embedding(6, 3)(layers.StringLookup(vocabulary=VOCABULARY)(inputs))
        hidden = layers.Flatten()(vectors) if shape else layers.Reshape((3,))(vectors)
        return cls(inputs, layers.Dense(3, activation="softmax")(hidden))

    return build


STRINGS = {
    "objects": ((), lambda: WORDS.astype(object)),
    "objects of two axes": ((2,), lambda: PAIRS.astype(object)),
    "objects of three axes": ((2, 1), lambda: PAIRS.astype(object)[..., None]),
    "bytes as objects": ((2,), lambda: PAIRS.astype("S").astype(object)),
    "fixed width": ((2,), lambda: PAIRS),
    "bytes": ((2,), lambda: PAIRS.astype("S")),
    "Series": ((1,), lambda: pandas().Series(WORDS)),
    "Series of objects": ((1,), lambda: pandas().Series(WORDS.astype(object), dtype=object)),
    "Series of strings": ((1,), lambda: pandas().Series(WORDS, dtype="string")),
    "Series of categories": ((1,), lambda: pandas().Series(WORDS, dtype="category")),
    "DataFrame": ((2,), lambda: pandas().DataFrame(PAIRS)),
    "list": ((1,), lambda: WORDS.tolist()),
    "tensor": ((2,), lambda: tf.constant(PAIRS)),
}


def pandas():
    return pytest.importorskip("pandas")


def run(build, arguments):
    """Keras's fit, if it takes the data, and ours."""
    ours = train(build, "custom_fit", arguments)
    try:
        theirs = train(build, "fit", arguments, base=keras.Model)
    except (ValueError, TypeError, IndexError):
        return ours, None
    assert_equal(ours, theirs)
    return ours, theirs


@supports("Data", "strings: arrays, objects of any rank, pandas columns, lists", fit="some")
@pytest.mark.parametrize("name", STRINGS)
def test_strings(name):
    shape, make = STRINGS[name]
    known = (tf.constant(PAIRS) if shape and shape[0] == 2 else tf.constant(WORDS)) if shape != (2, 1) else None
    known = tf.constant(PAIRS[..., None]) if known is None else known
    ours, theirs = run(reader(*shape), {"x": make(), "y": Y})
    assert_equal(ours, train(reader(*shape), "custom_fit", {"x": known, "y": Y}))
    if not compat.IS_KERAS_3 and name != "list":
        assert theirs is not None  # Keras 2 takes them all


NUMBERS = {
    "bools": lambda frame: frame > 0.5,
    "integers and floats": lambda frame: frame.assign(a=Y),
    "Int64": lambda frame: (frame * 10).astype("int64").astype("Int64"),
    "Float64": lambda frame: frame.astype("Float64"),
    "boolean": lambda frame: (frame > 0.5).astype("boolean"),
    "nullable and plain": lambda frame: frame.assign(a=pandas().Series(Y).astype("Int64")),
    "categories of integers": lambda frame: (frame * 10).astype("int64").astype("category"),
    "one category": lambda frame: frame.assign(a=pandas().Series(Y).astype("category")),
}


def frame():
    return pandas().DataFrame(X, columns=list("abcdefgh"))


@supports("Data", "pandas columns: nullable and categorical", fit="some")
@pytest.mark.parametrize("name", NUMBERS)
def test_columns_of_numbers(name):
    data = NUMBERS[name](frame())
    ours, _ = run(models.dense, {"x": data, "y": Y})
    dtype = "bool" if name in ("bools", "boolean") else "float32"
    assert_equal(
        ours, train(models.dense, "custom_fit", {"x": data.astype("float64").astype(dtype).to_numpy(), "y": Y})
    )


@pytest.mark.parametrize("dtype", ["Int64", "category", "int8"])
def test_columns_of_targets(dtype):
    ours, _ = run(models.dense, {"x": X, "y": pandas().Series(Y).astype(dtype)})
    assert_equal(ours, train(models.dense, "custom_fit", {"x": X, "y": Y[:, None]}))


WRONG = {
    "bool and float": (
        lambda: frame().assign(c=Y > 0),
        r"columns of one kind: .*`x.astype\('float32'\)`.*: column 'a' of dtype float32, column 'c' of dtype bool",
    ),
    "a category and floats": (
        lambda: frame().assign(b=pandas().Series(WORDS, dtype="category")),
        r"columns of one kind: .*column 'b' of dtype category",
    ),
    "missing integers": (
        lambda: frame().assign(b=pandas().Series([None, *Y[1:]], dtype="Int64")),
        r"no missing values .*`fillna\(0\)`.* Received: missing values in column 'b' of dtype Int64",
    ),
    "missing strings": (
        lambda: pandas().Series([None, *WORDS[1:]]),
        "no missing values .* Received: .*a Series of dtype",
    ),
    "dates": (
        lambda: frame().assign(b=pandas().date_range("2020", periods=len(X))),
        r"columns of numbers, bools or strings. .*Received: column 'b' of dtype datetime64",
    ),
    "array of dates": (lambda: np.zeros((70, 8), "datetime64[s]"), "must hold numbers.* of dtype datetime64"),
    "floats as objects": (lambda: X.astype(object), r"`x.astype\('float32'\)`.* dtype object that holds float"),
    "lists as objects": (
        lambda: np.array([[1], [1, 2]] * 35, object),
        r"different lengths.*`tf.ragged.constant\(x\)`.* dtype object that holds list",
    ),
    "None": (lambda: np.full((70, 8), None), "Fill in missing values.* that holds NoneType"),
    "a word that is missing": (lambda: np.array([np.nan, *WORDS[1:]], object), "Fill in missing values.* holds float"),
    "a number": (lambda: 3.0, "`x` must be an array with one entry a row. Received: x=3.0"),
    "a file": (lambda: "data.csv", "`x` must be data, not the name of a file.* Received: 'data.csv'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_tensor_can_be_made_of_is_refused(name):
    make, message = WRONG[name]
    model = compiled(models.dense)
    with pytest.raises(ValueError, match=message):
        model.custom_fit(make(), Y, verbose=0)
    with pytest.raises(ValueError, match=re.sub(r"\bx\b", r"validation_data\[0\]", message)):
        model.custom_fit(X, Y, verbose=0, validation_data=(make(), Y))
    with pytest.raises(ValueError, match=message):
        model.custom_evaluate(make(), Y, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0


def test_the_part_that_is_wrong_is_named():
    model = compiled(models.dense)
    with pytest.raises(ValueError, match=r"`x\['left'\]` must hold numbers"):
        model.custom_fit({"left": X.astype(object), "right": X}, Y, verbose=0)
    with pytest.raises(ValueError, match=r"`x\[1\]` must hold numbers"):
        model.custom_fit([X, X.astype(object)], Y, verbose=0)
    with pytest.raises(ValueError, match=r"`y` must hold numbers.*`y.astype"):
        model.custom_fit(X, Y.astype(object), verbose=0)
    with pytest.raises(ValueError, match=r"`sample_weight` must hold numbers"):
        model.custom_fit(X, Y, sample_weight=np.ones(70, object), verbose=0)
