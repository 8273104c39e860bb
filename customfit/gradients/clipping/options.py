"""The clipping options of `compile()`: what a user passes, and the clip that is made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import replicas
from customfit.gradients import layers
from customfit.gradients.clipping.functions import (
    Gradient,
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
    percentile_of_history,
)

HISTORY_LENGTH = 1000


@dataclasses.dataclass(frozen=True)
class AdaptiveClip:
    """Clips each unit's gradient to a ratio of the norm of its weights: `compile(adaptive_clip=AdaptiveClip(0.01))`.

    Adaptive gradient clipping, from Brock et al. 2021, https://arxiv.org/abs/2102.06171. A plain number,
    `compile(adaptive_clip=0.01)`, is the same with the default `exclude`.

    Args:
        ratio: The largest ratio of a unit's gradient norm to its weight norm, such as 0.01.
        exclude: Layers that are not clipped, or their names, or names of attributes of a subclassed model that hold
            layers or variables. Kept as names. Defaults to the output layers of a functional or Sequential model, as in
            the paper; in a subclassed model, whose output layers cannot be known, no layer is excluded by default.

    Raises:
        ValueError: If `ratio` is not a positive number, or `exclude` not a list of layers or names.

    Example:

    >>> model.compile("sgd", "mse", adaptive_clip=AdaptiveClip(0.01, exclude=["head"]))
    """

    ratio: float
    exclude: Sequence[str | keras.layers.Layer] | None = None

    def __post_init__(self) -> None:
        if not _is_positive(self.ratio):
            raise ValueError(f"`AdaptiveClip(ratio=)` must be a positive number. Received: ratio={self.ratio!r}")
        object.__setattr__(self, "ratio", float(self.ratio))
        if self.exclude is None:
            return
        listed = isinstance(self.exclude, Sequence) and not isinstance(self.exclude, str)
        if not listed or not all(isinstance(layer, (str, keras.layers.Layer)) for layer in self.exclude):
            raise ValueError(
                "`AdaptiveClip(exclude=)` must be a list of layers or of their names. "
                f"Received: exclude={self.exclude!r}"
            )
        names = tuple(layer if isinstance(layer, str) else layer.name for layer in self.exclude)
        object.__setattr__(self, "exclude", names)


class Clip:
    """The one clipping option of `compile()`: its name, its number, and the function that it stands for.

    Args:
        option: The name of the option.
        value: Its number.
    """

    FUNCTIONS = {"clipvalue": clip_by_value, "clipnorm": clip_by_norm, "global_clipnorm": clip_by_global_norm}  # noqa: RUF012

    def __init__(self, option: str, value: float):
        self.option = option
        self.value = value

    @staticmethod
    def from_options(
        *,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        adaptive_clip: float | AdaptiveClip | None = None,
        clip_percentile: float | None = None,
    ) -> Clip | None:
        """Returns the clip that the clipping options of `compile()` ask for, or `None`.

        Args:
            clipvalue: See `clip_by_value`.
            clipnorm: See `clip_by_norm`.
            global_clipnorm: See `clip_by_global_norm`.
            adaptive_clip: See `AdaptiveClip`.
            clip_percentile: See `PercentileClipping`.

        Raises:
            ValueError: If more than one option is set, or one has a wrong value.
        """
        options = {
            "clipvalue": clipvalue,
            "clipnorm": clipnorm,
            "global_clipnorm": global_clipnorm,
            "adaptive_clip": adaptive_clip,
            "clip_percentile": clip_percentile,
        }
        chosen = {option: _check(option, value) for option, value in options.items() if value is not None}
        if len(chosen) > 1:
            received = ", ".join(f"{option}={options[option]}" for option in chosen)
            raise ValueError(
                f"At most one of {', '.join(f'`{option}`' for option in options)} may be set. Received: {received}"
            )
        for option, value in chosen.items():
            if isinstance(value, AdaptiveClip):
                return AdaptiveClipping(value)
            return PercentileClipping(value) if option == "clip_percentile" else Clip(option, value)
        return None

    def copy(self) -> Clip:
        """Returns the same clip without its state."""
        return Clip(self.option, self.value)

    def get_config(self) -> dict:
        """The options of `compile()` that make this again, as plain numbers and names."""
        return {self.option: self.value}

    @property
    def variables(self) -> list:
        """What is kept from step to step, once it is built."""
        return []

    def build(self, model: Any) -> None:
        """Finds and makes what the clip needs of the model, whose weights exist. Done once; then it does nothing."""

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence) -> list[Gradient]:
        """The clipped gradients, in order."""
        return self.FUNCTIONS[self.option](gradients, self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clip) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((self.option, self.value))


class AdaptiveClipping(Clip):
    """Clips by `clip_adaptively`, except in the excluded layers.

    Args:
        options: The ratio, and the layers that are not clipped.
    """

    def __init__(self, options: AdaptiveClip):
        super().__init__("adaptive_clip", options.ratio)
        self._options = options
        self._excluded: list | None = None

    def copy(self) -> AdaptiveClipping:
        """Returns the same clip without its state."""
        return AdaptiveClipping(self._options)

    def get_config(self) -> dict:
        """Returns the option as plain numbers and names."""
        exclude = self._options.exclude
        return {**super().get_config(), **({} if exclude is None else {"adaptive_clip_exclude": list(exclude)})}

    def build(self, model: Any) -> None:
        """Finds the variables to leave alone.

        Raises:
            ValueError: If the model has no layer of a name.
        """
        if self._excluded is not None:
            return
        exclude = self._options.exclude
        if exclude is None:
            self._excluded = [variable for layer in layers.output_layers(model) for variable in layer.weights]
            return
        try:
            self._excluded = [variable for name in exclude for variable in layers.variables_named(model, name)]
        except KeyError as error:
            raise ValueError(
                f"`AdaptiveClip(exclude=)` must name layers of the model, which are {', '.join(error.args[0])}. "
                f"Received: exclude={list(exclude)!r}"
            ) from None

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence) -> list[Gradient]:
        """The clipped gradients, in order."""
        left_alone = {id(variable) for variable in self._excluded or []}
        clipped = clip_adaptively(gradients, variables, self.value)
        return [
            gradient if id(variable) in left_alone else change
            for gradient, change, variable in zip(gradients, clipped, variables)
        ]


class PercentileClipping(Clip):
    """`compile(clip_percentile=)`: clips to a percentile of the global norms so far, this step's among them.

    AutoClip, from Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469: the threshold follows the gradients as
    training goes on, and a percentile suits models whose gradients differ in size. Where the paper remembers every
    norm, this remembers those of the last 1000 updates. One that is not finite is not added.

    Args:
        value: The percentile, above 0 and up to 100. The paper's is 10.
    """

    def __init__(self, value: float):
        super().__init__("clip_percentile", value)
        self._variables: list = []

    def copy(self) -> PercentileClipping:
        """Returns the same clip without its state."""
        return PercentileClipping(self.value)

    @property
    def variables(self) -> list:
        """The history of norms, a ring, and how many were ever added to it."""
        return list(self._variables)

    def build(self, model: Any) -> None:
        """Makes the history; under a strategy, one on each replica, which all come to hold the same."""
        if self._variables:
            return
        with tf.init_scope():
            history = replicas.variable(tf.zeros([HISTORY_LENGTH]), "clip_percentile_history")
            count = replicas.variable(tf.zeros([], tf.int64), "clip_percentile_count")
        self._variables = [history, count]

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence) -> list[Gradient]:
        """The clipped gradients, in order; their norm is added to the history."""
        if all(gradient is None for gradient in gradients):
            return list(gradients)
        history, count = self._variables
        norm = tf.cast(global_norm(gradients), tf.float32)
        known = tf.math.is_finite(norm)
        # The whole ring is written, for replicas' own copies take no update of a single place.
        place = tf.range(HISTORY_LENGTH, dtype=tf.int64) == count % HISTORY_LENGTH
        norms = tf.where(tf.logical_and(place, known), norm, history)
        added = count + tf.cast(known, tf.int64)
        history.assign(norms)
        count.assign(added)
        there = tf.cast(tf.minimum(added, HISTORY_LENGTH), tf.int32)
        return clip_by_global_norm(gradients, percentile_of_history(norms, there, self.value))


def check_no_other_clip(clip: Clip | None, optimizer: Any) -> None:
    """Refuses a clip besides that of an optimizer, which would clip once more what is clipped already.

    Args:
        clip: The clip of `compile()`, or `None`.
        optimizer: The optimizer; those inside it, by Keras's loss scale or in groups, are looked at too.

    Raises:
        ValueError: If both clip.
    """
    if clip is None:
        return
    for each in compat.optimizers_in(optimizer):
        for option in Clip.FUNCTIONS:
            value = getattr(each, option, None)
            if value:
                raise ValueError(
                    f"`{clip.option}` must not be set beside an optimizer that clips by itself: take one of the two "
                    f"away. Received: {clip.option}={clip.value} and an optimizer of {option}={value}"
                )


def _check(option: str, value: Any) -> Any:
    """Returns the value of a clipping option: a `float`, or an `AdaptiveClip`."""
    adaptive, percent = option == "adaptive_clip", option == "clip_percentile"
    if adaptive and isinstance(value, AdaptiveClip):
        return value
    if not _is_positive(value) or (percent and float(value) > 100):
        kind = "a number above 0 and up to 100" if percent else "a positive number"
        raise ValueError(f"`{option}` must be {kind}{' or an `AdaptiveClip`' * adaptive}. Received: {option}={value!r}")
    return AdaptiveClip(value) if adaptive else float(value)


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
    return is_number and not isinstance(value, bool) and 0 < float(value) < math.inf
