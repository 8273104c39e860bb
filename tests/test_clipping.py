"""Clipping: hand-computed answers, slices against dense gradients, and what it does inside `fit` and `custom_fit`."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import IS_KERAS_3, keras, tf
from customfit.gradients.clipping import (
    AdaptiveClip,
    Clip,
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
    sum_duplicates,
)

OPTIONS = ("clipvalue", "clipnorm", "global_clipnorm", "adaptive_clip")
METHODS = ("fit", "custom_fit")


@pytest.fixture(autouse=True, scope="module")
def _fresh_keras():
    """Once a file and not, as elsewhere, once a test: it takes Keras 3 a quarter of a second, and most tests none."""
    yield
    keras.backend.clear_session()


def tensors(*arrays):
    return [None if array is None else tf.constant(array, tf.float32) for array in arrays]


def dense(gradients):
    return [None if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def random_gradients(scale=1.0):
    rng = np.random.RandomState(0)
    return tensors(*(scale * rng.randn(*shape) for shape in ((40, 20), (20,), (3, 3, 4, 8))))


def clip(option, gradients, value):
    """Clips as `compile(option=value)` would, with variables that are all one."""
    variables = [None if g is None else tf.Variable(tf.ones(g.shape)) for g in gradients]
    return Clip.from_options(**{option: value})(gradients, variables)


# ------------------------------------------------------------------------------------------- hand-computed answers


def test_clip_by_value_clips_each_element():
    (clipped,) = clip_by_value(tensors([[-3.0, 0.5], [2.0, -0.25]]), 1.0)
    np.testing.assert_array_equal(clipped, [[-1.0, 0.5], [1.0, -0.25]])


def test_clip_by_norm_scales_each_gradient_by_itself():
    first, second = clip_by_norm(tensors([3.0, 4.0], [0.0, 0.5]), 1.0)
    np.testing.assert_allclose(first, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(second, [0.0, 0.5])


def test_clip_by_norm_takes_the_norm_over_all_axes():
    (clipped,) = clip_by_norm(tensors([[3.0, 0.0], [0.0, 4.0]]), 2.5)
    np.testing.assert_allclose(clipped, [[1.5, 0.0], [0.0, 2.0]], rtol=1e-6)


def test_clip_by_global_norm_scales_all_gradients_by_one_factor():
    first, second = clip_by_global_norm(tensors([[2.0, 4.0]], [4.0]), 3.0)  # their joint norm is 6
    np.testing.assert_allclose(first, [[1.0, 2.0]], rtol=1e-6)
    np.testing.assert_allclose(second, [2.0], rtol=1e-6)


def test_clip_adaptively_takes_a_column_of_a_dense_kernel_as_a_unit():
    kernel = tf.Variable([[3.0, 0.3], [4.0, 0.4]])  # column norms 5 and 0.5
    (clipped,) = clip_adaptively(tensors([[6.0, 0.0], [8.0, 0.01]]), [kernel], 0.1)  # gradient norms 10 and 0.01
    np.testing.assert_allclose(clipped, [[0.3, 0.0], [0.4, 0.01]], rtol=1e-6)


def test_clip_adaptively_takes_a_bias_as_one_unit():
    bias = tf.Variable([3.0, 0.0, 4.0])
    (clipped,) = clip_adaptively(tensors([0.0, 5.0, 0.0]), [bias], 0.1)
    np.testing.assert_allclose(clipped, [0.0, 0.5, 0.0], rtol=1e-6)


def test_clip_adaptively_takes_a_filter_of_a_convolution_as_a_unit():
    weights, gradient = np.zeros((2, 2, 2, 3)), np.zeros((2, 2, 2, 3))
    weights[0, 0, 0], weights[1, 1, 1] = [3, 6, 0], [4, 8, 0]  # filter norms 5, 10 and 0
    gradient[0, 1, 0], gradient[1, 0, 1] = [30, 0.3, 3], [40, 0.4, 4]  # gradient norms 50, 0.5 and 5
    (clipped,) = clip_adaptively(tensors(gradient), [tf.Variable(weights, dtype=tf.float32)], 0.1)
    expected = gradient * [0.5 / 50, 1.0, 0.1 * 1e-3 / 5]  # the last filter is at zero: `epsilon` is its norm
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)


def test_clip_adaptively_lets_weights_at_zero_move_by_ratio_times_epsilon():
    (clipped,) = clip_adaptively(tensors([3.0, 4.0]), [tf.Variable([0.0, 0.0])], 0.5, epsilon=0.1)
    np.testing.assert_allclose(clipped, [0.03, 0.04], rtol=1e-6)


def test_clip_adaptively_takes_a_scalar_as_one_unit():
    (clipped,) = clip_adaptively(tensors(5.0), [tf.Variable(2.0)], 0.1)
    np.testing.assert_allclose(clipped, 0.2, rtol=1e-6)


def test_global_norm_is_of_all_gradients_together():
    np.testing.assert_allclose(global_norm(tensors([[3.0]], None, [4.0, 12.0])), 13.0, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------ properties


@pytest.mark.parametrize("option", OPTIONS)
def test_clipping_twice_is_clipping_once(option):
    once = clip(option, random_gradients(100.0), 0.7)
    twice = clip(option, once, 0.7)
    for one, two in zip(once, twice):
        # Not to the bit: a norm scaled to 0.7 may come out a rounding above it, and is then scaled once more. A float32
        # sum of some hundred squares is right to about 1e-6.
        np.testing.assert_allclose(two, one, rtol=2e-6)


@pytest.mark.parametrize("factor", [1024.0, 41.0, 10.0])
@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_below_the_threshold_are_unchanged_to_the_bit(option, factor):
    gradients = random_gradients(1e-3)
    for before, after in zip(gradients, clip(option, gradients, factor)):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("option", OPTIONS)
def test_zero_gradients_stay_zero(option):
    (clipped,) = clip(option, [tf.zeros((3, 2))], 0.1)
    np.testing.assert_array_equal(clipped, np.zeros((3, 2)))


@pytest.mark.parametrize("option", OPTIONS)
def test_none_passes_through_in_its_place(option):
    clipped = clip(option, tensors(None, [30.0, 40.0], None, [0.0]), 0.5)
    assert [gradient is None for gradient in clipped] == [True, False, True, False]
    assert np.abs(clipped[1]).max() < 30


@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_that_are_all_none_stay_none(option):
    assert clip(option, [None, None], 0.5) == [None, None]


@pytest.mark.parametrize("option", OPTIONS)
def test_inputs_are_not_modified(option):
    gradients = random_gradients(100.0)
    before, length = [gradient.numpy() for gradient in gradients], len(gradients)
    clip(option, gradients, 0.5)
    assert len(gradients) == length
    for gradient, value in zip(gradients, before):
        np.testing.assert_array_equal(gradient, value)


def test_clip_by_value_leaves_inf_and_nan_elements():
    (clipped,) = clip_by_value(tensors([5.0, np.inf, -np.inf, np.nan, -5.0, 0.5]), 1.0)
    np.testing.assert_array_equal(clipped, [1.0, np.inf, -np.inf, np.nan, -1.0, 0.5])


def test_clip_by_global_norm_makes_everything_nan_where_the_norm_is_not_finite():
    for bad in (np.inf, -np.inf, np.nan):
        for clipped in clip_by_global_norm(tensors([bad, 1.0], [2.0]), 1.0):
            assert np.isnan(clipped).all()


# ----------------------------------------------------------------------------------------------------------- slices


def slices():
    """Rows 1 and 3 of five, row 3 three times; their sums have the norms 5 and 13."""
    values = tf.constant([[1.0, 2.0], [3.0, 4.0], [2.0, 5.0], [2.0, 5.0]])
    return tf.IndexedSlices(values, tf.constant([3, 1, 3, 3]), tf.constant([5, 2]))


def as_dense():
    return tf.constant([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0], [5.0, 12.0], [0.0, 0.0]])


@pytest.mark.parametrize("option", OPTIONS)
def test_duplicate_rows_are_clipped_as_their_dense_sum(option):
    variables = [tf.Variable(tf.reshape(tf.range(10.0), (5, 2)) / 10), tf.Variable([1.0, 1.0])]
    bias = tf.constant([6.0, 8.0])
    for value in (0.1, 2.0, 4.5, 1000.0):
        of_slices = Clip.from_options(**{option: value})([slices(), bias], variables)
        of_dense = Clip.from_options(**{option: value})([as_dense(), bias], variables)
        assert isinstance(of_slices[0], tf.IndexedSlices)
        for one, other in zip(dense(of_slices), dense(of_dense)):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_global_norm_of_duplicate_rows_is_that_of_their_sum():
    np.testing.assert_allclose(global_norm([slices()]), np.sqrt(5.0**2 + 13.0**2), rtol=1e-6)


def test_global_norm_after_clipping_duplicate_rows_is_the_clip():
    np.testing.assert_allclose(global_norm(clip_by_global_norm([slices()], 2.0)), 2.0, rtol=1e-6)


def test_sum_duplicates_names_each_row_once():
    (summed,) = sum_duplicates([slices()])
    assert sorted(summed.indices.numpy()) == [1, 3]
    np.testing.assert_array_equal(tf.convert_to_tensor(summed), as_dense())


def test_slices_without_a_dense_shape_can_be_clipped():
    without_shape = tf.IndexedSlices(tf.constant([[3.0], [3.0]]), tf.constant([2, 2]))
    (clipped,) = clip_by_norm([without_shape], 1.0)
    np.testing.assert_allclose(clipped.values, [[1.0]], rtol=1e-6)
    np.testing.assert_array_equal(clipped.indices, [2])


# ---------------------------------------------------------------------------------------------------------- options


def test_no_option_is_no_clip():
    assert Clip.from_options(**dict.fromkeys(OPTIONS)) is None


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(2), np.array(0.5)])
def test_a_positive_number_is_taken(value):
    for option in OPTIONS:
        clip = Clip.from_options(**{**dict.fromkeys(OPTIONS), option: value})
        assert (clip.option, clip.value) == (option, float(value))
        assert isinstance(clip.value, float)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", True])
def test_anything_but_a_positive_number_is_refused_by_name(value):
    for option in OPTIONS:
        with pytest.raises(ValueError, match=f"`{option}`") as error:
            Clip.from_options(**{**dict.fromkeys(OPTIONS), option: value})
        assert str(error.value).endswith(f"Received: {option}={value!r}")


def test_two_options_are_refused_by_name():
    with pytest.raises(ValueError, match="At most one") as error:
        Clip.from_options(clipvalue=None, clipnorm=1.0, global_clipnorm=2.0, adaptive_clip=None)
    assert all(f"`{option}`" in str(error.value) for option in OPTIONS)
    assert str(error.value).endswith("Received: clipnorm=1.0, global_clipnorm=2.0")


# --------------------------------------------------------------------------------------------------------- in compile


def dense_model(cls=CustomTrainModel):
    """Two layers with weights that are the same each time."""
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    model = cls(inputs, keras.layers.Dense(2)(hidden))
    rng = np.random.RandomState(1)
    model.set_weights([rng.uniform(-1, 1, weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def dense_rows(scale=1e3, count=8):
    rng = np.random.RandomState(2)
    return rng.randn(count, 6).astype("float32"), (scale * rng.randn(count, 2)).astype("float32")


def embedding_model(cls=CustomTrainModel):
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(7, 3)(inputs))
    model = cls(inputs, keras.layers.Dense(1)(hidden))
    rng = np.random.RandomState(1)
    model.set_weights([rng.uniform(-1, 1, weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def embedding_rows():
    """Ids that come back within a row and from row to row; ids 5 and 6 never come."""
    x = np.array([[1, 1, 1, 2], [1, 2, 1, 3], [4, 1, 0, 1], [3, 3, 1, 1]], "int32")
    return x, np.array([[1e3], [2e3], [-5e2], [3e3]], "float32")


MODELS = {"dense": (dense_model, dense_rows), "embedding": (embedding_model, embedding_rows)}


def weight_change(model, method, x, y):
    """The change of each weight, as float64, after one step on one batch."""
    before = model.get_weights()
    getattr(model, method)(x, y, batch_size=len(x), epochs=1, shuffle=False, verbose=0)
    return [new.astype("float64") - old for old, new in zip(before, model.get_weights())]


@pytest.mark.parametrize("wrong", [{"clipnorm": -1}, {"clipnorm": 1.0, "clipvalue": 1.0}])
def test_a_refused_clip_leaves_a_compiled_model_as_it_was(wrong):
    model = dense_model()
    model.compile(keras.optimizers.SGD(0.1), "mse", global_clipnorm=2.0)
    clip, optimizer = model.gradient_clip, model.optimizer
    with pytest.raises(ValueError, match="`clipnorm`"):
        model.compile("adam", "mae", **wrong)
    assert model.gradient_clip is clip
    assert model.optimizer is optimizer
    assert model.loss == "mse"


def test_compile_without_a_clip_takes_an_earlier_one_away():
    model = dense_model()
    model.compile("sgd", "mse", clipnorm=1.0)
    model.compile("sgd", "mse")
    assert model.gradient_clip is None


# ------------------------------------------------------------------------------------------------------ in a model


def of_all_layers(option, value):
    """The option, and that it holds for the output layer too."""
    return {option: AdaptiveClip(value, exclude=[]) if option == "adaptive_clip" else value}


def assert_moved_by_the_clip(option, value, change, before):
    """That SGD with a learning rate of 1 has moved weights by exactly what `option` allows."""
    if option == "clipvalue":
        largest = [np.abs(delta).max() for delta in change]
        np.testing.assert_allclose(largest, value, atol=1e-6)
    elif option == "clipnorm":
        np.testing.assert_allclose([np.linalg.norm(delta) for delta in change], value, atol=1e-6)
    elif option == "global_clipnorm":
        np.testing.assert_allclose(np.sqrt(sum(np.sum(delta**2) for delta in change)), value, atol=1e-6)
    else:
        for delta, weight in zip(change, before):
            axes = tuple(range(max(weight.ndim - 1, 1)))
            allowed = value * np.sqrt((weight.astype("float64") ** 2).sum(axes))
            np.testing.assert_allclose(np.sqrt((delta**2).sum(axes)), allowed, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_big_loss_moves_weights_by_exactly_the_clip(method, option, kind):
    build, rows = MODELS[kind]
    value = 0.5 if option == "adaptive_clip" else 1.0
    model = build()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(learning_rate=1.0), "mse", **of_all_layers(option, value))
    change = weight_change(model, method, *rows())
    assert_moved_by_the_clip(option, value, change, before)


# --------------------------------------------------------------------------------------------- transform_gradients


class Amplified(CustomTrainModel):
    """Multiplies its gradients, and keeps those of steps that run eagerly."""

    factor = 3.0

    def transform_gradients(self, gradients, variables):
        if tf.executing_eagerly():
            self.seen = [gradient.numpy() for gradient in gradients]
            self.variables_seen = [variable.shape for variable in variables]
        return [gradient * self.factor for gradient in gradients]


def line(cls=Amplified):
    """`y = 2 x`, of one weight and no bias."""
    inputs = keras.Input((1,))
    model = cls(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.set_weights([np.array([[2.0]], "float32")])
    return model


LINE_X, LINE_Y = np.array([[1.0], [2.0]], "float32"), np.array([[1.0], [6.0]], "float32")
LINE_GRADIENT = -3.0  # the mean of 2 x (2 x - y): 2 and -8


def loss_scaled(optimizer, scale=2.0**10):
    if IS_KERAS_3:
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)
    return keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=scale)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, loss_scaled], ids=["plain", "loss_scaled"])
@pytest.mark.parametrize("method", METHODS)
def test_transform_gradients_sees_true_gradients(method, wrap):
    model = line()
    model.compile(wrap(keras.optimizers.SGD(learning_rate=1.0)), "mse", run_eagerly=True)
    (change,) = weight_change(model, method, LINE_X, LINE_Y)
    np.testing.assert_allclose(model.seen, [[[LINE_GRADIENT]]], rtol=1e-6)
    assert model.variables_seen == [(1, 1)]
    np.testing.assert_allclose(change, [[-3.0 * LINE_GRADIENT]], rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, loss_scaled], ids=["plain", "loss_scaled"])
@pytest.mark.parametrize("method", METHODS)
def test_transform_gradients_counts_without_a_clip_and_in_a_graph(method, wrap):
    model = line()
    model.compile(wrap(keras.optimizers.SGD(learning_rate=1.0)), "mse")
    (change,) = weight_change(model, method, LINE_X, LINE_Y)
    np.testing.assert_allclose(change, [[-3.0 * LINE_GRADIENT]], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_transform_gradients_comes_before_the_clip(method):
    model = line()
    model.compile(keras.optimizers.SGD(learning_rate=1.0), "mse", clipvalue=4.0)
    (change,) = weight_change(model, method, LINE_X, LINE_Y)
    np.testing.assert_allclose(change, [[4.0]], rtol=1e-6)  # 3 is below 4, and 9 is not; after the clip it would be 9


# ------------------------------------------------------------------------------------------------- against optimizers


@pytest.mark.parametrize("scale", [1e3, 1e-3], ids=["above", "below"])
@pytest.mark.parametrize("option", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_our_clip_equals_the_optimizers_own(option, scale):
    x, y = dense_rows(scale, count=24)
    value = 0.3 if scale > 1 else 30.0
    ours, theirs = dense_model(), dense_model(keras.Model)
    ours.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **{option: value})
    theirs.compile(keras.optimizers.SGD(0.1, momentum=0.9, **{option: value}), "mse")
    for model in (ours, theirs):
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    # Keras's `clipnorm` multiplies and divides by the threshold also where there is nothing to clip, which rounds.
    rtol = 1e-6 if (option, scale) == ("clipnorm", 1e-3) else 0
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=0)


# ---------------------------------------------------------------------------------------------------------- loss scale


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_the_clip_sees_unscaled_gradients(method, option):
    value = 0.5 if option == "adaptive_clip" else 1.0
    model = dense_model()
    before = model.get_weights()
    optimizer = loss_scaled(keras.optimizers.SGD(learning_rate=1.0))
    model.compile(optimizer, "mse", run_eagerly=True, **of_all_layers(option, value))
    change = weight_change(model, method, *dense_rows())
    assert_moved_by_the_clip(option, value, change, before)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_only_a_loss_scale_brings_above_the_threshold_are_not_clipped(method):
    model = line(CustomTrainModel)
    model.compile(loss_scaled(keras.optimizers.SGD(learning_rate=1.0)), "mse", global_clipnorm=4.0)
    (change,) = weight_change(model, method, LINE_X, LINE_Y)
    np.testing.assert_allclose(change, [[-LINE_GRADIENT]], rtol=1e-6)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_an_overflow_of_the_scaled_loss_moves_no_weight(method, option):
    """The clip hands infinite gradients on, so the loss scale still sees them and skips the step."""
    model = dense_model()
    optimizer = loss_scaled(keras.optimizers.SGD(learning_rate=1.0), scale=2.0**120)
    model.compile(optimizer, "mse", run_eagerly=True, **{option: 1.0})
    for change in weight_change(model, method, *dense_rows()):
        np.testing.assert_array_equal(change, np.zeros_like(change))
