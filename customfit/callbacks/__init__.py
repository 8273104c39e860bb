"""Callbacks of ours, for `fit()` and `custom_fit()` alike."""

from customfit.callbacks.log_every import LogEvery

__all__ = ["LogEvery"]
