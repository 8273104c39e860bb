"""Gradient clipping as pure functions: see `customfit.gradients.clipping`."""

from customfit.gradients.clipping.functions import (
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
)

__all__ = ["clip_adaptively", "clip_by_global_norm", "clip_by_norm", "clip_by_value", "global_norm"]
