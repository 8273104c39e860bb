"""Saved and loaded in any form, a model trains on to the numbers that it would have had without the round trip."""

import os
import pathlib
import warnings

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, CustomTrainSequential, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled
from tests.test_model import Subclassed

X, Y = models.rows()
SAVED = pathlib.Path(__file__).parent.parent / "saved"
IS_2_12 = tf.__version__.startswith("2.12")
READABLE = {  # by a model of the same layers, without customfit
    "keras2.12": IS_2_12,
    "keras2.15": not compat.IS_KERAS_3 and not IS_2_12,
    "keras3.3": compat.IS_KERAS_3,
    "keras3.15": compat.IS_KERAS_3 and compat.KERAS_VERSION >= (3, 15),
}
supports = pytest.mark.supports


def sequential():
    return CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])


BUILDS = {"functional": lambda: models.batch_norm(CustomTrainModel), "subclassed": Subclassed, "sequential": sequential}


def trained(build, **options):
    keras.utils.set_random_seed(SEED)
    model = compiled(lambda base: build(), **{"optimizer": "adam", **options})
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


@supports("Saving", "`.keras`, `load_model`, then training continues: functional, subclassed, Sequential")
@pytest.mark.parametrize(
    "options", [{"clipnorm": 0.1}, {"loss_weights": None, "weighted_metrics": ["accuracy"]}], ids=str
)
@pytest.mark.parametrize("kind", BUILDS)
def test_keras_file(kind, options, tmp_path):
    model = trained(BUILDS[kind], **options)
    path = os.fspath(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="This format keeps none")
        model.save(path, **({"save_format": "keras_v3"} if IS_2_12 else {}))
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(model)
    assert_equal(train_on(loaded), train_on(model))


@supports("Saving", "`.h5`, `load_model`, then training continues: functional, Sequential")
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_h5_file(kind, tmp_path):
    model = trained(BUILDS[kind])
    path = os.fspath(tmp_path / "model.h5")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(model)
    if compat.IS_KERAS_3:  # the optimizer that it loads from `.h5` is built for no variable: it trains nothing
        for each in (model, loaded):
            each.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    assert_equal(train_on(loaded), train_on(model))


@pytest.mark.parametrize("form", [{}, {"save_format": "tf"}])
@pytest.mark.parametrize("build", [BUILDS["functional"], BUILDS["sequential"]])
def test_what_a_file_does_not_keep_is_said(build, form, tmp_path):
    if form and compat.IS_KERAS_3:
        pytest.skip("Keras 3 saves no such")
    model = trained(build, clipnorm=0.1, nonfinite="raise")
    with pytest.warns(UserWarning, match="none of the options `clipnorm`, `nonfinite` of `compile"):
        model.save(os.fspath(tmp_path / ("model" if form else "model.h5")), **form)


@pytest.mark.parametrize(
    "release",
    [
        pytest.param(name, marks=pytest.mark.skipif(not readable, reason=f"this Keras reads no files of {name}"))
        for name, readable in READABLE.items()
    ],
)
@pytest.mark.parametrize(
    ("kind", "options", "optimizers"),
    [
        (
            "functional",
            {
                "adaptive_clip": 0.01,
                "adaptive_clip_exclude": ["head"],
                "gradient_accumulation_steps": 2,
                "nonfinite": "skip",
                "gradient_metrics": ["grad_norm"],
            },
            {"hidden": "SGD", "head": "Adam"},
        ),
        ("sequential", {"global_clipnorm": 1.0, "nonfinite": "raise", "nonfinite_dump": "somewhere"}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_an_earlier_release_loads_and_trains_on(kind, options, optimizers, release, tmp_path, monkeypatch):
    """Saved when options were plain arguments of `compile()`, and modules had other names."""
    monkeypatch.chdir(tmp_path)
    model = keras.models.load_model(SAVED / release / f"{kind}.keras")
    x, y = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), np.arange(16) % 3
    with np.load(SAVED / release / "outputs.npz") as outputs:
        np.testing.assert_allclose(model.predict(x, verbose=0), outputs[kind], rtol=1e-5)
    assert model.gradient_pipeline.get_config() == options
    assert {name: value for name, value in model.get_compile_config().items() if name in options} == options
    groups = getattr(model.optimizer, "groups", None)
    assert (groups and {name: type(group).__name__ for name, group in groups.items()}) == optimizers
    updates, before = int(model.optimizer.iterations.numpy()), model.get_weights()
    model.custom_fit(x, y, batch_size=4, epochs=1, verbose=0)
    assert updates == 1
    assert int(model.optimizer.iterations.numpy()) == updates + (2 if kind == "functional" else 4)
    assert all(np.abs(now - then).max() > 0 for now, then in zip(model.get_weights(), before))


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
    with pytest.raises(TypeError, match=r"`class Mine\(Subclassed, CustomTrainModel\)`. Received: a Subclassed"):
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
