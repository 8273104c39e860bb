"""The classes: every way to build a model works, in any order; saving keeps class, weights and compile options."""

import copy
import dataclasses
import datetime
import os
import pickle

import numpy as np
import pytest

import customfit
from customfit import (
    AdaptiveClip,
    Checkpoints,
    CustomTrainMixin,
    CustomTrainModel,
    CustomTrainSequential,
    DryRun,
    Every,
    NonFinite,
    compat,
)
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows()
LEARNABLE = X[:, :3].argmax(axis=1)


@compat.register_keras_serializable
class Subclassed(CustomTrainModel):
    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"units": self.units}


class FunctionalInside(CustomTrainModel):
    def __init__(self):
        inputs = keras.Input((8,))
        super().__init__(inputs=inputs, outputs=keras.layers.Dense(3, activation="softmax")(inputs))


class MixedIn(CustomTrainMixin, keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)


def sequential():
    return CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])


def functional():
    return models.dense(CustomTrainModel)


WAYS = [functional, Subclassed, FunctionalInside, sequential, MixedIn]


def compiled(model, **options):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


@pytest.mark.parametrize("first", range(len(WAYS) - 1), ids=[way.__name__ for way in WAYS[:-1]])
def test_every_way_to_build_a_model_works_after_every_other(first):
    """Each before and after all those that follow it in the list."""
    keras.utils.set_random_seed(0)
    turns = [way for other in WAYS[first + 1 :] for way in (WAYS[first], other)]
    for way in [*turns, WAYS[first]]:
        model = compiled(way())
        losses = model.custom_fit(X, LEARNABLE, batch_size=len(X), epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]


def test_new_subclasses_work_after_functional_use():
    FunctionalInside()
    functional()

    class Late(CustomTrainModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    assert Late()(X).shape == (70, 3)
    assert CustomTrainModel.__bases__ == (CustomTrainMixin, keras.Model)


def test_they_are_keras_models_by_inheritance():
    assert issubclass(CustomTrainModel, keras.Model)
    assert issubclass(CustomTrainSequential, keras.Sequential)
    assert isinstance(functional(), CustomTrainModel)
    assert isinstance(FunctionalInside(), CustomTrainModel)
    assert isinstance(functional(), compat.functional_class())


@pytest.mark.parametrize("way", [functional, Subclassed, sequential])
def test_saved_and_loaded_trains_on_to_the_same_numbers(way, tmp_path):
    keras.utils.set_random_seed(1)
    model = compiled(way(), global_clipnorm=0.05)
    model.custom_fit(X, Y, epochs=2, verbose=0, shuffle=False)
    path = os.fspath(tmp_path / "model.keras")
    if tf.__version__.startswith("2.12"):
        model.save(path, save_format="keras_v3")
    else:
        model.save(path)
    loaded = keras.models.load_model(path)
    assert type(loaded) is type(model)
    assert loaded.gradient_clip == model.gradient_clip
    assert type(loaded.optimizer) is type(model.optimizer)
    histories = [m.custom_fit(X, Y, epochs=2, verbose=0, shuffle=False).history for m in (model, loaded)]
    assert histories[0] == histories[1]
    for mine, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("way", [functional, Subclassed])
def test_a_clone_keeps_the_class(way):
    model = way()
    clone = keras.models.clone_model(model)
    assert type(clone) is type(model)
    assert len(compiled(clone).custom_fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_a_sequential_is_cloned_from_its_config():
    """`clone_model` makes a plain `keras.Sequential` of every subclass of it: Keras's rule, not ours to change."""

    class Other(keras.Sequential):
        pass

    assert type(keras.models.clone_model(Other([keras.Input((8,)), keras.layers.Dense(3)]))) is keras.Sequential
    clone = CustomTrainSequential.from_config(sequential().get_config())
    assert len(compiled(clone).custom_fit(X, Y, epochs=2, verbose=0).epoch) == 2


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_trained_model_can_be_copied(duplicate):
    plain = compiled(models.dense(keras.Model))
    plain.fit(X, Y, verbose=0)
    try:
        duplicate(plain)
    except Exception as error:
        pytest.skip(f"this release of Keras cannot copy a trained model of its own: {error}")
    model = compiled(functional(), clipnorm=1.0)
    model.custom_fit(X, Y, verbose=0)
    twin = duplicate(model)
    for mine, other in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_array_equal(mine, other)
    assert len(twin.custom_fit(X, Y, epochs=2, verbose=0).epoch) == 2


def test_compile_config_holds_the_clip_and_nothing_else_new():
    plain = compiled(models.dense(keras.Model)).get_compile_config()
    assert set(compiled(functional()).get_compile_config()) == set(plain)
    config = compiled(functional(), clipvalue=0.5).get_compile_config()
    assert set(config) - set(plain) == {"clipvalue"}
    assert config["clipvalue"] == 0.5


def test_validation_moves_no_weight_and_runs_with_training_false():
    class Watch(CustomTrainModel):
        def test_step(self, data):
            before = [tf.identity(weight) for weight in self.weights]
            logs = super().test_step(data)
            for weight, value in zip(self.weights, before):
                tf.debugging.assert_equal(tf.convert_to_tensor(weight), value)
            return logs

    model = compiled(models.batch_norm(Watch), run_eagerly=True)
    history = model.custom_fit(X, Y, epochs=2, validation_data=(X, Y), verbose=0).history
    evaluated = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(evaluated["loss"], abs=0)


def test_metrics_start_from_zero_in_each_epoch():
    model = compiled(functional(), weighted_metrics=None)
    model.optimizer.learning_rate = 0.0
    history = model.custom_fit(X, Y, epochs=3, verbose=0, shuffle=False).history
    assert len(set(history["loss"])) == len(set(history["accuracy"])) == 1


def test_a_model_without_trainable_weights_warns_and_goes_on():
    model = models.dense(CustomTrainModel)
    model.trainable = False
    compiled(model)
    with pytest.warns(UserWarning, match="trainable"):
        model.custom_fit(X, Y, verbose=0)


def test_jit_compile_auto_is_understood_by_every_generation():
    model = compiled(functional(), jit_compile="auto")
    assert len(model.custom_fit(X, Y, verbose=0).epoch) == 1


def test_the_public_names():
    for name in customfit.__all__:
        assert getattr(customfit, name) is not None


def test_import_customfit_shows_the_public_names_and_nothing_else():
    assert dir(customfit) == sorted(customfit.__all__)


@pytest.mark.parametrize(
    ("call", "given", "hint"),
    [
        ("custom_fit", {"batchsize": 16}, "Did you mean 'batch_size'"),
        ("custom_fit", {"early_stoping": 3}, "Did you mean 'early_stopping'"),
        ("custom_fit", {"checkpoint_dir": "runs"}, "Use `checkpoint=...`"),
        ("custom_fit", {"validation_interval": 5}, r"Use `validation_freq=Every\(steps=...\)`"),
        ("custom_fit", {"plan": True}, r"Use `model.plan_fit\(...\)`"),
        ("plan_fit", {"fast_dev_run": True}, "Use `dry_run=...`"),
        ("custom_evaluate", {"batchsize": 16}, "Did you mean 'batch_size'"),
        ("compile", {"clip_norm": 1.0}, "Did you mean 'clipnorm'"),
        ("compile", {"nonfinite_dump": "folder"}, r"Use `nonfinite=NonFinite\("),
    ],
)
def test_an_unknown_argument_is_refused_with_the_name_that_was_meant(call, given, hint):
    model = models.dense(CustomTrainModel)
    model.compile("sgd", "sparse_categorical_crossentropy")
    rows = () if call == "compile" else models.rows(16)
    with pytest.raises(
        TypeError, match=rf"{call}\(\) got an unexpected keyword argument '{next(iter(given))}'.*{hint}"
    ):
        getattr(model, call)(*rows, **given)


def test_options_of_the_front_door_are_frozen_and_hashable():
    for option in (Every(steps=3), Checkpoints("runs"), DryRun(batches=2), NonFinite("skip"), AdaptiveClip(0.1)):
        assert hash(option) == hash(copy.copy(option))
        with pytest.raises(dataclasses.FrozenInstanceError):
            option.anything = 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "takes exactly one of `epochs`, `steps` and `seconds`"),
        ({"steps": 1, "epochs": 1}, r"exactly one.*Received: Every\(epochs=1, steps=1\)"),
        ({"steps": 0}, "`steps` must be a positive integer. Received: steps=0"),
        ({"epochs": 1.5}, "`epochs` must be a positive integer"),
        ({"seconds": "1 hour"}, "`seconds` must be a positive number of seconds"),
    ],
)
def test_every_checks_its_values(given, message):
    with pytest.raises(ValueError, match=message):
        Every(**given)


def test_every_takes_durations_and_any_integer():
    assert Every(seconds="00:10:00") == Every(seconds=600) == Every(seconds=datetime.timedelta(minutes=10))
    assert Every(steps=np.int64(5)) == Every(steps=5)
    assert str(Every(steps=5)) == "Every(steps=5)"
