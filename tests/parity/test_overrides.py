"""Classes that override `fit`, `evaluate`, `compile` or the steps: theirs are used, and our loop lies below them."""

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, CustomTrainSequential, Every
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(70)
BYTES = (X - X.min()) / (X.max() - X.min()) * 255
CALLS = []


class Preprocesses(keras.Sequential):
    """As keras_hub's `PipelineModel`: `fit`, `evaluate` and `predict` preprocess."""

    def fit(self, x, *args, validation_data=None, **kwargs):
        CALLS.append("fit")
        return super().fit(self.preprocess(x), *args, validation_data=validation_data, **kwargs)

    drops_cache = True  # as keras_hub's does: Keras would use the data that `fit` was given

    def evaluate(self, x, *args, **kwargs):
        CALLS.append("evaluate")
        if self.drops_cache:
            kwargs.pop("_use_cached_eval_dataset", None)
        logs = super().evaluate(self.preprocess(x), *args, **kwargs)
        return {**logs, "extra": logs["loss"] * 2} if isinstance(logs, dict) else logs

    def preprocess(self, x):
        return x.map(lambda x, y: (x / 255, y)) if isinstance(x, tf.data.Dataset) else x / 255


class Natural(Preprocesses, CustomTrainModel):
    pass


class MixinFirst(CustomTrainMixin, Preprocesses):
    pass


def build(cls):
    keras.utils.set_random_seed(1)
    dense = keras.layers.Dense(3, activation="softmax")
    model = cls([keras.Input((8,)), keras.layers.Dense(4, activation="relu"), dense])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def results(cls, how, data=None, **arguments):
    CALLS.clear()
    model = build(cls)
    x, y = (BYTES, Y) if data is None else (data(), None)
    options = {"verbose": 0, "shuffle": False, "epochs": 3, **({} if data else {"batch_size": 16}), **arguments}
    history = getattr(model, how)(x, y, **options)
    return model.get_weights(), history.history, list(CALLS)


@pytest.mark.parametrize("cls", [Natural, MixinFirst])
@pytest.mark.parametrize("data", [None, lambda: tf.data.Dataset.from_tensor_slices((BYTES, Y)).batch(16)])
@pytest.mark.parametrize("validation", [False, True])
def test_preprocessing_in_fit_and_evaluate_holds(cls, data, validation):
    given = {"validation_data": (BYTES, Y)} if validation else {}
    theirs, ours = results(Preprocesses, "fit", data, **given), results(cls, "custom_fit", data, **given)
    for mine, other in zip(ours[0], theirs[0]):
        np.testing.assert_array_equal(mine, other)
    assert ours[1] == theirs[1]
    assert ours[2].count("fit") == 1
    assert ("val_extra" in ours[1]) == validation


def test_an_evaluate_that_keeps_keras_s_cache_sees_what_fit_does(monkeypatch):
    monkeypatch.setattr(Preprocesses, "drops_cache", False)
    given = {"validation_data": (BYTES, Y)}
    assert results(Natural, "custom_fit", **given)[1] == results(Preprocesses, "fit", **given)[1]


@pytest.mark.parametrize("cls", [Natural, MixinFirst])
def test_custom_evaluate_goes_through_evaluate(cls):
    model = build(cls)
    for options in ({}, {"return_dict": True}):
        ours = model.custom_evaluate(BYTES, Y, verbose=0, **options)
        assert ours == model.evaluate(BYTES, Y, verbose=0, **options)


def test_our_options_hold_below_their_fit(tmp_path):
    model = build(Natural)
    given = {"validation_data": (BYTES, Y), "validation_freq": Every(steps=3), "early_stopping": 2, "max_steps": 11}
    history = model.custom_fit(BYTES, Y, batch_size=16, epochs=9, verbose=0, checkpoint=tmp_path / "kept", **given)
    assert history.stop_reason == "reached max_steps=11"
    assert [each["step"] for each in history.validation] == [3, 6, 9]
    assert (tmp_path / "kept").exists()
    assert model.plan_fit(BYTES, Y, batch_size=16, epochs=2).steps == 10


def test_fit_can_be_made_the_explicit_loop():
    """One line for tools that call `fit`."""

    class Explicit(Preprocesses, CustomTrainModel):
        fit = CustomTrainModel.custom_fit

    class Plain(CustomTrainSequential):
        fit = CustomTrainModel.custom_fit

    theirs = results(Preprocesses, "fit")
    for mine, other in zip(results(Explicit, "fit")[0], theirs[0]):
        np.testing.assert_array_equal(mine, other)
    assert len(build(Plain).fit(X, Y, epochs=9, max_steps=3, verbose=0, early_stopping=1).epoch) == 1


def test_a_fit_that_never_arrives_is_an_error():
    class Own(CustomTrainModel):
        def fit(self, x, y, **kwargs):
            return None

    inputs = keras.Input((8,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"Own.fit` must call `super\(\).fit\(\)`"):
        model.custom_fit(X, Y, verbose=0)


class OwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"mine": loss}

    def test_step(self, data):
        x, y = data
        return {"tested": tf.reduce_mean((self(x) - y) ** 2)}


@pytest.mark.parametrize(
    "bases", [(CustomTrainMixin, OwnStep), (OwnStep, CustomTrainMixin), (OwnStep, CustomTrainModel)], ids=str
)
def test_another_class_s_own_steps_are_used_whichever_way_round_the_bases_are(bases):
    histories = []
    for cls, how in ((OwnStep, "fit"), (type("Mine", bases, {}), "fit"), (type("Mine", bases, {}), "custom_fit")):
        keras.utils.set_random_seed(0)
        model = cls()
        model.compile("sgd", "mse")
        y = Y[:, np.newaxis].astype("float32")
        history = getattr(model, how)(X, y, epochs=2, verbose=0, shuffle=False, validation_data=(X, y))
        histories.append(history.history)
    assert histories[0] == histories[1] == histories[2]
    assert set(histories[0]) == {"mine", "val_tested"}
