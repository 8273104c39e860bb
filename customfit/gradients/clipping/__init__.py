"""Gradient clipping: pure functions from gradients to gradients, and the options of `compile()` for them."""

from customfit.gradients.clipping.clips import AdaptiveClipping, Clip, PercentileClipping, check_no_other_clip
from customfit.gradients.clipping.functions import (
    Gradient,
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
    percentile_of_history,
    sum_duplicates,
)
from customfit.gradients.clipping.options import AdaptiveClip

__all__ = [
    "AdaptiveClip",
    "AdaptiveClipping",
    "Clip",
    "Gradient",
    "PercentileClipping",
    "check_no_other_clip",
    "clip_adaptively",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "global_norm",
    "percentile_of_history",
    "sum_duplicates",
]
