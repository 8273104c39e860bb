"""The clips that the clipping options of `compile()` stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, ClassVar

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
from customfit.gradients.clipping.options import AdaptiveClip, is_positive
from customfit.gradients.clipping.units import unit_axes

HISTORY_LENGTH = 1000


class Clip:
    """A clipping option of `compile()`: its name, its value, and the function that it stands for.

    Args:
        option: The name of the option.
        value: Its value.
    """

    FUNCTIONS: ClassVar[dict[str, Callable[[Sequence[Gradient], float], list[Gradient]]]] = {
        "clipvalue": clip_by_value,
        "clipnorm": clip_by_norm,
        "global_clipnorm": clip_by_global_norm,
    }

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

    def get_config(self) -> dict[str, Any]:
        """Returns the option as plain numbers and names: see `compile_options_from_config`."""
        return {self.option: self.value}

    @property
    def variables(self) -> list[tf.Variable]:
        """The state that is kept from step to step, once it is built."""
        return []

    def build(self, model: keras.Model) -> None:
        """Creates the state, and finds what the clip needs of the model. Calling it again does nothing.

        Args:
            model: The model, whose weights exist.
        """

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[Gradient]:
        """Returns the clipped gradients.

        Args:
            gradients: Gradients, one a variable.
            variables: The variables, in the same order.
        """
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
        self._excluded: list[tf.Variable] | None = None  # once they have been found
        self._axes: dict[int, list[int]] = {}  # of units that are no columns, by the ids of variables

    def copy(self) -> AdaptiveClipping:
        """Returns the same clip without its state."""
        return AdaptiveClipping(self._options)

    def get_config(self) -> dict[str, Any]:
        """Returns the option as plain numbers and names."""
        exclude = self._options.exclude
        return {**super().get_config(), **({} if exclude is None else {"adaptive_clip_exclude": list(exclude)})}

    def build(self, model: keras.Model) -> None:
        """Finds the variables that are excluded, and what a unit of each of the others is.

        Args:
            model: The model, whose weights exist.

        Raises:
            ValueError: If the model has no layer of a name.
        """
        if self._excluded is not None:
            return
        self._axes = unit_axes(model)
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

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[Gradient]:
        """Returns the clipped gradients; those of excluded variables as they are."""
        excluded = {id(variable) for variable in self._excluded or []}
        axes = [self._axes.get(id(variable)) for variable in variables]
        clipped = clip_adaptively(gradients, variables, self.value, axes=axes)
        return [
            before if id(variable) in excluded else after
            for before, after, variable in zip(gradients, clipped, variables)
        ]


class PercentileClipping(Clip):
    """Clips to a percentile of the global norms of recent updates, this one's among them.

    AutoClip, from Seetharaman et al. 2020, https://arxiv.org/abs/2007.14469: the threshold follows the gradients during
    training, and a percentile suits models whose gradients differ in size. The paper keeps every norm; this keeps those
    of the last 1000 updates. A norm that is not finite is not kept.

    Args:
        value: The percentile, above 0 and up to 100. The paper's is 10.
    """

    def __init__(self, value: float):
        super().__init__("clip_percentile", value)
        self._variables: list[tf.Variable] = []

    def copy(self) -> PercentileClipping:
        """Returns the same clip without its state."""
        return PercentileClipping(self.value)

    @property
    def variables(self) -> list[tf.Variable]:
        """The norms, in a ring buffer, and how many were ever added to it."""
        return list(self._variables)

    def build(self, model: keras.Model | None = None) -> None:
        """Creates the history. Each replica has its own, with the same values.

        Args:
            model: Not needed.
        """
        if self._variables:
            return
        with tf.init_scope():
            history = replicas.variable(tf.zeros([HISTORY_LENGTH]), "clip_percentile_history")
            count = replicas.variable(tf.zeros([], tf.int64), "clip_percentile_count")
        self._variables = [history, count]

    def __call__(self, gradients: Sequence[Gradient], variables: Sequence[tf.Variable]) -> list[Gradient]:
        """Returns the clipped gradients, and adds their norm to the history."""
        if all(gradient is None for gradient in gradients):
            return list(gradients)
        history, count = self._variables
        norm = tf.cast(global_norm(gradients), tf.float32)
        finite = tf.math.is_finite(norm)
        # The whole buffer is assigned, because a replica's own copy has no update of a single element.
        is_next = tf.range(HISTORY_LENGTH, dtype=tf.int64) == count % HISTORY_LENGTH
        norms = tf.where(tf.logical_and(is_next, finite), norm, history)
        added = count + tf.cast(finite, tf.int64)
        history.assign(norms)
        count.assign(added)
        length = tf.cast(tf.minimum(added, HISTORY_LENGTH), tf.int32)
        return clip_by_global_norm(gradients, percentile_of_history(norms, length, self.value))


def check_no_other_clip(clip: Clip | None, optimizer: keras.optimizers.Optimizer | None) -> None:
    """Refuses a clip beside an optimizer that clips as well.

    Args:
        clip: The clip of `compile()`, or `None`.
        optimizer: The optimizer. Those that it wraps, in a loss scale or in groups, are checked as well.

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
                    f"`{clip.option}` must not be set in `compile()`, because the optimizer already clips; remove one. "
                    f"Received: {clip.option}={clip.value} and an optimizer with {option}={value}"
                )


def _check(option: str, value: Any) -> Any:
    """Returns the value of a clipping option: a `float`, or an `AdaptiveClip`."""
    adaptive, percent = option == "adaptive_clip", option == "clip_percentile"
    if adaptive and isinstance(value, AdaptiveClip):
        return value
    if not is_positive(value) or (percent and float(value) > 100):
        kind = "a number above 0 and up to 100" if percent else "a positive number"
        raise ValueError(f"`{option}` must be {kind}{' or an `AdaptiveClip`' * adaptive}. Received: {option}={value!r}")
    return AdaptiveClip(value) if adaptive else float(value)
