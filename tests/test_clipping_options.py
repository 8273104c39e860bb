"""`AdaptiveClip`, `clip_percentile`, and an optimizer that clips by itself."""

import json

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential
from customfit.compat import keras, tf
from customfit.gradients import compile_options_from_config
from customfit.gradients.clipping import (
    AdaptiveClip,
    Clip,
    PercentileClipping,
    check_no_other_clip,
    global_norm,
    percentile_of_history,
)
from customfit.gradients.clipping.clips import HISTORY_LENGTH
from customfit.gradients.layers import output_layers
from tests.test_clipping import METHODS, dense_model, dense_rows, loss_scaled, weight_change

Dense, Activation = keras.layers.Dense, keras.layers.Activation


def names(layers):
    return sorted(layer.name for layer in layers)


# ------------------------------------------------------------------------------------------------- the output layers


def test_the_output_layers_of_a_functional_model_are_those_that_give_its_outputs():
    inputs = keras.Input((3,))
    body = Dense(2, name="body")(inputs)
    outputs = {"b": Dense(1, name="second")(body), "a": Dense(1, name="first")(body)}
    assert names(output_layers(keras.Model(inputs, outputs))) == ["first", "second"]
    assert names(output_layers(keras.Model(inputs, list(outputs.values())))) == ["first", "second"]
    assert names(output_layers(keras.Model(inputs, outputs["a"]))) == ["first"]


def test_an_output_without_weights_stands_for_the_last_layer_before_it_that_has_some():
    inputs = keras.Input((3,))
    left, right = Dense(2, name="left")(Dense(2)(inputs)), Dense(2, name="right")(inputs)
    added = keras.layers.Add()([keras.layers.Dropout(0.1)(left), right])
    assert names(output_layers(keras.Model(inputs, Activation("softmax")(added)))) == ["left", "right"]
    layers = [keras.Input((3,)), Dense(2), Dense(2, name="logits"), Activation("softmax")]
    assert names(output_layers(keras.Sequential(layers))) == ["logits"]


def test_the_output_layers_of_a_model_in_a_model_are_its_own_and_not_all_of_it():
    inner = keras.Sequential([keras.Input((3,)), Dense(2), Dense(2, name="last")])
    inputs = keras.Input((3,))
    assert names(output_layers(keras.Model(inputs, inner(inputs)))) == ["last"]
    assert names(output_layers(keras.Sequential([keras.Input((3,)), Dense(3), inner]))) == ["last"]


def test_the_output_layers_of_a_subclassed_model_are_unknown():
    model = Subclassed()
    model(tf.zeros((1, 6)))
    assert output_layers(model) == []


# ---------------------------------------------------------------------------------------------------- `AdaptiveClip`


class Subclassed(CustomTrainModel):
    def __init__(self):
        super().__init__()
        self.body = Dense(5, activation="tanh", name="first")
        self.heads = [Dense(2, name="second")]
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x):
        return self.scale * self.heads[0](self.body(x))


def subclassed_model():
    model = Subclassed()
    model(tf.zeros((1, 6)))
    return model


def sequential_model():
    return CustomTrainSequential([keras.Input((6,)), Dense(5, name="first"), Dense(2, name="second")])


def moved_far(model, method, exclude=None):
    """For each layer or weight, whether a step moved it further than the clip of a ten-thousandth allows."""
    model.compile(keras.optimizers.SGD(learning_rate=1.0), "mse", adaptive_clip=AdaptiveClip(1e-4, exclude))
    change = weight_change(model, method, *dense_rows())
    return {
        weight.path if hasattr(weight, "path") else weight.name: far
        for weight, far in zip(model.weights, [bool(np.abs(delta).max() > 0.1) for delta in change])
        if "bias" not in weight.name
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_output_layer_is_not_clipped_by_default(method):
    moved = list(moved_far(dense_model(), method).values())
    assert moved == [False, True]
    assert list(moved_far(sequential_model(), method).values()) == [False, True]


def test_a_list_excludes_exactly_what_it_names():
    assert list(moved_far(sequential_model(), "fit", exclude=["first"]).values()) == [True, False]
    assert list(moved_far(sequential_model(), "fit", exclude=[]).values()) == [False, False]
    model = sequential_model()
    assert list(moved_far(model, "fit", exclude=[model.layers[0]]).values()) == [True, False]
    assert model.gradient_clip.get_config() == {"adaptive_clip": 1e-4, "adaptive_clip_exclude": ["first"]}


@pytest.mark.parametrize(
    ("exclude", "free"),
    [(None, []), (["body"], ["first"]), (["second"], ["second"]), (["heads", "scale"], ["second", "scale"])],
)
def test_in_a_subclassed_model_names_of_attributes_count_and_none_is_excluded_by_default(exclude, free):
    moved = moved_far(subclassed_model(), "custom_fit", exclude)
    assert len(moved) == 3
    for name, far in moved.items():
        assert far == any(word in name for word in free), moved


def test_an_unknown_name_is_refused_with_the_names_that_exist():
    clip = Clip.from_options(adaptive_clip=AdaptiveClip(0.1, exclude=["third"]))
    with pytest.raises(
        ValueError, match=r"`AdaptiveClip\(exclude=\)` must name layers of the model.*first.*second"
    ) as error:
        clip.build(sequential_model())
    assert str(error.value).endswith("Received: exclude=['third']")
    with pytest.raises(ValueError, match="body.*first.*heads.*scale.*second"):
        clip.build(subclassed_model())


@pytest.mark.parametrize("exclude", ["first", 3, [3], [None]])
def test_anything_but_a_list_of_layers_or_names_is_refused(exclude):
    with pytest.raises(ValueError, match=r"`AdaptiveClip\(exclude=\)` must be a list") as error:
        AdaptiveClip(0.1, exclude=exclude)
    assert str(error.value).endswith(f"Received: exclude={exclude!r}")


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf"), "0.01", True, None])
def test_a_ratio_is_a_positive_number(ratio):
    with pytest.raises(ValueError, match=r"`AdaptiveClip\(ratio=\)` must be a positive number") as error:
        AdaptiveClip(ratio)
    assert str(error.value).endswith(f"Received: ratio={ratio!r}")


def test_an_adaptive_clip_keeps_names_and_is_equal_to_one_of_the_same_values():
    layer = Dense(2, name="head")
    assert AdaptiveClip(0.01, [layer]).exclude == ("head",)
    assert AdaptiveClip(1, exclude=["head"]) == AdaptiveClip(1.0, exclude=(layer,))
    assert len({AdaptiveClip(0.01), AdaptiveClip(0.01), AdaptiveClip(0.01, exclude=[])}) == 2


def test_a_number_is_an_adaptive_clip_without_options():
    assert Clip.from_options(adaptive_clip=0.01) == Clip.from_options(adaptive_clip=AdaptiveClip(0.01))
    assert Clip.from_options(adaptive_clip=0.01) != Clip.from_options(adaptive_clip=AdaptiveClip(0.01, exclude=[]))


# ----------------------------------------------------------------------------------------------------- the percentile


def test_the_percentile_of_a_history_is_numpy_s():
    values = np.random.RandomState(0).lognormal(size=50).astype("float32")
    for count in (1, 2, 3, 7, 49, 50):
        for percentile in (0.5, 10, 33.3, 50, 90, 100):
            ours = percentile_of_history(tf.constant(values), tf.constant(count), percentile)
            np.testing.assert_allclose(ours, np.percentile(values[:count], percentile), rtol=1e-6)


def percentile_clip(value=50.0):
    clip = PercentileClipping(value)
    clip.build(None)
    return clip


def clipped_norms(step, norms):
    return [float(global_norm(step([tf.constant([norm, 0.0])], [None]))) for norm in norms]


@pytest.mark.parametrize("compiled", [None, {}, {"jit_compile": True}], ids=["eager", "graph", "xla"])
def test_norms_are_clipped_to_the_median_of_those_so_far(compiled):
    clip = percentile_clip()
    step = clip if compiled is None else tf.function(clip, **compiled)
    norms = [4.0, 2.0, 8.0, 16.0, 1.0]
    # The medians are 4, 3, 4, 6 and 4: what is below stays, what is above comes down to it.
    np.testing.assert_allclose(clipped_norms(step, norms), [4.0, 2.0, 4.0, 6.0, 1.0], rtol=1e-6)
    history, count = clip.variables
    np.testing.assert_allclose(history[:5], norms)
    assert int(count) == 5


def test_the_hundredth_percentile_clips_nothing_to_the_bit():
    clip = percentile_clip(100.0)
    for norm in (3.0, 0.1, 7.7, 5.5):
        (clipped,) = clip([tf.constant([norm, norm / 3])], [None])
        np.testing.assert_array_equal(clipped, tf.constant([norm, norm / 3]))


def test_only_the_last_thousand_norms_are_remembered():
    clip = percentile_clip(100.0)
    history, count = clip.variables
    history.assign(tf.ones([HISTORY_LENGTH]))
    count.assign(3 * HISTORY_LENGTH + 7)
    clip([tf.constant([5.0])], [None])
    expected = np.ones(HISTORY_LENGTH)
    expected[7] = 5.0
    np.testing.assert_array_equal(history, expected)
    assert int(count) == 3 * HISTORY_LENGTH + 8


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_norm_that_is_not_finite_is_not_remembered_and_is_still_seen_after_the_clip(bad):
    clip = percentile_clip()
    for norms in ([bad], [1.0, 3.0, bad]):
        assert not np.isfinite(clipped_norms(clip, norms)[-1])
    history, count = clip.variables
    assert int(count) == 2
    np.testing.assert_array_equal(history[:3], [1.0, 3.0, 0.0])


def test_no_gradients_are_no_norm():
    clip = percentile_clip()
    assert clip([None, None], [None, None]) == [None, None]
    assert int(clip.variables[1]) == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_clipped_to_the_percentile_of_its_norms(method):
    """The same step again and again: a second one has the norm of the first where the weights are put back."""
    model = dense_model()
    weights = model.get_weights()
    model.compile(keras.optimizers.SGD(learning_rate=1.0), "mse", clip_percentile=50)
    norms = []
    for scale in (1e3, 1e-1, 1e6):
        model.set_weights(weights)
        change = weight_change(model, method, *dense_rows(scale))
        norms.append(np.sqrt(sum(np.sum(delta**2) for delta in change)))
    seen = model.gradient_clip.variables[0].numpy()[:3]
    assert seen[1] < seen[0] < seen[2]
    np.testing.assert_allclose(norms, [seen[0], seen[1], seen[0]], rtol=1e-4)


def test_building_again_keeps_the_history():
    clip = percentile_clip()
    variables = clip.variables
    clip.build(None)
    assert all(one is other for one, other in zip(variables, clip.variables))


# --------------------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize("value", [0, -1, 100.5, float("nan"), "10", True])
def test_a_percentile_is_above_0_and_up_to_100(value):
    with pytest.raises(ValueError, match="`clip_percentile` must be a number above 0 and up to 100"):
        Clip.from_options(clip_percentile=value)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"clipvalue": 1.0}, {}),
        ({"clipnorm": 2.0}, {}),
        ({"global_clipnorm": 3.0}, {}),
        ({"adaptive_clip": 0.01}, {}),
        ({"adaptive_clip": AdaptiveClip(0.01)}, {"adaptive_clip": 0.01}),
        ({"adaptive_clip": AdaptiveClip(0.01, exclude=[])}, {"adaptive_clip": 0.01, "adaptive_clip_exclude": []}),
        (
            {"adaptive_clip": AdaptiveClip(0.01, exclude=["dense", "head"])},
            {"adaptive_clip": 0.01, "adaptive_clip_exclude": ["dense", "head"]},
        ),
        ({"clip_percentile": 10.0}, {}),
    ],
)
def test_the_config_makes_the_clip_again(options, saved):
    clip = Clip.from_options(**options)
    assert clip.get_config() == (saved or options)
    assert Clip.from_options(**compile_options_from_config(json.loads(json.dumps(clip.get_config())))) == clip
    assert clip.copy() == clip
    assert clip != Clip.from_options(clipvalue=7.0)


@pytest.mark.parametrize("options", [{"adaptive_clip": AdaptiveClip(0.1, exclude=["first"])}, {"clip_percentile": 5}])
def test_a_saved_model_clips_as_before(options, tmp_path):
    model = sequential_model()
    model.compile("sgd", "mse", **options)
    model.save(tmp_path / "model.keras", **({} if hasattr(keras, "ops") else {"save_format": "keras_v3"}))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.gradient_clip == model.gradient_clip


# ------------------------------------------------------------------------------------------ an optimizer's own clip


@pytest.mark.parametrize("own", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, loss_scaled], ids=["plain", "loss_scaled"])
def test_a_clip_beside_an_optimizer_that_clips_is_refused(wrap, own):
    optimizer = wrap(keras.optimizers.SGD(0.1, **{own: 2.5}))
    with pytest.raises(ValueError, match="the optimizer already clips; remove one") as error:
        sequential_model().compile(optimizer, "mse", clip_percentile=10)
    assert str(error.value).endswith(f"Received: clip_percentile=10.0 and an optimizer with {own}=2.5")
    sequential_model().compile(wrap(keras.optimizers.SGD(0.1, **{own: 2.5})), "mse")
    sequential_model().compile(wrap(keras.optimizers.SGD(0.1)), "mse", clip_percentile=10)


def test_without_an_optimizer_there_is_no_conflict():
    check_no_other_clip(Clip.from_options(clipnorm=1.0), None)
