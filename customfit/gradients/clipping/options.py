"""The clipping options of `compile()`, as objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from customfit import compat
from customfit.compat import tf
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
    def from_options(*, adaptive_clip_exclude: Sequence | None = None, **options: float | None) -> Clip | None:
        """The clip that the clipping options of `compile()` ask for, or `None`.

        Args:
            adaptive_clip_exclude: The layers that `adaptive_clip` leaves alone: see `AdaptiveClip`.
            **options: `clipvalue`, `clipnorm`, `global_clipnorm`, `adaptive_clip` and `clip_percentile`.

        Raises:
            ValueError: If more than one option is set, one is not what it must be, or there is something to exclude and
                no `adaptive_clip`.
        """
        chosen = {name: _check(name, value) for name, value in options.items() if value is not None}
        if len(chosen) > 1:
            received = ", ".join(f"{name}={options[name]}" for name in chosen)
            raise ValueError(
                f"At most one of {', '.join(f'`{name}`' for name in options)} may be set. Received: {received}"
            )
        if adaptive_clip_exclude is not None and "adaptive_clip" not in chosen:
            raise ValueError(
                "`adaptive_clip_exclude` must come with `adaptive_clip`. "
                f"Received: adaptive_clip_exclude={adaptive_clip_exclude!r}"
            )
        for option, value in chosen.items():
            if option == "adaptive_clip":
                return AdaptiveClip(value, adaptive_clip_exclude)
            return PercentileClip(value) if option == "clip_percentile" else Clip(option, value)
        return None

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


class AdaptiveClip(Clip):
    """`compile(adaptive_clip=, adaptive_clip_exclude=)`: see `clip_adaptively` (Brock et al. 2021).

    As in the paper, the output layer is left alone: it is where the classes of imbalanced data pull hardest.

    Args:
        value: The largest ratio of a unit's gradient norm to its weight norm.
        exclude: The layers to leave alone, or their names, or names of a model's attributes that hold them. `None`
            stands for the output layers of a functional or Sequential model (`layers.output_layers`) and for none of a
            subclassed one, where they cannot be known.
    """

    def __init__(self, value: float, exclude: Sequence | None = None):
        super().__init__("adaptive_clip", value)
        if isinstance(exclude, str) or not isinstance(exclude, (Sequence, type(None))):
            raise ValueError(
                "`adaptive_clip_exclude` must be a list of layers or of their names. "
                f"Received: adaptive_clip_exclude={exclude!r}"
            )
        self.exclude = None if exclude is None else [getattr(layer, "name", layer) for layer in exclude]
        self._excluded: list | None = None

    def get_config(self) -> dict:
        """The options of `compile()` that make this again."""
        return {**super().get_config(), **({} if self.exclude is None else {"adaptive_clip_exclude": self.exclude})}

    def build(self, model: Any) -> None:
        """Finds the variables to leave alone.

        Raises:
            ValueError: If the model has no layer of a name.
        """
        if self._excluded is not None:
            return
        if self.exclude is None:
            self._excluded = [variable for layer in layers.output_layers(model) for variable in layer.weights]
            return
        try:
            self._excluded = [variable for name in self.exclude for variable in layers.variables_named(model, name)]
        except KeyError as error:
            raise ValueError(
                f"`adaptive_clip_exclude` must name layers of the model, which are {', '.join(error.args[0])}. "
                f"Received: adaptive_clip_exclude={self.exclude!r}"
            ) from None

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence) -> list[Gradient]:
        """The clipped gradients, in order."""
        left_alone = {id(variable) for variable in self._excluded or []}
        clipped = clip_adaptively(gradients, variables, self.value)
        return [
            gradient if id(variable) in left_alone else change
            for gradient, change, variable in zip(gradients, clipped, variables)
        ]


class PercentileClip(Clip):
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


def _check(option: str, value: Any) -> float:
    number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
    percent = option == "clip_percentile"
    if isinstance(value, bool) or not number or not 0 < float(value) < math.inf or (percent and float(value) > 100):
        kind = "a number above 0 and up to 100" if percent else "a positive number"
        raise ValueError(f"`{option}` must be {kind}. Received: {option}={value!r}")
    return float(value)
