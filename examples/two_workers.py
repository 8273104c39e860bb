"""Two workers, one model
=========================

``python -m customfit.launch --workers 2 train.py`` starts a script in two processes, which train one model under
``MultiWorkerMirroredStrategy``. Each reads its half of every batch; gradients are summed; one checkpoint holds the
run.

Run it with ``python two_workers.py``. It starts itself in two workers, then trains the same model in one process, and
compares. See the output of both workers with its prefix, and weights that agree to rounding. On Keras 3 it needs 3.8
or newer.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel

keras = tf.keras


def train(strategy, checkpoint=None):
    """Trains under a strategy, and returns the model. The call is the same on each worker."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[:1536] / 16).astype("float32"), y[:1536]  # 24 batches of 64: the halves of each have as many rows
    keras.utils.set_random_seed(0)
    with strategy.scope():
        inputs = keras.Input((64,))
        hidden = keras.layers.Dense(32, activation="relu")(inputs)
        model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(hidden))
        model.compile(
            keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0
        )
    model.custom_fit(x, y, batch_size=64, epochs=3, verbose=2, checkpoint=checkpoint)
    return model


def main():
    """Trains in two workers, then in one process."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [
            sys.executable,
            "-m",
            "customfit.launch",
            "--workers",
            "2",
            "--log-dir",
            os.path.join(folder, "logs"),
        ]
        # `sys.argv[0]` is this script.
        job = subprocess.run([*launcher, sys.argv[0], folder], capture_output=True, text=True)
        print("\n".join(line for line in job.stdout.splitlines() if "accuracy" in line))
        if job.returncode != 0:
            raise SystemExit(f"The workers failed:\n{job.stdout}\n{job.stderr}")
        with np.load(os.path.join(folder, "weights.npz")) as saved:
            of_workers = [saved[name] for name in saved.files]
    alone = train(tf.distribute.get_strategy()).get_weights()
    difference = max(np.abs(a - b).max() for a, b in zip(of_workers, alone))
    print(f"largest difference of a weight: {difference:.1e}")
    if difference > 1e-5:
        raise SystemExit("Two workers were expected to train what one process trains.")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:  # a worker
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        model = train(strategy, os.path.join(sys.argv[1], "checkpoints"))
        weights = model.get_weights()
        if strategy.cluster_resolver.task_id == 0:
            np.savez(os.path.join(sys.argv[1], "weights.npz"), *weights)
