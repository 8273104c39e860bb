"""`sample_weight` and `class_weight` in every form: as `fit` of some Keras takes them, or refused at the call."""

import numpy as np
import pytest

from customfit import compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, assert_parity, compiled, train

X, Y = models.rows()
SIZES = X[:, :1]
WEIGHTS = np.linspace(0, 1, len(X)).astype("float32")
BY_CLASS = {0: 1.0, 1: 2.0, 2: 3.0}
ONE_HOT = np.eye(3, dtype="float32")[Y]
supports = pytest.mark.supports


def pandas():
    return pytest.importorskip("pandas")


@supports("Data", "`class_weight` together with `sample_weight`", fit="Keras 2")
@pytest.mark.parametrize("targets", ["ids", "ids of two axes", "one-hot", "Series"])
@pytest.mark.parametrize("weights", ["array", "array of two axes", "Series", "tensor", "list"])
def test_class_weight_and_sample_weight(weights, targets):
    y = {
        "ids": lambda: Y,
        "ids of two axes": lambda: Y[:, None],
        "one-hot": lambda: ONE_HOT,
        "Series": lambda: pandas().Series(Y),
    }[targets]()
    sample_weight = {
        "array": lambda: WEIGHTS,
        "array of two axes": lambda: WEIGHTS[:, None],
        "Series": lambda: pandas().Series(WEIGHTS),
        "tensor": lambda: tf.constant(WEIGHTS),
        "list": lambda: WEIGHTS.tolist(),
    }[weights]()
    options = {"loss": "categorical_crossentropy"} if targets == "one-hot" else {}
    given = {"x": X, "y": y, "class_weight": BY_CLASS, "sample_weight": sample_weight}
    ours = train(models.dense, "custom_fit", given, **options)
    product = WEIGHTS * np.vectorize(BY_CLASS.get)(Y).astype("float32")
    theirs = {"x": X, "y": y, "sample_weight": product}
    assert_equal(ours, train(models.dense, "fit", theirs, base=keras.Model, **options))


def test_weights_of_steps_in_time():
    """Class ids for each of several steps of a row, and a weight a row."""

    def tagger(cls):
        inputs = keras.Input((8, 1))
        return cls(inputs, keras.layers.Dense(3, activation="softmax")(inputs))

    y = np.eye(3, dtype="float32")[np.random.RandomState(0).randint(0, 3, (70, 8))]
    given = {"x": X[..., None], "y": y, "class_weight": BY_CLASS}
    options = {"loss": "categorical_crossentropy", "metrics": None}
    plain = train(tagger, "custom_fit", {**given, "sample_weight": np.ones(70)}, **options)
    assert_equal(plain, train(tagger, "custom_fit", given, **options))


KEYS = {
    "NumPy": lambda: {np.int64(k): np.float32(v) for k, v in BY_CLASS.items()},
    "floats": lambda: {float(k): v for k, v in BY_CLASS.items()},
    "integers": lambda: {k: int(v) for k, v in BY_CLASS.items()},
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_and_values(kind):
    assert_parity(models.dense, {"x": X, "y": Y, "class_weight": KEYS[kind]()})


def test_a_series_of_weights_is_by_class():
    series = train(models.dense, "custom_fit", {"x": X, "y": Y, "class_weight": pandas().Series([1.0, 2.0, 3.0])})
    assert_equal(series, train(models.dense, "custom_fit", {"x": X, "y": Y, "class_weight": BY_CLASS}))


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_no_class_weight_at_all(kind):
    given = {"x": X, "y": Y} if kind == "arrays" else {"x": batches(), "batch_size": None}
    plain = train(models.dense, "custom_fit", given)
    assert_equal(train(models.dense, "custom_fit", {**given, "class_weight": {}}), plain)


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ([1.0, 2.0, 3.0], r"pass `dict\(enumerate\(class_weight\)\)`. Received: class_weight of type list"),
        (np.ones(3), r"pass `dict\(enumerate\(class_weight\)\)`. Received: class_weight of type ndarray"),
        ("balanced", r"`sklearn.utils.class_weight.compute_class_weight`. Received: class_weight='balanced'"),
        (2.0, r"Received: class_weight of type float"),
        ({"0": 1.0}, r"The ids are those in `y`, not the names of the classes. Received: a key '0' of type str"),
        ({"cat": 1.0}, r"Received: a key 'cat' of type str"),
        ({0: "1"}, r"Received: a weight '1' of type str"),
        ({0: None}, r"Received: a weight None of type NoneType"),
        ({0: [1.0]}, r"Received: a weight \[1.0\] of type list"),
    ],
    ids=["list", "array", "balanced", "number", "string", "name", "string weight", "no weight", "list weight"],
)
def test_wrong_class_weights_are_refused(class_weight, message, kind):
    model = compiled(models.dense)
    given = {"x": X, "y": Y} if kind == "arrays" else {"x": batches()}
    with pytest.raises(ValueError, match=f"`class_weight` must be a dict from class ids to weights.*{message}"):
        model.custom_fit(**given, class_weight=class_weight, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0


# ------------------------------------------------------------------------------------------------ several outputs

LOSSES = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
BY_NAME = {"loss": LOSSES, "metrics": None}


def in_a_list(cls):
    named = models.two_outputs(cls)
    return cls(named.inputs, [named.output["kind"], named.output["size"]])


@supports("Data", "a `sample_weight` dict for some of the outputs", fit="Keras 2")
@pytest.mark.parametrize("name", ["kind", "size"])
@pytest.mark.parametrize("as_list", [False, True])
def test_weights_of_one_output(name, as_list):
    weights = WEIGHTS if name == "kind" else WEIGHTS[::-1].copy()
    build = in_a_list if as_list else models.two_outputs
    options = {"loss": list(LOSSES.values()), "metrics": None} if as_list else BY_NAME
    y = [Y, SIZES] if as_list else {"kind": Y, "size": SIZES}
    given = {"x": X, "y": y, "sample_weight": {name: weights}}
    ours = train(build, "custom_fit", {**given, "validation_data": (X, y, {name: weights})}, **options)
    ones = {other: weights if other == name else np.ones(70, "float32") for other in LOSSES}
    each = list(ones.values()) if as_list else ones
    explicit = {"x": X, "y": y, "sample_weight": each, "validation_data": (X, y, each)}
    theirs = train(build, "fit", explicit, base=keras.Model, **options)
    for mine, other in zip(ours[0].get_weights(), theirs[0].get_weights()):
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-6)
    if not compat.IS_KERAS_3:
        theirs = train(build, "fit", given, base=keras.Model, **options)
        for mine, other in zip(ours[0].get_weights(), theirs[0].get_weights()):
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("y", "sample_weight", "message"),
    [
        (dict, {"kinds": WEIGHTS}, r"names of outputs: 'kind', 'size'. Did you mean 'kind'\? Received: .* 'kinds'"),
        (list, [WEIGHTS], "an array, or `None`, for each of the 2 outputs. Received: a list of 1"),
    ],
)
def test_weights_that_fit_no_output_are_refused(y, sample_weight, message):
    model = compiled(models.two_outputs, **BY_NAME)
    targets = {"kind": Y, "size": SIZES} if y is dict else [Y, SIZES]
    with pytest.raises(ValueError, match=message):
        model.custom_fit(X, targets, sample_weight=sample_weight, verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0
