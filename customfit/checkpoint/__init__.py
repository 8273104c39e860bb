"""What is saved of a training run, and how it lies on the disk.

A `Checkpointer` owns one directory: when to save, what to keep, and from where to resume. `TrainingState` knows what a
run consists of, `fingerprint` whether a checkpoint and a call belong together, and the store and its lock how
checkpoints are written whole or not at all.
"""

from customfit.checkpoint.alike import check_alike
from customfit.checkpoint.checkpointer import Checkpointer
from customfit.checkpoint.checkpoints import Checkpoints, Directory
from customfit.checkpoint.fingerprint import fingerprint, learning_rates
from customfit.checkpoint.lock import CheckpointError
from customfit.checkpoint.random_state import random_states, set_random_states
from customfit.checkpoint.store import CheckpointStore
from customfit.checkpoint.training_state import TrainingState, part_name
from customfit.checkpoint.variables import changed_by_validation, variables_of

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "Checkpointer",
    "Checkpoints",
    "Directory",
    "TrainingState",
    "changed_by_validation",
    "check_alike",
    "fingerprint",
    "learning_rates",
    "part_name",
    "random_states",
    "set_random_states",
    "variables_of",
]
