"""What a checkpoint says of the model that it belongs to: what is a difference, in which words, and what is none."""

import copy

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.checkpoint.differences import differences, in_words, releases
from customfit.checkpoint.fingerprint import fingerprint
from customfit.checkpoint.options import describe, plain, same, short
from customfit.checkpoint.releases import as_of_this_release
from customfit.compat import keras, tf

layers, optimizers = keras.layers, keras.optimizers


def build(
    units=4, activation="relu", l2=0.01, inner=2, cell=3, normalized=False, function=lambda x: 2.0 * x, inputs=(5, 4)
):
    sequence = keras.Input(inputs)
    encoder = keras.Sequential([keras.Input((2 * cell,)), layers.Dense(inner)], name="encoder")
    hidden = encoder(layers.Bidirectional(layers.GRU(cell, kernel_regularizer=keras.regularizers.L2(l2)))(sequence))
    hidden = layers.Dense(units, activation=activation)(layers.Lambda(function, name="twice")(hidden))
    if normalized:
        hidden = layers.BatchNormalization(name="norm")(hidden)
    return CustomTrainModel(sequence, layers.Dense(1, name="head")(hidden))


def fingerprint_of(model=None, optimizer=None, loss="mse", **options):
    model = build(**options) if model is None else model
    model.compile(optimizers.Adam() if optimizer is None else optimizer, loss)
    return fingerprint(model, None, {})


def differing(saved, now):
    """The differences. The names of layers count on from one to the other, as they do in one process."""
    return in_words(differences(saved, now, []))


@pytest.fixture(scope="module")
def saved():
    return fingerprint_of()


@pytest.fixture
def fresh():
    """As a new process has it: names of layers start from the beginning."""
    keras.backend.clear_session()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ""),
        ({"units": 5}, "dense_1: units=5, was 4"),
        ({"activation": None}, "dense_1: activation='linear', was 'relu'"),
        ({"inner": 3}, "encoder/dense: units=3, was 2"),
        ({"normalized": True}, "norm (BatchNormalization) is new"),
        ({"optimizer": lambda: optimizers.Adam(0.01)}, "learning_rate=0.01, was 0.001"),
        ({"optimizer": lambda: optimizers.Adam(beta_1=0.8)}, "optimizer: beta_1=0.8, was 0.9"),
        ({"loss": "mae"}, "loss='mae', was 'mse'"),
        ({"inputs": (5, 3)}, "was [None, 5, 4]"),
        ({"l2": 0.02}, "layer.kernel_regularizer.l2=0.02, was 0.01"),
        ({"cell": 2}, "bidirectional: layer.units=2, was 3"),
        ({"function": lambda x: 3.0 * x}, "twice: function.code of Python "),
        ({"function": lambda x: 2.0 * x}, ""),  # the same code in another place
        ({"optimizer": lambda: optimizers.SGD(0.1, momentum=0.9)}, "momentum=0.9), was Adam("),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_difference_names_the_layer_and_the_option(options, expected, saved):
    made = {name: make() if name == "optimizer" else make for name, make in options.items()}
    found = differing(saved, fingerprint_of(**made))
    assert found == expected or (expected and expected in found), found


def test_schedules_losses_and_several_optimizers():
    schedule = optimizers.schedules.CosineDecay
    one, other = (fingerprint_of(optimizer=optimizers.SGD(schedule(0.1, steps))) for steps in (10, 20))
    assert differing(one, other) == "optimizer: learning_rate.decay_steps=20, was 10"
    Crossentropy = keras.losses.BinaryCrossentropy  # noqa: N806
    one, other = (fingerprint_of(loss={"head": Crossentropy(label_smoothing=each)}) for each in (0.1, 0.2))
    assert differing(one, other) == "loss of head: label_smoothing=0.2, was 0.1"
    inputs = keras.Input((4,))
    model = CustomTrainModel(inputs, layers.Dense(1, name="last")(layers.Dense(2, name="first")(inputs)))
    groups = lambda momentum: {"first": optimizers.Adam(), "last": optimizers.SGD(momentum=momentum)}
    one, other = (fingerprint_of(model, groups(each)) for each in (0.8, 0.9))
    assert differing(one, other) == "optimizer: groups[1][1].momentum=0.9, was 0.8"
    assert differing(of_an_older_release(one), one) == ""


def test_only_the_first_differences_are_listed(saved):
    found = differing(saved, fingerprint_of(units=9, activation=None, inner=9, cell=9, l2=9.0, normalized=True))
    assert found.count(";") == 5
    assert found.endswith(" more differences")


def test_numbers_of_automatic_names_are_no_difference():
    one, other = fingerprint_of(), fingerprint_of()
    assert one["layers"][1]["name"] != other["layers"][1]["name"]
    assert differing(one, other) == ""


def test_a_layer_that_is_gone_or_in_another_s_place():
    def model(*between):
        inputs = keras.Input((4,))
        hidden = layers.Dense(4, name="first")(inputs)
        for layer in between:
            hidden = layer(hidden)
        return fingerprint_of(CustomTrainModel(inputs, layers.Dense(4, name="last")(hidden)))

    norm = lambda: layers.BatchNormalization(name="norm")
    assert differing(model(norm()), model()) == "norm (BatchNormalization) is missing"
    found = differing(model(norm()), model(layers.LayerNormalization(name="other")))
    assert found == "other is LayerNormalization, was BatchNormalization (norm)"
    assert differing(model(layers.ReLU(name="a")), model(layers.ReLU(name="b"))) == ""  # of no weights: only a name


# ------------------------------------------------------------------------------------------------- releases of Keras


def of_an_older_release(value):
    """A fingerprint without the options that are as the constructor has them."""
    if isinstance(value, dict):
        return {key: {} if key == "defaults" else of_an_older_release(item) for key, item in value.items()}
    return [of_an_older_release(item) for item in value] if isinstance(value, list) else value


def test_an_option_that_one_release_lacks_is_no_difference_if_it_is_the_default(saved):
    older = of_an_older_release(saved)
    assert older != saved
    assert differing(older, saved) == differing(saved, older) == ""


def test_an_option_that_one_release_lacks_is_a_difference_if_it_was_chosen():
    keras.backend.clear_session()
    inputs = keras.Input((4,))
    chosen = fingerprint_of(CustomTrainModel(inputs, layers.Dense(1, use_bias=False)(inputs)))
    lacking = copy.deepcopy(chosen)
    del lacking["layers"][1]["options"]["use_bias"]
    assert differing(lacking, chosen) == "dense: use_bias=False, was absent"
    assert differing(chosen, lacking) == "dense: no use_bias, was False"


def test_a_default_that_another_release_has_changed_is_a_difference(saved):
    keras.backend.clear_session()
    older = copy.deepcopy(saved)
    older["optimizer"]["defaults"]["epsilon"] = 1e-8
    assert differing(older, fingerprint_of()) == "optimizer: epsilon=1e-07, was 1e-08"


def test_the_releases_are_named(saved):
    older = {**saved, "release": "Keras 0.9"}
    assert releases(older, saved) == f"written with Keras 0.9 and read with {compat.keras_release()}"
    assert releases(saved, saved) == f"written and read with {compat.keras_release()}"
    assert differing({**saved, "Keras": 1}, saved) == f"Keras {compat.GENERATION} cannot resume a run of Keras 1"
    assert "earlier version of customfit" in differing({"Keras": 3, "layer 0 (InputLayer)": {}}, saved)


class Own(keras.layers.Layer):
    """A layer of the user's."""

    def __init__(self, scale=2.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "derived": self.scale + 1}


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (lambda: layers.Dense(4, trainable=False), {"units": 4, "activation": "linear", "trainable": False}),
        (lambda: layers.BatchNormalization(momentum=0.9), {"momentum": 0.9}),
        (lambda: layers.LayerNormalization(), {}),
        (lambda: layers.Dropout(0.5, seed=3), {"rate": 0.5, "seed": 3}),
        (lambda: layers.ZeroPadding2D(1), {"padding": [[1, 1], [1, 1]]}),
        (lambda: keras.regularizers.L1L2(0.1, 0.2), {"l1": 0.1, "l2": 0.2}),
        (lambda: optimizers.Adam(beta_2=0.9), {"beta_2": 0.9}),
        (lambda: keras.losses.MeanSquaredError(), {}),
        (lambda: keras.losses.CategoricalCrossentropy(from_logits=True), {"from_logits": True}),
        (lambda: Own(), {"derived": 3.0}),
        (lambda: Own(3.0), {"scale": 3.0, "derived": 4.0}),
    ],
)
def test_defaults_are_those_of_the_constructor(thing, expected):
    found = describe(thing())["options"]
    for name in ("learning_rate", "jit_compile", "dtype", "axis"):  # depend on more than the arguments
        found.pop(name, None)
    assert found.keys() == expected.keys()
    assert all(same(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:.*lambda")
def test_an_activation_without_a_name():
    """Which releases serialize, and TensorFlow 2.12 by its name only."""
    one, same_code = (fingerprint_of(activation=lambda x: 2.0 * x) for _ in range(2))
    other = fingerprint_of(activation=lambda x: 3.0 * x)
    assert differing(one, same_code) == differing(one, of_an_older_release(one)) == ""
    knows_code = not tf.__version__.startswith("2.12")
    assert ("activation.code of Python" in differing(one, other)) == knows_code


def test_what_is_within_a_layer_has_defaults_too():
    described = describe(layers.TimeDistributed(layers.Dense(4, dtype="mixed_float16")))
    inner = described["options"]["layer"]
    assert inner["type"] == "Dense"
    assert inner["options"] == {"units": 4, "activation": "linear", "dtype": "mixed_float16"}
    assert inner["defaults"]["use_bias"] is True
    cell = describe(layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]))["options"]["cell"]
    assert [each["options"]["units"] for each in cell["options"]["cells"]] == [3, 2]


def test_numbers_are_written_as_people_write_them():
    assert short(float(np.float32(0.001))) == short(0.001) == 0.001
    assert short(1 / 3) == 1 / 3
    assert short(2.0) == 2.0
    assert short(1e300) == 1e300
    assert plain({"rate": np.float32(0.5), "size": np.array(3), "shape": (1, 2), "fn": tf.nn.relu}) == {
        "rate": 0.5,
        "size": 3,
        "shape": [1, 2],
        "fn": "relu",
    }
    one, other = (fingerprint_of(optimizer=optimizers.Adam(epsilon=each)) for each in (0.1, float(np.float32(0.1))))
    assert differing(one, other) == ""


# -------------------------------------------------------------------------------------- names and dtypes of variables


def translated(saved, variables):
    """The values that end up in each variable, given saved values by name."""
    values = {name: np.asarray(value) for name, value in saved.items()}
    named = {name: f"{value.dtype.name}{list(value.shape)}" for name, value in values.items()}
    found, values = as_of_this_release(named, values, {name: tf.Variable(value) for name, value in variables.items()})
    assert list(found) == list(values)
    return {name: values[name].tolist() for name in found}


F = np.float32
PAIR = [F(0), F(0)]


def test_variables_of_an_optimizer_are_found_by_the_ends_of_their_names():
    saved = {
        "optimizer/0/0/SGD/iteration": 7,
        "optimizer/0/1/cond/SGD/m/dense/kernel:0": [F(1), F(2)],
        "optimizer/0/2/cond/SGD/v/dense/kernel:0": [F(3), F(4)],
        "optimizer/1/0/cond/SGD/m/dense/kernel:0": [F(5), F(6)],
    }
    variables = {
        "optimizer/0/0/sgd/iteration": 0,
        "optimizer/0/1/v/dense/kernel:0": PAIR,
        "optimizer/0/2/m/dense/kernel:0": PAIR,
        "optimizer/1/0/m/dense/kernel:0": PAIR,
    }
    assert translated(saved, variables) == {
        "optimizer/0/0/sgd/iteration": 7,
        "optimizer/0/2/m/dense/kernel:0": [1, 2],
        "optimizer/0/1/v/dense/kernel:0": [3, 4],
        "optimizer/1/0/m/dense/kernel:0": [5, 6],
    }


def test_variables_whose_names_repeat_are_found_in_their_order():
    saved = {f"optimizer/0/{i}/adagrad/accumulator": [F(i), F(i)] for i in range(3)}
    variables = {f"optimizer/0/{i}/adagrad/dense_{i}_kernel_accumulator": PAIR for i in range(3)}
    assert list(translated(saved, variables).values()) == [[0, 0], [1, 1], [2, 2]]


def test_weights_must_have_their_names_and_what_cannot_be_found_is_left():
    saved = {"model/0/dense/kernel": [F(1), F(1)], "optimizer/0/0/sgd/velocity": [F(1)]}
    variables = {"model/0/other/kernel": PAIR, "optimizer/0/0/SGD/velocity": PAIR}
    assert list(translated(saved, variables)) == list(saved)


def test_integers_are_converted_where_nothing_is_lost():
    seed = "state/3/seed_generator/seed_generator_state"
    assert translated({seed: np.array([5, 1], "uint32")}, {seed: np.array([0, 0], "int64")}) == {seed: [5, 1]}
    for value, dtype in ((np.array(2**40), "int32"), (np.array(0.5, "float32"), "int32"), (F(1), "float16")):
        named = {"a": f"{value.dtype.name}[]"}
        found, values = as_of_this_release(named, {"a": value}, {"a": tf.Variable(0, dtype=dtype)})
        assert found == named
        assert values["a"] is value
