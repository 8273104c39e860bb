"""A training run: the epoch loop, and the session around it.

`loop.py` is the loop. `TrainingSession` owns what belongs to one run: its progress, its callbacks, its validation, its
limits and signals, and whether and why it ends.
"""

from customfit.training.checks import check_averaging, check_callbacks, check_labels, check_monitor, check_targets
from customfit.training.dry_run import Callbacks, DryRun
from customfit.training.evaluation import Evaluation
from customfit.training.loop import run_epochs
from customfit.training.observers import session_observers
from customfit.training.plan import Plan
from customfit.training.prediction import Prediction, predict_batch
from customfit.training.session import TrainingSession
from customfit.training.validation import Frequency

__all__ = [
    "Callbacks",
    "DryRun",
    "Evaluation",
    "Frequency",
    "Plan",
    "Prediction",
    "TrainingSession",
    "check_averaging",
    "check_callbacks",
    "check_labels",
    "check_monitor",
    "check_targets",
    "predict_batch",
    "run_epochs",
    "session_observers",
]
