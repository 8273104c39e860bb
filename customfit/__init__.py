"""Own your Keras training loop, and keep what `fit()` brings."""

from customfit import callbacks, clipping, data, debug, testing
from customfit._version import __version__
from customfit.callbacks import EarlyStopping
from customfit.gradients import NonFiniteError, OptimizerGroups
from customfit.models import CustomTrainMixin, CustomTrainModel, CustomTrainSequential
from customfit.training import TrainingSession

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
    "data",
    "debug",
    "testing",
]


def __dir__() -> list[str]:
    return sorted(__all__)
