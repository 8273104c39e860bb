"""Gradient accumulation: the large batch that does not fit
===========================================================

``compile(gradient_accumulation_steps=4)`` makes one update of the weights from four batches. It equals the update by
one batch of all their rows, to rounding, for every optimizer: here Adam on four batches of 32 against Adam on batches
of 128.

Run it with ``python accumulation.py``. See that both models make the same number of updates, also in the last one of
an epoch, which has fewer rows, and that their weights differ in the last digits only.
"""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel

keras = tf.keras

EPOCHS = 5


def train(batch_size, accumulation_steps):
    """Returns a model that has been trained, its count of updates, and its History."""
    x, y = load_digits(return_X_y=True)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(hidden))
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        global_clipnorm=1.0,  # of the mean gradient over the large batch
        gradient_accumulation_steps=accumulation_steps,
    )
    # `shuffle=False`: both see the same rows in each update.
    history = model.custom_fit(
        (x / 16).astype("float32"), y, batch_size=batch_size, epochs=EPOCHS, shuffle=False, verbose=0
    )
    return model, int(model.optimizer.iterations.numpy()), history.history["loss"]


def main():
    """Trains both ways and compares."""
    large, large_updates, large_losses = train(128, None)
    small, small_updates, small_losses = train(32, 4)
    print(f"batches of 128:        {large_updates} updates, loss {large_losses[-1]:.6f} in the last epoch")
    print(f"4 batches of 32 each:  {small_updates} updates, loss {small_losses[-1]:.6f} in the last epoch")
    difference = max(np.abs(a - b).max() for a, b in zip(large.get_weights(), small.get_weights()))
    print(f"largest difference of a weight: {difference:.1e}")
    if large_updates != small_updates or difference > 1e-5:
        raise SystemExit("Accumulation was expected to equal the large batch.")


if __name__ == "__main__":
    main()
