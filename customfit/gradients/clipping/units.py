"""Which weights make one unit of a layer, where the last axis of the kernel is not the layer's output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from customfit.compat import keras, tf


def unit_axes(model: keras.Model) -> dict[int, list[int]]:
    """Returns the axes of a kernel over which one unit extends, by the kernel's id.

    A unit is an output of a layer: all weights from which one channel of the output is computed. In most layers it is
    what a kernel holds along all axes but the last. These differ, at any depth of models and layers, such as those
    within `MultiHeadAttention`:

    - a depthwise convolution has an output for each input channel and multiplier: its last two axes,
    - a transposed convolution has its outputs on the axis before the last,
    - `EinsumDense` has them on the axes of the kernel that its equation keeps. Its bias is one unit.

    Args:
        model: The model, built.
    """
    found: dict[int, list[int]] = {}
    for layer in _layers_within(model):
        for variable, axes in _own(layer):
            found[id(variable)] = axes
    return found


def _layers_within(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for tracked in tf.train.TrackableView(model).descendants():
        if isinstance(tracked, keras.layers.Layer) and tracked.built:
            yield tracked


def _own(layer: Any) -> Iterator[tuple[tf.Variable, list[int]]]:
    depthwise = getattr(layer, "depthwise_kernel", None)  # of depthwise layers of Keras 2, and of separable ones
    if isinstance(layer, DEPTHWISE) and depthwise is None:
        depthwise = layer.kernel
    if depthwise is not None:
        yield depthwise, list(range(len(depthwise.shape) - 2))
    elif isinstance(layer, TRANSPOSED):
        rank = len(layer.kernel.shape)
        yield layer.kernel, [axis for axis in range(rank) if axis != rank - 2]
    elif isinstance(layer, EINSUM):
        _, kernel, output = layer.equation.replace("->", ",").replace(" ", "").split(",")
        yield layer.kernel, [axis for axis, name in enumerate(kernel) if name not in output]
        if layer.bias is not None:
            yield layer.bias, list(range(len(layer.bias.shape)))


def _classes(*names: str) -> tuple[Any, ...]:
    """Returns those layers of Keras that this release has."""
    return tuple(getattr(keras.layers, name) for name in names if hasattr(keras.layers, name))


DEPTHWISE = _classes("DepthwiseConv1D", "DepthwiseConv2D")
TRANSPOSED = _classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
EINSUM = _classes("EinsumDense") or (keras.layers.experimental.EinsumDense,)
