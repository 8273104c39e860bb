"""`AdaptiveClip`: the clipping option of `compile()` that has options of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from customfit.compat import keras


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
        if not is_positive(self.ratio):
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


def is_positive(value: float | str) -> bool:
    """Whether a value is a positive, finite number, and not a bool.

    Args:
        value: Any object. An array or tensor without axes is a number.
    """
    is_number = isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0
    return is_number and not isinstance(value, bool) and 0 < float(value) < math.inf
