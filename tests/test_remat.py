"""`compile(remat=)`: fewer activations are kept, and training ends with the same bits."""

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential, compat
from customfit.compat import keras, tf
from customfit.models.blocks import divide
from tests.parity import compare, models
from tests.parity.compare import assert_equal
from tests.resume.cut import assert_resumes

layers = keras.layers
X, Y = models.rows(48)
LENGTHS = np.arange(48) % 6 + 1
TOKENS = np.where(np.arange(6)[None] < LENGTHS[:, None], np.random.RandomState(0).randint(1, 20, (48, 6)), 0)


def train(*args, **kwargs):
    """As in `compare`, with layers numbered from 0: TensorFlow orders some sums by their names."""
    keras.backend.clear_session()
    return compare.train(*args, **kwargs)


def chain(cls, add=(), count=6):
    hidden = inputs = keras.Input((8,))
    for index in range(count):
        hidden = layers.Dense(8, activation="tanh", name=f"hidden{index}")(hidden)
        for layer in add:
            hidden = layer(index)(hidden)
    return cls(inputs, layers.Dense(3, activation="softmax", name="last")(hidden))


def residual(cls):
    inputs = keras.Input((8,))
    hidden = layers.Dense(8)(inputs)
    for _ in range(4):
        inner = layers.Dense(8, activation="relu")(layers.BatchNormalization()(hidden))
        hidden = layers.Add()([hidden, inner, layers.Dense(8)(inner)])
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def u_net(cls):
    inputs = keras.Input((8,))
    first = layers.Dense(8, activation="relu")(inputs)
    second = layers.Dense(6, activation="relu")(first)
    third = layers.Dense(6, activation="relu")(layers.Concatenate()([layers.Dense(4)(second), second]))
    last = layers.Dense(8, activation="relu")(layers.Concatenate()([third, first, inputs]))
    return cls(inputs, layers.Dense(3, activation="softmax")(last))


def recurrent(cls):
    inputs = keras.Input((6,), dtype="int32")
    hidden = layers.Embedding(20, 8, mask_zero=True)(inputs)
    for _ in range(3):
        hidden = layers.LSTM(8, return_sequences=True, dropout=0.2, seed=1)(hidden)
    return cls(inputs, layers.Dense(3, activation="softmax")(layers.LSTM(4)(hidden)))


def transformer(cls):
    inputs = keras.Input((6,), dtype="int32")
    hidden = layers.Embedding(20, 8)(inputs)
    for index in range(3):
        attended = layers.MultiHeadAttention(2, 4, **attention_dropout(index))(hidden, hidden)
        hidden = layers.LayerNormalization()(layers.Add()([hidden, layers.Dropout(0.1, seed=index)(attended)]))
        inner = layers.Dense(8)(layers.Dense(16, activation="gelu")(hidden))
        hidden = layers.LayerNormalization()(layers.Add()([hidden, inner]))
    return cls(inputs, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(hidden)))


def attention_dropout(index):
    """Keras 2's attention has no seed for its dropout: what it drops depends on which ops were made before it."""
    return {"dropout": 0.1, "seed": index} if compat.IS_KERAS_3 else {}


def two_of_each(cls):
    left, right = keras.Input((8,), name="left"), keras.Input((8,), name="right")
    hidden = layers.Concatenate()([left, layers.Dense(8, kernel_regularizer="l2")(right)])
    for _ in range(4):
        hidden = layers.Dense(8, activation="tanh")(hidden)
    outputs = {"kind": layers.Dense(3, activation="softmax", name="kind")(hidden)}
    outputs["size"] = layers.Dense(1, name="size")(layers.Concatenate()([hidden, left]))
    return cls({"left": left, "right": right}, outputs)


def sequential(cls):
    base = CustomTrainSequential if cls is CustomTrainModel else keras.Sequential
    return base([layers.Dense(8, activation="tanh") for _ in range(5)] + [layers.Dense(3, activation="softmax")])


NORM = lambda index: layers.BatchNormalization(name=f"norm{index}")
DROP = lambda index: layers.Dropout(0.3, seed=index)
KIND = {"loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"}, "metrics": []}
CASES = {
    "chain": (chain, {"x": X, "y": Y}, {}),
    "dropout": (lambda cls: chain(cls, [DROP]), {"x": X, "y": Y}, {}),
    "batch_norm": (lambda cls: chain(cls, [NORM, DROP]), {"x": X, "y": Y}, {}),
    "u_net": (u_net, {"x": X, "y": Y}, {}),
    "recurrent": (recurrent, {"x": TOKENS, "y": Y}, {}),
    "two_of_each": (two_of_each, {"x": {"left": X, "right": X[::-1]}, "y": {"kind": Y, "size": X[:, 0]}}, KIND),
    "sequential": (sequential, {"x": X, "y": Y}, {}),
    "eager": (lambda cls: chain(cls, [NORM, DROP]), {"x": X, "y": Y}, {"run_eagerly": True}),
    "accumulated": (
        lambda cls: chain(cls, [NORM]),
        {"x": X, "y": Y},
        {"gradient_accumulation_steps": 2, "global_clipnorm": 0.1},
    ),
}


@pytest.mark.parametrize(("case", "how"), [*((case, "custom_fit") for case in CASES), ("chain", "fit")])
def test_training_ends_with_the_same_bits(case, how):
    build, data, options = CASES[case]
    options = {"optimizer": "adam", **options}
    ours = train(build, how, data, remat=True, **options)
    assert_equal(ours, train(build, how, data, **options))
    assert any(block.is_recomputed for block in divide(ours[0], None))


@pytest.mark.parametrize(("build", "x"), [(residual, X), (transformer, TOKENS)], ids=["residual", "transformer"])
def test_sums_of_several_terms_are_equal_where_the_graph_optimizer_leaves_their_order(build, x):
    """Grappler turns `a + b + c` into one op where it may, and sees less of it at the end of a block."""
    data, options = {"x": x, "y": Y, "epochs": 2}, {"optimizer": "sgd"}
    ours, theirs = (train(build, "custom_fit", data, remat=remat, **options)[0] for remat in (True, False))
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    try:
        assert_equal(*(train(build, "custom_fit", data, remat=remat, **options) for remat in (True, False)))
    finally:
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


def counting(cls):
    """A chain whose layers count how often their Python code runs, and with what statistics."""

    class Counting(layers.Layer):
        calls = 0

        def call(self, inputs):
            type(self).calls += 1
            return tf.tanh(inputs)

    return chain(cls, [lambda index: Counting()]), Counting


def test_only_the_blocks_before_the_last_are_computed_again():
    model, layer = counting(CustomTrainModel)
    model.compile("sgd", "sparse_categorical_crossentropy", remat=["hidden1", "hidden3"])
    model.train_on_batch(X, Y)  # makes the optimizer's variables
    layer.calls = 0
    tf.function(model.train_step, autograph=False).get_concrete_function((X, Y))
    assert layer.calls == 6 + 3  # the layers after hidden0, hidden1 and hidden2 run twice
    layer.calls = 0
    model.evaluate(X, Y, verbose=0)
    assert layer.calls <= 6  # validation has no backward pass


def test_a_long_chain_is_divided_into_about_as_many_blocks_as_the_root_of_its_layers():
    blocks = divide(chain(CustomTrainModel, count=63), None)
    assert 6 <= len(blocks) <= 10
    assert [name for block in blocks for name in block.layers] == [*(f"hidden{index}" for index in range(63)), "last"]


def test_the_model_is_as_it_was(tmp_path):
    model = chain(CustomTrainModel, [NORM])
    before = model.get_config(), [layer.name for layer in model.layers]
    model.compile("sgd", "sparse_categorical_crossentropy", remat=["norm2"])
    model.custom_fit(X, Y, verbose=0)
    assert (model.get_config(), [layer.name for layer in model.layers]) == before
    features = keras.Model(model.input, model.get_layer("norm3").output)
    assert features.predict(X, verbose=0).shape == (48, 8)
    compat.save_model(model, str(tmp_path / "model.keras"))
    loaded = keras.models.load_model(str(tmp_path / "model.keras"))
    assert loaded.get_compile_config()["remat"] == ["norm2"]
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize(
    ("add", "options"),
    [([NORM], {"jit_compile": True}), ([NORM, DROP], {"nonfinite": "skip"})],
    ids=["jit_compile", "nonfinite"],
)
def test_other_options_hold(add, options):
    build = lambda cls: chain(cls, add)
    ours = train(build, "custom_fit", {"x": X, "y": Y}, remat=True, **options)[0]
    theirs = train(build, "custom_fit", {"x": X, "y": Y}, **options)[0]
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, atol=1e-6)


def test_it_is_resumed(tmp_path):
    build = lambda cls: chain(cls, [NORM, DROP])
    assert_resumes(build, {"x": X, "y": Y}, tmp_path, cuts=(4,), remat=True)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """Activations are of the policy's dtype, and losses are scaled where it asks for that."""

    def build(cls):
        keras.mixed_precision.set_global_policy(policy)  # `clear_session` of Keras 3 forgets it
        model = chain(cls, [NORM, DROP])
        assert model.get_layer("hidden1").compute_dtype == policy[len("mixed_") :]
        return model

    try:
        ours, theirs = (train(build, "custom_fit", {"x": X, "y": Y}, remat=remat) for remat in (True, False))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    for mine, other in zip(ours[0].get_weights(), theirs[0].get_weights()):
        np.testing.assert_allclose(mine, other, atol=1e-6)
    assert any(block.is_recomputed for block in divide(ours[0], None))


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="Keras 3.9 and later")
def test_keras_s_scope_fails_where_this_trains():
    with keras.RematScope(mode="full"):
        model = chain(keras.Model, [DROP])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="keywords arguments only when eager execution is enabled"):
        model.fit(X, Y, verbose=0)


class Adds(layers.Layer):
    def call(self, inputs):
        self.add_loss(tf.reduce_sum(inputs))
        return inputs


class Moves(layers.Layer):
    """Changes a weight that is trained, as spectral normalization does."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, inputs):
        self.scale.assign(self.scale * 0.5)
        return inputs * self.scale


class Calls(layers.Layer):
    def call(self, inputs):
        return tf.ensure_shape(tf.py_function(lambda x: x, [inputs], tf.float32), inputs.shape)


class Loops(layers.Layer):
    def call(self, inputs):
        noise = tf.function(lambda: tf.random.uniform(()), autograph=False)
        return inputs + noise()


@pytest.mark.parametrize(
    ("layer", "match"),
    [(Adds, "add losses"), (Moves, "Assign.*must not run twice"), (Calls, "PyFunc"), (Loops, "random_uniform")],
)
def test_what_must_not_run_twice_is_refused_by_name(layer, match):
    model = chain(CustomTrainModel, [lambda index: layer(name=f"odd{index}")], count=2)
    model.compile("sgd", "sparse_categorical_crossentropy", remat=["hidden1"])
    with pytest.raises(ValueError, match=f"(?s)must not hold layers that.*{match}.*odd0"):
        model.custom_fit(X, Y, verbose=0)


def test_what_is_no_model_of_layers_and_what_is_no_name_are_refused():
    with pytest.raises(ValueError, match="or a `CustomTrainSequential`.*Received: a Subclassed"):
        models.subclassed(CustomTrainModel).compile("sgd", "mse", remat=True)
    with pytest.raises(ValueError, match=r"Did you mean .hidden2.\? Received: 'hiden2'"):
        chain(CustomTrainModel).compile("sgd", "mse", remat=["hiden2"])
    for remat in ("hidden2", 3, [], [2]):
        with pytest.raises(ValueError, match="must be a bool or a list of names of layers"):
            chain(CustomTrainModel).compile("sgd", "mse", remat=remat)
