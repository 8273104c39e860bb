"""What each worker of a launched job runs: trains, and prints its losses and the sum of its weights as JSON."""

import json

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()

from tests.distributed.worker import train  # noqa: E402 (after the strategy, which must come first)

print(json.dumps(train(strategy)))
