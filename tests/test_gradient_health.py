"""`GradientHealth`: what it measures is true, it costs no parity, and it reports gradients that look problematic."""

import glob

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.callbacks import GradientHealth
from customfit.callbacks.gradient_health import diagnose
from customfit.compat import keras
from tests.parity import models

METHODS = ("fit", "custom_fit")
X, Y = models.rows(64)


def compiled(build=models.dense, cls=CustomTrainModel, **options):
    keras.utils.set_random_seed(1)
    model = build(cls)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", **options)
    return model


def train(model, how, *callbacks, **arguments):
    arguments = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    return getattr(model, how)(X, Y, callbacks=list(callbacks), **arguments)


@pytest.mark.parametrize("how", METHODS)
def test_norms_and_ratios_are_those_of_the_update(how):
    model, health = compiled(), GradientHealth(print_fn=None)
    before = model.get_weights()
    train(model, how, health, epochs=1, batch_size=64, validation_data=(X, Y))
    for index, (now, then) in enumerate(zip(model.get_weights(), before)):
        moved = np.linalg.norm(now - then)
        np.testing.assert_allclose(health.norms[0][index], moved / 0.1, rtol=1e-4)  # SGD: the change is rate * gradient
        if np.linalg.norm(then) > 0:
            np.testing.assert_allclose(health.update_ratios[0][index], moved / np.linalg.norm(then), rtol=1e-4)
    assert len(health.names) == 4
    assert "kernel" in health.names[0]


@pytest.mark.parametrize("how", METHODS)
def test_it_changes_no_number(how):
    ours, theirs = compiled(models.dropout), compiled(models.dropout, keras.Model)
    assert train(ours, how, GradientHealth(print_fn=None)).history == train(theirs, "fit").history
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_array_equal(mine, other)


def test_it_can_come_to_a_model_that_has_been_trained_already():
    model, health = compiled(), GradientHealth(print_fn=None)
    for how in METHODS:
        train(model, how)
    for how in METHODS:
        train(model, how, health)
    assert len(health.norms) == 4
    assert (np.stack(health.norms) > 0).all()


def test_a_layer_that_gets_no_gradient_is_named_once():
    def build(cls):
        inputs = keras.Input((8,))
        dead = keras.layers.Dense(
            4, activation="relu", name="dead", bias_initializer=keras.initializers.Constant(-99.0)
        )
        hidden = keras.layers.Dense(4, name="alive")(inputs)
        both = keras.layers.Concatenate()([dead(inputs), hidden])
        return cls(inputs, keras.layers.Dense(3, activation="softmax", name="out")(both))

    lines = []
    health = GradientHealth(print_fn=lines.append)
    train(compiled(build), "custom_fit", health, epochs=3)
    kernel, bias = (name for name in health.names if name.startswith("dead"))
    assert health.findings == [{kernel: "always zero", bias: "always zero"}] * 3
    assert lines == [f"Epoch 1: the gradients of {name} are always zero." for name in (kernel, bias)]


def test_the_diagnosis_is_relative_to_the_median():
    columns = {"norm": [1.0, 2.0, 1e-6, 1e5, 0.0, 1.0], "zero": [0, 0, 0.5, 0, 1, 0], "nonfinite": [0, 0, 0, 0, 0, 0.1]}
    assert diagnose("abcdef", columns, vanishing=1e-4, exploding=1e4) == {
        "c": "vanishing",
        "d": "exploding",
        "e": "always zero",
        "f": "not finite",
    }


def test_tensorboard_gets_a_scalar_for_each_variable_and_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(compiled(), "custom_fit", GradientHealth(tmp_path, print_fn=None), epochs=3)
    (file,) = glob.glob(str(tmp_path / "*tfevents*"))
    events = EventAccumulator(file, size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()["tensors"]
    assert len([tag for tag in tags if tag.startswith("gradient_norm/")]) == 4
    assert [event.step for event in events.Tensors(tags[0])] == [0, 1, 2]


def test_the_plot_is_an_image(tmp_path):
    pytest.importorskip("matplotlib")
    health = GradientHealth(print_fn=None)
    with pytest.raises(ValueError, match="nothing to plot"):
        health.plot(tmp_path / "none.png")
    train(compiled(), "custom_fit", health, epochs=3)
    panels = health.plot(tmp_path / "health.png")
    assert (tmp_path / "health.png").read_bytes()[:4] == b"\x89PNG"
    for axes, values in zip(panels, (health.norms, health.update_ratios)):
        assert [line.get_label() for line in axes.lines] == list(health.names)
        np.testing.assert_allclose([line.get_ydata() for line in axes.lines], np.stack(values, axis=1))
        assert all(tick == int(tick) for tick in axes.get_xticks())  # epochs


def test_a_plain_model_is_refused():
    with pytest.raises(TypeError, match="must be given to a `CustomTrainModel`"):
        train(compiled(cls=keras.Model), "fit", GradientHealth())
