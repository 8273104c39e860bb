"""Callbacks for `fit()` and `custom_fit()` alike, one a file. Each owns what it has seen, and nothing else.

`monitoring` says which direction of a metric is better, for early stopping and for the best checkpoint. `printing` has
lines that do not stick to a progress bar, `figures` the axes of plots.
"""

from customfit.callbacks.averaged_weights import AveragedWeights
from customfit.callbacks.early_stopping import EarlyStopping, make_early_stopping, unknown_monitor
from customfit.callbacks.figures import Axes, new_axes, plot_confusion_matrix, plot_history
from customfit.callbacks.gradient_events import GradientEvents
from customfit.callbacks.gradient_health import GradientHealth
from customfit.callbacks.history import History
from customfit.callbacks.log_every import LogEvery
from customfit.callbacks.monitoring import score_of
from customfit.callbacks.one_cycle import OneCycle
from customfit.callbacks.prediction_metrics import PredictionMetrics
from customfit.callbacks.printing import print_line
from customfit.callbacks.step_history import StepHistory
from customfit.callbacks.throughput import Throughput
from customfit.callbacks.unfreeze import Unfreeze

__all__ = [
    "AveragedWeights",
    "Axes",
    "EarlyStopping",
    "GradientEvents",
    "GradientHealth",
    "History",
    "LogEvery",
    "OneCycle",
    "PredictionMetrics",
    "StepHistory",
    "Throughput",
    "Unfreeze",
    "make_early_stopping",
    "new_axes",
    "plot_confusion_matrix",
    "plot_history",
    "print_line",
    "score_of",
    "unknown_monitor",
]
