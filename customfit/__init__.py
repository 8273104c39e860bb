"""Own your Keras training loop, and keep what `fit()` brings."""

import sys
from typing import TYPE_CHECKING

from customfit._version import __version__

# `python -m customfit.launch` has no use for TensorFlow, whose import takes seconds. `-m` stands in `sys.argv` while
# Python looks for a module to run, and this package is imported for that.
_LAUNCHES = sys.argv[:1] == ["-m"] and "customfit.launch" in getattr(sys, "orig_argv", ())

if TYPE_CHECKING or not _LAUNCHES:
    from customfit import callbacks, clipping, data, debug, testing
    from customfit._show_versions import show_versions
    from customfit.callbacks import EarlyStopping
    from customfit.checkpoint import CheckpointError, Checkpoints
    from customfit.every import Every
    from customfit.gradients import AdaptiveClip, LayerRates, NonFinite, NonFiniteError, OptimizerGroups
    from customfit.models import CustomTrainMixin, CustomTrainModel, CustomTrainSequential
    from customfit.tools import (
        BatchSizeSearch,
        CrossValidation,
        LearningRateSearch,
        cross_validate,
        eject,
        find_batch_size,
        find_learning_rate,
        set_seed,
    )
    from customfit.training import DryRun, Plan, TrainingSession
    from customfit.workers import WorkerLostError

__all__ = [
    "AdaptiveClip",
    "BatchSizeSearch",
    "CheckpointError",
    "Checkpoints",
    "CrossValidation",
    "CustomTrainMixin",
    "CustomTrainModel",
    "CustomTrainSequential",
    "DryRun",
    "EarlyStopping",
    "Every",
    "LayerRates",
    "LearningRateSearch",
    "NonFinite",
    "NonFiniteError",
    "OptimizerGroups",
    "Plan",
    "TrainingSession",
    "WorkerLostError",
    "__version__",
    "callbacks",
    "clipping",
    "cross_validate",
    "data",
    "debug",
    "eject",
    "find_batch_size",
    "find_learning_rate",
    "set_seed",
    "show_versions",
    "testing",
]


def __dir__() -> list[str]:
    return sorted(__all__)
