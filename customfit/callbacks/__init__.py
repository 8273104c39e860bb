"""Callbacks of ours, for `fit()` and `custom_fit()` alike."""

from customfit.callbacks.gradient_health import GradientHealth
from customfit.callbacks.log_every import LogEvery
from customfit.callbacks.throughput import Throughput

__all__ = ["GradientHealth", "LogEvery", "Throughput"]
