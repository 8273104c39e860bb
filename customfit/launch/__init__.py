"""Starts the workers of a job on one machine, or those of this machine on several.

`python -m customfit.launch --workers 2 train.py` runs `train.py` in two processes, each with the `TF_CONFIG` by which
`tf.distribute.MultiWorkerMirroredStrategy()` finds the others. A `Job` owns the processes and says when they end; a
`Cluster` says where they are. TensorFlow is not imported here: the launcher starts in a moment.

LAUNCHING.md says what it does beside Slurm, Kubernetes and others, and why a job belongs in a private network.
"""

from customfit.launch.cluster import Cluster
from customfit.launch.job import Job

__all__ = ["Cluster", "Job"]
