"""Gradient clipping as pure functions: gradients in, gradients out.

A list of gradients may hold `None` (a variable that the loss does not depend on) and `tf.IndexedSlices` (rows of an
embedding). Slices name a row once for each time it was looked up; the true gradient of that row is the sum, so they are
summed before anything is measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Callable, Optional, Union

from customfit.compat import tf

Gradient = Optional[Union[tf.Tensor, tf.IndexedSlices]]


def clip_by_value(gradients: Sequence[Gradient], clipvalue: float) -> list[Gradient]:
    """Clips every element of every gradient to `[-clipvalue, clipvalue]`.

    Infinite and NaN elements stay as they are, so that a float16 overflow is still seen by the loss scale.

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
        below = tf.norm(values) <= clipnorm  # where TensorFlow would still round
        return tf.where(below, values, tf.clip_by_norm(values, clipnorm))

    return [_map_values(clip, gradient) for gradient in sum_duplicates(gradients)]


def clip_by_global_norm(gradients: Sequence[Gradient], global_clipnorm: float) -> list[Gradient]:
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
    # As TensorFlow scales, but to exactly 1 where there is nothing to clip; infinity less itself is NaN.
    scale = tf.where(norm <= global_clipnorm, tf.ones_like(norm), global_clipnorm * (1.0 / norm) + (norm - norm))
    return [_map_values(lambda values: values * tf.cast(scale, values.dtype), gradient) for gradient in gradients]


def clip_adaptively(
    gradients: Sequence[Gradient], variables: Sequence[tf.Variable], ratio: float, epsilon: float = 1e-3
) -> list[Gradient]:
    """Clips each unit's gradient to at most `ratio` times the norm of that unit's weights.

    A unit is an output of a layer: a column of a dense kernel, a filter of a convolution; a bias is one unit.
    From Brock et al. 2021, https://arxiv.org/abs/2102.06171.

    Args:
        gradients: Gradients, one a variable.
        variables: The variables, in the same order.
        ratio: The largest ratio of gradient norm to weight norm, say 0.01.
        epsilon: The least norm that weights are taken to have, so that weights at zero can move.

    Returns:
        The clipped gradients, in order.
    """

    def clip(gradient, variable):
        if gradient is None:
            return None
        rank = len(variable.shape)
        axes = list(range(rank - 1 if rank > 1 else rank))  # all but the last; a vector is one unit
        allowed = ratio * tf.maximum(_norm(tf.convert_to_tensor(variable), axes), epsilon)

        def scale(values):
            norm = _norm(values, axes)
            return tf.where(norm > allowed, values * (allowed / tf.maximum(norm, 1e-6)), values)

        return _map_values(scale, gradient)

    return [clip(gradient, variable) for gradient, variable in zip(sum_duplicates(gradients), variables)]


def global_norm(gradients: Sequence[Gradient]) -> tf.Tensor:
    """The L2 norm of all gradients together.

    Args:
        gradients: Gradients, one a variable.

    Returns:
        A scalar tensor; duplicate rows of slices count as their sum.
    """
    return tf.linalg.global_norm(sum_duplicates(gradients))


def sum_duplicates(gradients: Sequence[Gradient]) -> list[Gradient]:
    """Gradients in which slices name each row once, with its true gradient.

    Args:
        gradients: Gradients, one a variable.

    Returns:
        The gradients, in order; dense ones and `None` are handed through.
    """

    def sum_rows(gradient):
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        rows, position = tf.unique(gradient.indices)
        values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))
        return tf.IndexedSlices(values, rows, gradient.dense_shape)

    return [sum_rows(gradient) for gradient in gradients]


@dataclasses.dataclass(frozen=True)
class Clip:
    """The one clipping option of `compile()`: its name and its number."""

    option: str
    value: float

    variables = ()

    def get_config(self) -> dict:
        return {self.option: self.value}

    def build(self, model) -> None:
        pass

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[Gradient]:
        if self.option == "adaptive_clip":
            return clip_adaptively(gradients, variables, self.value)
        return _BY_OPTION[self.option](gradients, self.value)

    @classmethod
    def from_options(cls, **options: float | None) -> Clip | None:
        """The clip that `compile(clipvalue=, clipnorm=, global_clipnorm=, adaptive_clip=)` asks for, or `None`.

        Raises:
            ValueError: If more than one option is set, or one is not a positive number.
        """
        chosen = {name: value for name, value in options.items() if value is not None}
        for name, value in chosen.items():
            number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
            if isinstance(value, bool) or not number or not 0 < float(value) < math.inf:
                raise ValueError(f"`{name}` must be a positive number. Received: {name}={value!r}")
        if len(chosen) > 1:
            received = ", ".join(f"{name}={value}" for name, value in chosen.items())
            raise ValueError(
                f"At most one of {', '.join(f'`{name}`' for name in options)} may be set. Received: {received}"
            )
        return next((cls(name, float(value)) for name, value in chosen.items()), None)


_BY_OPTION: dict[str, Callable] = {
    "clipvalue": clip_by_value,
    "clipnorm": clip_by_norm,
    "global_clipnorm": clip_by_global_norm,
}


def _map_values(function: Callable, gradient: Gradient) -> Gradient:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)
    return function(gradient)


def _norm(tensor: tf.Tensor, axes: list[int]) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(tensor), axis=axes, keepdims=True))
