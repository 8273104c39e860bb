"""Sharpness-aware minimization: two passes to one update
=========================================================

`Foret et al. 2021 <https://arxiv.org/abs/2010.01412>`_ look for flat minima. The first pass finds the direction in
which the loss rises fastest, the second takes the gradient a small step up that way. ``compute_gradients`` and
``apply_gradients`` are the building blocks: what ``compile()`` asks for (a clip here; mixed precision, accumulation
or ``nonfinite=`` if you like) holds for this step too, and it is run in blocks like others.

Run it with ``python sam.py --output losses.png``. See that the loss on images that the model has not seen is lower than
after plain training.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from customfit import CustomTrainModel

keras = tf.keras


class SAM(CustomTrainModel):
    """A model that looks for flat minima."""

    rho = 0.1  # how far up to go, as the L2 norm of the step

    def train_step(self, data):
        x, y = data
        weights = self.trainable_variables
        gradients, loss, y_pred = self.descend(x, y)

        norm = tf.linalg.global_norm(gradients)
        here = [tf.identity(weight) for weight in weights]
        for weight, gradient in zip(weights, gradients):
            weight.assign_add(gradient * (self.rho / (norm + 1e-12)))
        gradients, _, _ = self.descend(x, y)
        for weight, value in zip(weights, here):
            weight.assign(value)  # what was added may not be finite: it cannot be subtracted again

        self.apply_gradients(gradients, weights, loss=loss, batch_size=tf.shape(x)[0])
        self.track_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, None)

    def descend(self, x, y):
        """The gradients at the weights of this moment, the loss, and the outputs."""
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        return self.compute_gradients(loss, tape), loss, y_pred


def build(cls):
    """Two hidden layers, of `cls`."""
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    return cls(inputs, keras.layers.Dense(10, activation="softmax")(hidden))


def draw(histories, path):
    """Draws the loss on training and test images, of each way to train."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(8, 4), layout="constrained").add_subplot()
    for color, (name, history) in zip(("C0", "C1"), histories.items()):
        axes.semilogy(history["val_loss"], color, label=f"{name}, test")
        axes.semilogy(history["loss"], f"{color}:", label=f"{name}, training")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.legend()
    axes.figure.savefig(path, dpi=100)


def main():
    """Compares plain training with SAM on handwritten digits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", help="the file to draw into")
    args = parser.parse_args()
    digits = load_digits()
    x, x_test, y, y_test = train_test_split(digits.data / 16.0, digits.target, test_size=0.5, random_state=0)
    histories = {}
    for name, cls in (("plain", CustomTrainModel), ("SAM", SAM)):
        keras.utils.set_random_seed(0)
        model = build(cls)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
        history = model.custom_fit(x, y, epochs=args.epochs, validation_data=(x_test, y_test), verbose=0)
        histories[name] = history.history
        accuracy = history.history["val_accuracy"][-1]
        print(f"{name:>5}: test loss {history.history['val_loss'][-1]:.4f}, test accuracy {accuracy:.4f}")
    if histories["SAM"]["val_loss"][-1] > histories["plain"]["val_loss"][-1]:
        raise SystemExit("SAM was expected to have the lower test loss.")
    if args.output:
        draw(histories, args.output)


if __name__ == "__main__":
    main()
