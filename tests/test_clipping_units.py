"""Adaptive clipping's units, by the layer that owns the kernel, against their definition."""

import itertools

import numpy as np
import pytest

from customfit import AdaptiveClip, CustomTrainModel
from customfit.clipping import clip_adaptively
from customfit.compat import keras, tf

L = keras.layers
LAYERS = {  # a layer and the shape of its input
    "dense": lambda: (L.Dense(3), (4,)),
    "conv 1d": lambda: (L.Conv1D(3, 2), (4, 2)),
    "conv 2d": lambda: (L.Conv2D(3, 2), (3, 3, 2)),
    "conv 2d in groups": lambda: (L.Conv2D(4, 2, groups=2), (3, 3, 4)),
    "conv 3d": lambda: (L.Conv3D(2, 2), (3, 3, 3, 2)),
    "depthwise 1d": lambda: (L.DepthwiseConv1D(2, depth_multiplier=2), (4, 3)),
    "depthwise 2d": lambda: (L.DepthwiseConv2D(2, depth_multiplier=2), (3, 3, 2)),
    "transpose 1d": lambda: (L.Conv1DTranspose(3, 2), (4, 2)),
    "transpose 2d": lambda: (L.Conv2DTranspose(3, 2, strides=2), (2, 2, 2)),
    "transpose 3d": lambda: (L.Conv3DTranspose(3, 2), (2, 2, 2, 2)),
    "einsum as dense": lambda: (einsum("ab,bc->ac", (3,), "c"), (4,)),
    "einsum into heads": lambda: (einsum("abc,cde->abde", (3, 2, 3), "de"), (3, 4)),
    "einsum of heads": lambda: (einsum("abcd,cde->abe", (3, 5), "e"), (3, 2, 4)),
    "einsum in groups": lambda: (einsum("abc,bcd->abd", (2, 5), "d"), (2, 4)),
}

if hasattr(L, "LocallyConnected1D"):  # of Keras 2
    LAYERS["locally connected 1d"] = lambda: (L.LocallyConnected1D(3, 2), (4, 2))
    LAYERS["locally connected 2d"] = lambda: (L.LocallyConnected2D(3, 2), (3, 3, 2))


def einsum(equation, shape, bias_axes):
    cls = getattr(L, "EinsumDense", None) or L.experimental.EinsumDense
    return cls(equation, shape, bias_axes=bias_axes)


def model_of(layer, shape):
    inputs = keras.Input(shape)
    model = CustomTrainModel(inputs, L.Dense(1)(L.Flatten()(layer(inputs))))
    model.compile("sgd", "mse", adaptive_clip=AdaptiveClip(0.01, exclude=[]))
    model.gradient_clip.build(model)
    return model


def units_by_definition(layer, shape, kernel):
    """The sets of entries of a kernel that reach the same channels of the output, wherever in space that is."""
    x = tf.constant(np.random.RandomState(0).uniform(0.5, 1.5, (1, *shape)).astype("float32"))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        output = layer(x)[0]
    reaches = tape.jacobian(output, kernel).numpy() != 0
    # the axes of the output that the kernel decides; along the others, in space, it is the same
    if type(layer).__name__ == "EinsumDense":
        _, of_kernel, of_output = layer.equation.replace("->", ",").split(",")
        space = tuple(axis for axis, name in enumerate(of_output[1:]) if name not in of_kernel)
    else:
        space = tuple(range(len(output.shape) - 1))
    reaches = reaches.any(axis=space)
    channels = reaches.reshape(-1, int(np.prod(kernel.shape)))
    units = {}
    for entry in range(channels.shape[1]):
        units.setdefault(tuple(np.flatnonzero(channels[:, entry])), []).append(entry)
    return list(units.values())


@pytest.mark.parametrize("name", LAYERS)
def test_a_unit_is_what_one_channel_of_the_output_is_computed_from(name):
    layer, shape = LAYERS[name]()
    model = model_of(layer, shape)
    kernel, *biases = layer.trainable_variables
    native = getattr(kernel, "value", kernel)
    native = native if isinstance(native, tf.Variable) else kernel
    random = np.random.RandomState(1)
    weights = random.normal(size=kernel.shape).astype("float32")
    kernel.assign(weights)
    gradient = random.normal(size=kernel.shape).astype("float32")
    zeros = [tf.zeros(bias.shape) for bias in biases]
    (clipped, *_) = model.gradient_clip([tf.constant(gradient), *zeros], [kernel, *biases])
    expected = gradient.flatten()
    for unit in units_by_definition(layer, shape, native):
        limit = 0.01 * max(np.linalg.norm(weights.flatten()[unit]), 1e-3)
        expected[unit] *= min(1, limit / np.linalg.norm(expected[unit]))
    np.testing.assert_allclose(clipped.numpy().flatten(), expected, rtol=1e-5)


def test_a_bias_of_several_axes_is_one_unit():
    layer, shape = LAYERS["einsum into heads"]()
    model = model_of(layer, shape)
    kernel, bias = layer.trainable_variables
    bias.assign(np.full(bias.shape, 2.0, "float32"))
    gradient = np.arange(6, dtype="float32").reshape(2, 3)
    _, clipped = model.gradient_clip([tf.zeros(kernel.shape), tf.constant(gradient)], [kernel, bias])
    limit = 0.01 * 2 * 6**0.5
    np.testing.assert_allclose(clipped.numpy(), gradient * limit / np.linalg.norm(gradient), rtol=1e-5)


def test_layers_within_layers_have_units_of_their_own():
    """The kernels of `MultiHeadAttention` are those of `EinsumDense`; a separable convolution has a depthwise one."""
    inputs = keras.Input((4, 6))
    attended = L.MultiHeadAttention(2, 3)(inputs, inputs)
    outputs = L.Dense(1)(L.Flatten()(L.SeparableConv1D(3, 2, depth_multiplier=2)(attended)))
    model = CustomTrainModel(inputs, outputs)
    model.compile("sgd", "mse", adaptive_clip=AdaptiveClip(0.01, exclude=[]))
    model.gradient_clip.build(model)
    variables = model.trainable_variables
    random = np.random.RandomState(0)
    gradients = [tf.constant(random.normal(size=variable.shape).astype("float32")) for variable in variables]
    clipped = model.gradient_clip(gradients, variables)
    expected_axes = {(6, 2, 3): (0,), (2, 3, 6): (0, 1), (2, 6, 2): (0,), (1, 12, 3): (0, 1), (2, 3): (0, 1)}
    seen = set()
    for variable, gradient, after in zip(variables, gradients, clipped):
        axes = expected_axes.get(tuple(variable.shape))
        if axes is not None:
            seen.add(tuple(variable.shape))
            (expected,) = clip_adaptively([gradient], [variable], 0.01, axes=[axes])
            np.testing.assert_array_equal(after.numpy(), expected.numpy())
    assert seen == set(expected_axes)


def test_the_norm_of_each_unit_stays_below_the_limit():
    """Whatever the axes: the same as clipping each unit by hand."""
    random = np.random.RandomState(0)
    shape = (2, 3, 4)
    weights, gradient = random.normal(size=shape).astype("float32"), random.normal(size=shape).astype("float32")
    for axes in itertools.chain.from_iterable(itertools.combinations(range(3), size) for size in (1, 2, 3)):
        (clipped,) = clip_adaptively([tf.constant(gradient)], [tf.Variable(weights)], 0.1, axes=[axes])
        norms = np.sqrt((clipped.numpy() ** 2).sum(axis=axes))
        limits = 0.1 * np.sqrt((weights**2).sum(axis=axes))
        assert (norms <= limits * (1 + 1e-5)).all()
