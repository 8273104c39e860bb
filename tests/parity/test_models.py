"""Every kind of model, metric and step of the user's own trains to the same numbers under both loops."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, assert_parity, compiled, train

layers, metrics = keras.layers, keras.metrics
X, Y = models.rows()
ROWS = {"x": X, "y": Y, "validation_split": 0.2}
WORDS = (X * 10).astype("int32") % 7
supports = pytest.mark.supports


def masked(cls):
    inputs = keras.Input((8,))
    hidden = layers.LSTM(6)(layers.Embedding(10, 4, mask_zero=True)(inputs))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def tagger(cls):
    inputs = keras.Input((8,))
    hidden = layers.GRU(6, return_sequences=True)(layers.Embedding(10, 4, mask_zero=True)(inputs))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


@supports("Models", "masking")
@pytest.mark.parametrize("build", [masked, tagger])
def test_masking(build):
    y = Y if build is masked else WORDS % 3
    assert_parity(build, {"x": WORDS, "y": y, "epochs": 2, "validation_split": 0.2})


METRICS = {
    "strings": lambda: ["accuracy", "sparse_top_k_categorical_accuracy"],
    "objects": lambda: [metrics.SparseCategoricalAccuracy(name="right"), metrics.Mean(name="never updated")][:1],
    "a function": lambda: [lambda y, y_pred: tf.reduce_mean(y_pred, axis=-1)],
}


@supports("Models", "metrics as strings, objects, functions, dicts and nested lists; `weighted_metrics`")
@pytest.mark.parametrize("kind", METRICS)
def test_metrics(kind):
    assert_parity(models.dense, ROWS, metrics=METRICS[kind], weighted_metrics=METRICS["strings"]())


@supports("Models", "metrics with a state: AUC, precision")
def test_stateful_metrics():
    one_hot = np.eye(3, dtype="float32")[Y]
    stateful = lambda: [metrics.AUC(num_thresholds=20), metrics.Precision(), metrics.F1Score()]
    if not hasattr(metrics, "F1Score"):
        stateful = lambda: [metrics.AUC(num_thresholds=20), metrics.Precision()]
    assert_parity(models.dense, {**ROWS, "y": one_hot}, loss="categorical_crossentropy", metrics=stateful)


@supports("Models", "several outputs: losses, `loss_weights` and metrics by name or in lists, a log for each")
@pytest.mark.parametrize("kind", ["dict", "list"])
def test_several_outputs(kind):
    y = {"kind": Y, "size": X[:, :1]}
    options = {
        "loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"},
        "loss_weights": {"kind": 1.0, "size": 0.5},
        "metrics": {"kind": ["accuracy"], "size": ["mae", "mse"]},
        "weighted_metrics": {"kind": ["accuracy"], "size": ["mae"]},
    }
    build = models.two_outputs
    if kind == "list":
        y = list(y.values())
        options = {name: list(value.values()) for name, value in options.items()}
        build = lambda cls: _listed(cls)
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 1):
        options.pop("weighted_metrics")  # which Keras 3.0 fails to build
    _, history = train(build, "custom_fit", {**ROWS, "y": y}, **options)
    if compat.KERAS_VERSION >= (3, 6) or not compat.IS_KERAS_3:
        assert {"loss", "kind_loss", "size_loss", "val_kind_loss"} <= set(history.history)
    assert_parity(build, {**ROWS, "y": y}, **options)


def _listed(cls):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    return cls(
        inputs, [layers.Dense(3, activation="softmax", name="kind")(hidden), layers.Dense(1, name="size")(hidden)]
    )


@supports("Models", "`add_metric` of layers and models", keras=2)
def test_add_metric():
    if compat.IS_KERAS_3:
        pytest.skip("Keras 3 has no add_metric")

    def build(cls):
        inputs = keras.Input((8,))
        hidden = layers.Dense(16, activation="relu")(inputs)
        model = cls(inputs, layers.Dense(3, activation="softmax")(hidden))
        model.add_metric(tf.reduce_mean(hidden), name="activity")
        return model

    assert_parity(build, ROWS)


@supports("Models", "an unbuilt subclassed model, built from the first batch")
def test_an_unbuilt_model_is_not_trained_on_to_build_it():
    assert_parity(models.subclassed, ROWS)
    model, _ = train(models.subclassed, "custom_fit", {"x": X, "y": Y, "epochs": 1})
    assert int(model.optimizer.iterations.numpy()) == 5


@supports("Models", "`trainable` changed before or between calls, with and without `compile()`")
@pytest.mark.parametrize("again", [True, False], ids=["compiled again", "not compiled again"])
@pytest.mark.parametrize("trained", [True, False], ids=["between", "before"])
@pytest.mark.filterwarnings("ignore")
def test_trainable_changed(trained, again):
    def run(how, base):
        keras.utils.set_random_seed(SEED)
        model = compiled(models.batch_norm, base)
        fit = lambda: getattr(model, how)(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
        if trained:
            fit()
        model.layers[1].trainable = False
        if again:
            model.compile("adam", "sparse_categorical_crossentropy")
        return model, fit()

    assert_equal(run("custom_fit", CustomTrainModel), run("fit", keras.Model))


@supports("Models", "no trainable weights")
@pytest.mark.filterwarnings("ignore:.*trainable")
def test_no_trainable_weights():
    def build(cls):
        model = models.batch_norm(cls)
        model.trainable = False
        return model

    assert_parity(build, ROWS)


def gan(base):
    """A model whose own `train_step` has two optimizers, and logs of its own."""

    class Gan(base):
        def __init__(self):
            super().__init__()
            self.generator = keras.Sequential([keras.Input((2,)), layers.Dense(8, activation="relu"), layers.Dense(8)])
            self.critic = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(1)])

        def call(self, inputs):
            return self.critic(inputs)

        def compile(self, critic_optimizer, generator_optimizer):
            super().compile(optimizer=critic_optimizer, loss=keras.losses.BinaryCrossentropy(from_logits=True))
            self.generator_optimizer = generator_optimizer

        def train_step(self, real):
            noise = tf.random.stateless_normal((tf.shape(real)[0], 2), [1, 2])
            ones, zeros = tf.ones((tf.shape(real)[0], 1)), tf.zeros((tf.shape(real)[0], 1))
            cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                loss = cross_entropy(ones, self.critic(real)) + cross_entropy(zeros, self.critic(fake))
            weights = self.critic.trainable_weights
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            with tf.GradientTape() as tape:
                generator_loss = cross_entropy(ones, self.critic(self.generator(noise, training=True)))
            weights = self.generator.trainable_weights
            self.generator_optimizer.apply_gradients(zip(tape.gradient(generator_loss, weights), weights))
            return {"critic_loss": loss, "generator_loss": generator_loss}

    return Gan()


@supports("Models", "a `train_step` of the user's with several optimizers (a GAN)")
@pytest.mark.parametrize("how", ["fit", "custom_fit"])
def test_gan(how):
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 3):
        pytest.skip("`fit` of Keras 3.0-3.2 loses logs that are not metrics")

    def run(how, base):
        keras.utils.set_random_seed(SEED)
        model = gan(base)
        model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1))
        return model, getattr(model, how)(X, batch_size=16, epochs=3, verbose=0, shuffle=False)

    assert_equal(run(how, CustomTrainModel), run("fit", keras.Model))


@supports("Models", "a `train_step` and `test_step` of the user's that return any dict, also raw tensors")
def test_steps_that_return_anything():
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 3):
        pytest.skip("`fit` of Keras 3.0-3.2 loses logs that are not metrics")

    def build(base):
        class Own(base):
            def train_step(self, data):
                logs = super().train_step(data)
                return {"loss": logs["loss"], "first": data[0][0, 0], "count": tf.shape(data[0])[0]}

            def test_step(self, data):
                return {"error": tf.reduce_mean(tf.abs(self(data[0], training=False)))}

        return models.dense(Own)

    assert_parity(build, ROWS)


@supports("Models", "`add_loss` only, without targets or a loss")
@pytest.mark.parametrize("targets", [True, False])
def test_a_model_that_brings_its_own_loss(targets):
    class Reconstruction(layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_mean(tf.square(inputs[0] - inputs[1])))
            return inputs[1]

    def build(cls):
        inputs = keras.Input((8,))
        outputs = layers.Dense(8)(layers.Dense(3, activation="relu")(inputs))
        return cls(inputs, Reconstruction()([inputs, outputs]))

    assert_parity(build, {"x": X, "y": Y if targets else None}, loss=None, metrics=None)


def test_a_step_that_returns_no_dict_is_named():
    class Wrong(CustomTrainModel):
        def train_step(self, data):
            super().train_step(data)
            return 1.0

    with pytest.raises(TypeError, match="`train_step` must return a dict of logs. Received: .*float"):
        train(lambda cls: models.dense(Wrong), "custom_fit", {"x": X, "y": Y})
