"""Gradient clipping as pure functions: gradients in, gradients out.

A list of gradients may hold `None` (a variable that the loss does not depend on) and `tf.IndexedSlices` (rows of an
embedding). Slices list a row once for each time it was looked up. The true gradient of that row is their sum, so they
are summed before norms are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional, Union

import numpy as np

from customfit.compat import tf

Gradient = Optional[Union[tf.Tensor, tf.IndexedSlices]]


def clip_by_value(gradients: Sequence[Gradient], clipvalue: float) -> list[Gradient]:
    """Clips every element of every gradient to `[-clipvalue, clipvalue]`.

    Infinite and NaN elements stay as they are, so that the loss scale still finds a float16 overflow.

    Args:
        gradients: Gradients, one a variable.
        clipvalue: The largest absolute value that an element may have.

    Returns:
        The clipped gradients, in order.
    """

    def clip(values):
        return tf.where(tf.math.is_finite(values), tf.clip_by_value(values, -clipvalue, clipvalue), values)

    return [_map_values(clip, gradient) for gradient in sum_duplicates(gradients)]


def clip_by_norm(gradients: Sequence[Gradient], clipnorm: float) -> list[Gradient]:
    """Scales each gradient whose own L2 norm is above `clipnorm` down to that norm.

    Args:
        gradients: Gradients, one a variable.
        clipnorm: The largest L2 norm that one variable's gradient may have.

    Returns:
        The clipped gradients, in order.
    """

    def clip(values):
        below = tf.norm(values) <= clipnorm  # TensorFlow would round these, too
        return tf.where(below, values, tf.clip_by_norm(values, clipnorm))

    return [_map_values(clip, gradient) for gradient in sum_duplicates(gradients)]


def clip_by_global_norm(gradients: Sequence[Gradient], global_clipnorm: float | tf.Tensor) -> list[Gradient]:
    """Scales all gradients by one factor so that their joint L2 norm is at most `global_clipnorm`.

    The direction of the update is kept (Pascanu et al. 2013, https://arxiv.org/abs/1211.5063). Where the norm is not
    finite every gradient becomes NaN, as in Keras.

    Args:
        gradients: Gradients, one a variable.
        global_clipnorm: The largest L2 norm that all gradients together may have.

    Returns:
        The clipped gradients, in order.

    Example:

    >>> gradients = [tf.constant([3.0]), tf.constant([4.0])]       # their joint norm is 5
    >>> [g.numpy().tolist() for g in clip_by_global_norm(gradients, 1.0)]
    [[0.6000000238418579], [0.800000011920929]]
    """
    gradients = sum_duplicates(gradients)
    norm = tf.linalg.global_norm(gradients)
    # As TensorFlow scales, but exactly 1 if there is nothing to clip. Infinity minus itself is NaN.
    scale = tf.where(norm <= global_clipnorm, tf.ones_like(norm), global_clipnorm * (1.0 / norm) + (norm - norm))
    return [_map_values(lambda values: values * tf.cast(scale, values.dtype), gradient) for gradient in gradients]


def clip_adaptively(
    gradients: Sequence[Gradient],
    variables: Sequence[tf.Variable],
    ratio: float,
    epsilon: float = 1e-3,
    axes: Sequence[Sequence[int] | None] | None = None,
) -> list[Gradient]:
    """Clips each unit's gradient to at most `ratio` times the norm of that unit's weights.

    A unit is an output of a layer: a column of a dense kernel, a filter of a convolution. A bias is one unit, and so is
    any variable with only one axis longer than 1. From Brock et al. 2021, https://arxiv.org/abs/2102.06171, whose code
    this follows. Which variables to exclude (they exclude those of the last layer) is up to the caller.

    Args:
        gradients: Gradients, one a variable.
        variables: The variables, in the same order.
        ratio: The largest ratio of gradient norm to weight norm, say 0.01.
        epsilon: The smallest norm that weights are assumed to have, so that weights at zero can move.
        axes: For each variable, the axes over which a unit of it extends; `None` for all but the last. As for kernels
            of depthwise and transposed convolutions, where a unit is not a column.

    Returns:
        The clipped gradients, in order.
    """

    def clip(gradient, variable, axes):
        if gradient is None:
            return None
        axes = _unit_axes(variable.shape) if axes is None else list(axes)
        allowed = ratio * tf.maximum(_norm(tf.convert_to_tensor(variable), axes), epsilon)

        def scale(values):
            norm = _norm(values, axes)
            return tf.where(norm > allowed, values * (allowed / tf.maximum(norm, 1e-6)), values)

        return _map_values(scale, gradient)

    axes = [None] * len(variables) if axes is None else axes
    return list(map(clip, sum_duplicates(gradients), variables, axes))


def percentile_of_history(history: tf.Tensor, count: tf.Tensor, percentile: float) -> tf.Tensor:
    """Returns the percentile of the first `count` values of a history, interpolated as `numpy.percentile` does.

    Args:
        history: A vector of numbers. Its length is static, so that this compiles with XLA.
        count: How many of its values count, from the front.
        percentile: From 0 to 100.

    Returns:
        A scalar tensor; NaN if `count` is 0.

    Example:

    >>> float(percentile_of_history(tf.constant([4.0, 1.0, 2.0, 0.0]), 3, 75))
    3.0
    """
    length = int(history.shape[0])
    unknown = tf.range(length) >= count
    ranked = tf.sort(tf.where(unknown, tf.fill([length], tf.constant(np.inf, history.dtype)), history))
    # For each possible count: the two ranked values that the percentile lies between, and its position.
    position = np.maximum(percentile / 100 * np.arange(-1, length), 0)
    below = np.floor(position).astype("int32")
    above = np.minimum(below + 1, np.maximum(np.arange(-1, length), 0)).astype("int32")
    low, high = (tf.gather(ranked, tf.gather(tf.constant(rank), count)) for rank in (below, above))
    return low + (high - low) * tf.gather(tf.constant((position - below).astype(history.dtype.as_numpy_dtype)), count)


def global_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Returns the L2 norm of all gradients together.

    Args:
        gradients: Gradients, one a variable.

    Returns:
        A scalar tensor. Duplicate rows of slices count as their sum.
    """
    return tf.linalg.global_norm(sum_duplicates(gradients))


def sum_duplicates(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Returns gradients in which slices list each row once, with its true gradient.

    Args:
        gradients: Gradients, one a variable.

    Returns:
        The gradients, in order. Dense ones and `None` are returned as they are.
    """

    def sum_rows(gradient):
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        rows, position = tf.unique(gradient.indices)
        values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
        return tf.IndexedSlices(values, rows, gradient.dense_shape)

    return [sum_rows(gradient) for gradient in gradients]


def _map_values(function: Callable, gradient: Gradient) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)
    return function(gradient)


def _unit_axes(shape: tf.TensorShape) -> list[int]:
    """Returns the axes of a unit of a variable: all but the last, or all if only one axis is longer than 1."""
    rank = len(shape)
    return list(range(rank if sum(size != 1 for size in shape) < 2 else rank - 1))


def _norm(tensor: tf.Tensor, axes: list[int]) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(tensor), axis=axes, keepdims=True))
