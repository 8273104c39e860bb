"""Exact resume: killed twice, and the same bits
================================================

A run is killed twice with SIGKILL, resumed by the same call, and ends as if it had been left alone.

Run it with ``python resume.py``. It trains a small network with dropout on the handwritten digits that scikit-learn
ships (``pip install scikit-learn``), so nothing is downloaded. It compares every weight and the whole
History, to the bit, and fails if anything differs.
"""

import os
import signal
import subprocess
import sys
import tempfile

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf

from customfit import Checkpoints, CustomTrainModel, Every

keras = tf.keras


def train(directory, kill_at=None):
    """Trains, and returns the model and its History. The call that resumes is the one that started."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise SystemExit("This example needs scikit-learn: pip install scikit-learn") from None
    x, y = load_digits(return_X_y=True)

    keras.utils.set_random_seed(1)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(64, activation="relu")(inputs))
    model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    class Kill(keras.callbacks.Callback):
        """Kills this process, as if the power had failed. It has a batch hook, so that steps run one by one."""

        def on_train_batch_end(self, batch, logs=None):
            if kill_at is not None and int(self.model.optimizer.iterations.numpy()) >= kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    history = model.custom_fit(
        (x / 16).astype("float32"),
        y,
        epochs=6,
        validation_split=0.2,
        early_stopping=3,
        verbose=0,
        callbacks=[Kill()],
        checkpoint=Checkpoints(directory, every=Every(steps=10)),  # this alone makes the run resumable
    )
    return model, history


def main():
    """Trains without and with kills, and compares."""
    if len(sys.argv) > 1:
        train(sys.argv[1], kill_at=int(sys.argv[2]))
        raise SystemExit("It should have been killed.")
    with tempfile.TemporaryDirectory() as folder:
        alone, history = train(os.path.join(folder, "alone"))
        killed = os.path.join(folder, "killed")
        for step in (57, 131):
            died = subprocess.run([sys.executable, sys.argv[0], killed, str(step)]).returncode
            if died != -signal.SIGKILL:
                raise SystemExit(f"The run that should die at step {step} ended with {died}.")
            print(f"Killed at step {step}.")
        again, its_history = train(killed)
    for name, values in history.history.items():
        print(f"{name:<14}{values[-1]:.9f} {its_history.history[name][-1]:.9f}")
    if its_history.history != history.history or not all(map(np.array_equal, alone.get_weights(), again.get_weights())):
        raise SystemExit("The run that was killed ended with other numbers.")
    print("All equal to the last bit.")


if __name__ == "__main__":
    main()
