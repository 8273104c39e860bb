"""Own your Keras training loop, and keep what `fit()` brings."""

from customfit import callbacks, clipping, debug, testing
from customfit._version import __version__
from customfit.mixin import CustomTrainMixin
from customfit.model import CustomTrainModel, CustomTrainSequential
from customfit.nonfinite import NonFiniteError
from customfit.optimizers import OptimizerGroups
from customfit.session import TrainingSession
from customfit.stopping import EarlyStopping

__all__ = [
    "CustomTrainMixin",
    "CustomTrainModel",
    "CustomTrainSequential",
    "EarlyStopping",
    "NonFiniteError",
    "OptimizerGroups",
    "TrainingSession",
    "__version__",
    "callbacks",
    "clipping",
    "debug",
    "testing",
]
