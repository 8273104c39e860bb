"""`LayerRates` and `Unfreeze`: which layers train, how fast, and from when on."""

import numpy as np
import pytest

from customfit import CustomTrainModel, LayerRates
from customfit.callbacks import Unfreeze
from customfit.compat import keras, save_model
from tests.parity import models
from tests.parity.compare import compiled, train
from tests.resume.cut import assert_resumes

X, Y = models.rows(70)
METHODS = ("fit", "custom_fit")
SGD = keras.optimizers.SGD
layers = keras.layers


def stacked(cls):
    inputs = keras.Input((8,))
    encoded = layers.BatchNormalization(name="norm")(layers.Dense(16, activation="relu", name="encoder")(inputs))
    hidden = layers.Dense(8, activation="relu", name="middle")(encoded)
    return cls(inputs, layers.Dense(3, activation="softmax", name="head")(hidden))


def moved(model, before):
    """How far each layer's first weight has moved."""
    names = [layer.name for layer in model.layers if layer.weights]
    firsts = [layer.get_weights()[0] for layer in model.layers if layer.weights]
    return {name: np.abs(now - then).max() for name, now, then in zip(names, firsts, before)}


def firsts(model):
    return [layer.get_weights()[0] for layer in model.layers if layer.weights]


# ------------------------------------------------------------------------------------------------------- LayerRates


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("form", [dict, list], ids=["names", "patterns"])
def test_an_update_is_the_ratio_of_that_without(how, form):
    def one_step(optimizer):
        keras.utils.set_random_seed(1)
        model = compiled(stacked, optimizer=lambda: optimizer)
        before = firsts(model)
        getattr(model, how)(X, Y, batch_size=70, shuffle=False, verbose=0)
        return dict(zip(("encoder", "norm", "middle", "head"), map(np.subtract, firsts(model), before)))

    ratios = form([("encoder", 0.1), ("middle", 2.0)])
    ours, plain = one_step(LayerRates(SGD(0.5), ratios)), one_step(SGD(0.5))
    for name, ratio in {"encoder": 0.1, "middle": 2.0, "head": 1.0, "norm": 1.0}.items():
        np.testing.assert_allclose(ours[name], plain[name] * ratio, rtol=1e-3, atol=1e-6)


def test_setting_the_rate_and_schedules_scale_all():
    optimizer = LayerRates(keras.optimizers.Adam(0.1), {"encoder": 0.5})
    optimizer.learning_rate = 0.2
    assert [float(each.learning_rate) for each in optimizer.groups.values()] == pytest.approx([0.2, 0.1])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    logs = train(
        stacked,
        "custom_fit",
        {"x": X, "y": Y},
        optimizer=LayerRates(SGD(schedule), {"encoder": 0.1}),
        gradient_metrics="learning_rate",
    )[1].history
    np.testing.assert_allclose(logs["learning_rate/encoder"], np.multiply(logs["learning_rate/other"], 0.1), rtol=1e-5)


def test_ratios_of_one_are_the_optimizer_alone():
    options = lambda optimizer: {"optimizer": lambda: optimizer}
    ours, _ = train(
        stacked, "custom_fit", {"x": X, "y": Y}, **options(LayerRates(keras.optimizers.Adam(0.01), {"encoder": 1.0}))
    )
    plain, _ = train(stacked, "custom_fit", {"x": X, "y": Y}, **options(keras.optimizers.Adam(0.01)))
    for mine, theirs in zip(ours.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("scheduled", [False, True])
def test_it_is_saved_and_loaded(scheduled, tmp_path):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5) if scheduled else 0.1
    optimizer = LayerRates(keras.optimizers.Adam(rate), {"encoder": 0.25})
    model, _ = train(stacked, "custom_fit", {"x": X, "y": Y}, optimizer=optimizer)
    save_model(model, str(tmp_path / "model.keras"))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, loaded):
        each.custom_fit(X, Y, shuffle=False, verbose=0)
    for mine, theirs in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(mine, theirs)


def test_layer_rates_are_resumed(tmp_path):
    make = lambda: LayerRates(keras.optimizers.Adam(0.01), {"encoder": 0.1})
    assert_resumes(stacked, {"x": X, "y": Y}, tmp_path, cuts=(7,), optimizer=make)


@pytest.mark.parametrize(
    ("ratios", "match"),
    [({"encoder": 0}, "`ratios` must be positive numbers"), ({"encodr": 0.1}, "must name layers of the model")],
)
def test_wrong_ratios_are_refused(ratios, match):
    with pytest.raises(ValueError, match=match):
        compiled(stacked, optimizer=lambda: LayerRates(SGD(0.1), ratios)).custom_fit(X, Y, verbose=0)


# --------------------------------------------------------------------------------------------------------- Unfreeze


@pytest.mark.supports("Callbacks", "`Unfreeze`: layers that train from an epoch on")
@pytest.mark.parametrize("how", METHODS)
def test_each_layer_trains_from_its_epoch_on(how):
    seen = []
    start = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(firsts(model)))
    keras.utils.set_random_seed(1)
    model = compiled(stacked, optimizer=lambda: keras.optimizers.Adam(0.01))
    before = firsts(model)
    unfreeze = Unfreeze({1: "middle", 2: ["encoder", "norm"]})
    getattr(model, how)(X, Y, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[unfreeze, start])
    changed = [{name for name, by in moved_between(a, b).items() if by} for a, b in zip([before, *seen], seen)]
    assert changed == [{"head"}, {"head", "middle"}, {"head", "middle", "encoder", "norm"}]
    assert all(layer.trainable for layer in model.layers)
    assert int(model.optimizer.iterations.numpy()) == 15


def moved_between(before, after):
    names = ("encoder", "norm", "middle", "head")
    return {name: np.abs(a - b).max() for name, a, b in zip(names, after, before)}


def test_it_trains_as_two_calls_with_the_layer_frozen_in_the_first():
    def run(gradual):
        keras.utils.set_random_seed(1)
        model = compiled(stacked, optimizer=lambda: SGD(0.1))
        options = {"batch_size": 16, "shuffle": False, "verbose": 0}
        if gradual:
            model.custom_fit(X, Y, epochs=4, callbacks=[Unfreeze({2: ["encoder", "norm"]})], **options)
            return model
        for trainable, epochs in ((False, (0, 2)), (True, (2, 4))):
            for name in ("encoder", "norm"):
                model.get_layer(name).trainable = trainable
            model.compile(SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
            model.custom_fit(X, Y, initial_epoch=epochs[0], epochs=epochs[1], **options)
        return model

    for mine, theirs in zip(run(True).get_weights(), run(False).get_weights()):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("accumulates", [False, True])
def test_unfreezing_is_resumed_in_each_stage(accumulates, tmp_path):
    options = {"gradient_accumulation_steps": 2, "gradient_metrics": "grad_norm"} if accumulates else {}
    arguments = lambda: {"x": X, "y": Y, "epochs": 4, "callbacks": [Unfreeze({1: "middle", 2: ["encoder", "norm"]})]}
    make = lambda: keras.optimizers.Adam(0.01)
    assert_resumes(stacked, arguments, tmp_path, cuts=(3, 7, 10, 13), optimizer=make, **options)


def test_groups_of_optimizers():
    model = compiled(stacked, optimizer=lambda: LayerRates(keras.optimizers.Adam(0.01), {"encoder": 0.1}))
    before = firsts(model)
    model.custom_fit(X, Y, epochs=2, verbose=0, callbacks=[Unfreeze({1: "encoder"})])
    assert all(moved(model, before).values())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'encoder'"):
        compiled(stacked).custom_fit(X, Y, verbose=0, callbacks=[Unfreeze({1: "encoderr"})])
    with pytest.raises(ValueError, match="encoder twice"):
        Unfreeze({1: "encoder", 2: ["encoder"]})
    with pytest.raises(ValueError, match="needs a model that is built"):
        compiled(models.subclassed).custom_fit(X, Y, verbose=0, callbacks=[Unfreeze({1: "dense"})])
    with pytest.raises(TypeError, match="must be given to a `CustomTrainModel`"):
        compiled(stacked, keras.Model).fit(X, Y, verbose=0, callbacks=[Unfreeze({1: "encoder"})])
    model = stacked(CustomTrainModel)
    model.get_layer("encoder").trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    model.custom_fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="optimizer without .*encoder"):
        model.custom_fit(X, Y, verbose=0, callbacks=[Unfreeze({1: "encoder"})])
