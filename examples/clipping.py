"""Clipping, and the health of gradients
========================================

A few wrong rows can have gradients that are a hundred times as large as the others, and one step on them undoes many.
``compile(global_clipnorm=)`` bounds the norm of all gradients together, in the graph of the step. What the norm was
before the clip, and whether it was clipped, are logs like any other. ``GradientHealth`` names the variables whose
gradients look wrong.

Run it with ``python clipping.py --output gradients.png``. In 12 of 1500 images of digits the pixels are multiplied by
1000. See that without a clip the model does not recover, that with one it does, and that the layer which has died is
found.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel, callbacks

keras = tf.keras


def load_broken_digits():
    """Returns (x, y) for training, where a few images are far too bright, and (x, y) for validation, where none is."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x[:1500:125] *= 1000
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


def new_model(dead=False, **options):
    """Returns a model. If asked, one of its layers never has a gradient: its units are 0 for every input."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu", name="first")(inputs)
    bias = keras.initializers.Constant(-1e9 if dead else 0.0)
    branch = keras.layers.Dense(32, activation="relu", bias_initializer=bias, name="branch")(hidden)
    both = keras.layers.Concatenate()([hidden, branch])
    model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax", name="digits")(both))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    return model


def main():
    """Trains without a clip and with one, then looks at the gradients of a model with a dead layer."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    (x, y), validation_data = load_broken_digits()

    accuracies = {}
    for name, options in {"no clip": {}, "global_clipnorm=1": {"global_clipnorm": 1.0}}.items():
        model = new_model(gradient_metrics=["grad_norm"], **options)
        history = model.custom_fit(x, y, epochs=args.epochs, validation_data=validation_data, verbose=0).history
        accuracies[name] = history["val_accuracy"][-1]
        print(f"{name:<18} mean gradient norm before the clip {np.max(history['grad_norm']):9.2f} in the worst epoch")
        print(f"{'':<18} validation accuracy {accuracies[name]:.2%}")
    if accuracies["global_clipnorm=1"] < max(0.9, accuracies["no clip"] + 0.1):
        raise SystemExit("The clip was expected to help.")

    health = callbacks.GradientHealth()
    new_model(dead=True, global_clipnorm=1.0).custom_fit(x, y, epochs=3, verbose=0, callbacks=[health])
    found = {name for name, problem in health.findings[-1].items() if problem == "always zero"}
    if not found or not all("branch" in name for name in found):
        raise SystemExit(f"The dead layer was expected to be found. Found: {found}")
    if args.output:
        health.plot(args.output)


if __name__ == "__main__":
    main()
