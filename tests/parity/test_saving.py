"""Saved and loaded in any form, a model trains on to the numbers that it would have had without the round trip."""

import os

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, CustomTrainSequential, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled
from tests.test_model import Subclassed

X, Y = models.rows()
supports = pytest.mark.supports


def sequential():
    return CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])


BUILDS = {"functional": lambda: models.batch_norm(CustomTrainModel), "subclassed": Subclassed, "sequential": sequential}


def trained(build, **options):
    keras.utils.set_random_seed(SEED)
    model = compiled(lambda base: build(), **options)
    train_on(model)
    return model


def train_on(model):
    return model, model.custom_fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, validation_split=0.2)


@supports("Saving", "weights, also of the optimizer by `.keras`")
@pytest.mark.parametrize("kind", BUILDS)
def test_weights(kind, tmp_path):
    """Weights alone hold no optimizer: with plain SGD they are all there is."""
    model = trained(BUILDS[kind], optimizer="sgd")
    path = os.fspath(tmp_path / "model.weights.h5")
    model.save_weights(path)
    keras.utils.set_random_seed(SEED + 1)
    other = compiled(lambda base: BUILDS[kind](), optimizer="sgd")
    other(X[:1])
    other.load_weights(path)
    assert_equal(train_on(other), train_on(model))


@supports("Saving", "`.keras`, `load_model`, then training goes on: functional, subclassed, Sequential")
@pytest.mark.parametrize(
    "options", [{"clipnorm": 0.1}, {"loss_weights": None, "weighted_metrics": ["accuracy"]}], ids=str
)
@pytest.mark.parametrize("kind", BUILDS)
def test_keras_file(kind, options, tmp_path):
    model = trained(BUILDS[kind], **options)
    path = os.fspath(tmp_path / "model.keras")
    model.save(path, **({"save_format": "keras_v3"} if tf.__version__.startswith("2.12") else {}))
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(model)
    assert_equal(train_on(loaded), train_on(model))


@supports("Saving", "SavedModel export")
@pytest.mark.parametrize("kind", BUILDS)
def test_saved_model(kind, tmp_path):
    """What is exported predicts the same, and the model that was exported trains on as if nothing had been.

    Keras 2 loads it as the class that it was; without the optimizer's state, as a plain `keras.Model`.
    """
    model, twin = trained(BUILDS[kind]), trained(BUILDS[kind])
    path = os.fspath(tmp_path / "exported")
    expected = np.asarray(model(tf.constant(X), training=False))
    if compat.IS_KERAS_3:
        model.export(path)
        exported = tf.saved_model.load(path)
        served = exported.serve
    else:
        model.save(path, save_format="tf")
        served = keras.models.load_model(path)
    np.testing.assert_allclose(np.asarray(served(tf.constant(X))), expected, rtol=1e-6)
    if not compat.IS_KERAS_3:
        assert type(served) is type(model)
    assert_equal(train_on(model), train_on(twin))


@supports(
    "Saving", "`CustomTrainModel.from_model(model)` of any functional or Sequential model, sharing its layers", fit="-"
)
@pytest.mark.parametrize("kind", ["functional", "nested", "sequential"])
def test_from_model(kind):
    def plain():
        keras.utils.set_random_seed(SEED)
        if kind == "functional":
            return models.dropout(keras.Model)
        if kind == "nested":
            return models.two_inputs(keras.Model)
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(3, activation="softmax")])

    x = {"left": X[:, :4], "right": X[:, 4:]} if kind == "nested" else X
    arguments = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    original = plain()
    model = compiled(lambda base: CustomTrainModel.from_model(original))
    theirs = compiled(lambda base: plain())
    keras.utils.set_random_seed(SEED)
    ours = model, model.custom_fit(x, Y, **arguments)
    keras.utils.set_random_seed(SEED)
    assert_equal(ours, (theirs, theirs.fit(x, Y, **arguments)))
    assert isinstance(model, CustomTrainModel)
    assert model.name == original.name
    for mine, other in zip(model.get_weights(), original.get_weights()):
        np.testing.assert_array_equal(mine, other)  # the layers are shared


def test_from_model_gives_the_class_that_it_is_called_on():
    class Mine(CustomTrainModel):
        def transform_gradients(self, gradients, variables):
            return [0.0 * gradient for gradient in gradients]

    model = compiled(lambda base: Mine.from_model(models.dense(keras.Model)))
    before = model.get_weights()
    train_on(model)
    assert type(model) is Mine
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


def test_from_model_refuses_what_it_cannot_share():
    with pytest.raises(TypeError, match=r"`class Subclassed\(CustomTrainMixin, keras.Model\)`. Received: a Subclassed"):
        CustomTrainModel.from_model(models.subclassed(keras.Model))
    with pytest.raises(ValueError, match="must be built"):
        CustomTrainModel.from_model(keras.Sequential([keras.layers.Dense(3)]))


def test_a_subclassed_model_takes_the_mixin_as_the_error_says():
    class Theirs(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, activation="softmax")

        def call(self, inputs):
            return self.dense(inputs)

    class Ours(CustomTrainMixin, Theirs):
        pass

    assert train_on(compiled(lambda base: Ours()))[1].epoch == [0, 1]
