"""Quickstart: train, clip, stop early, plot
============================================

Trains a small CNN with ``custom_fit()``, with gradient clipping and early stopping, and draws its curves.

Run it with ``python quickstart.py``. The data are the 1797 images of handwritten digits that come with scikit-learn,
so nothing is downloaded; with a network, try ``--data mnist`` or ``--data fashion_mnist``. It needs scikit-learn and
matplotlib: ``pip install scikit-learn matplotlib``.

It prints the accuracy on images that training never saw, which must be over 97% for the digits, and draws the loss
and accuracy of every epoch into history.png.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf

from customfit import CustomTrainModel, EarlyStopping, callbacks

keras = tf.keras

REQUIRED_ACCURACY = {"digits": 0.97, "mnist": 0.98, "fashion_mnist": 0.88}
INSTALL = "This example needs scikit-learn and matplotlib: pip install scikit-learn matplotlib"


def load_images(name):
    """Returns all images, as floats from 0 to 1 in the shape (rows, height, width, 1), and their labels."""
    if name == "digits":
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError:
            raise SystemExit(INSTALL) from None
        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8, 1)
    else:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        images, labels = np.concatenate([x, x_test])[..., np.newaxis], np.concatenate([y, y_test])
    return (images / images.max()).astype("float32"), labels


def split(images, labels, seed):
    """Shuffles the rows, and returns (x, y) for training (70%), validation (10%) and testing (20%)."""
    order = np.random.default_rng(seed).permutation(len(images))
    train, val, test = np.split(order, [int(0.7 * len(order)), int(0.8 * len(order))])
    return [(images[rows], labels[rows]) for rows in (train, val, test)]


def build_model(image_shape):
    """Returns a small convolutional network, compiled. The clipping is an option of `compile()`."""
    inputs = keras.Input(image_shape)
    x = keras.layers.RandomTranslation(0.1, 0.1)(inputs)  # only in training: moves each image by up to a tenth
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.5)(x)
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    model = CustomTrainModel(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
    return model


def main():
    """Loads the data, trains, tests, draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=list(REQUIRED_ACCURACY), default="digits")
    parser.add_argument("--epochs", type=int, default=60, help="at most so many: early stopping may come first")
    parser.add_argument("--output", default="history.png", help="the file to draw into")
    parser.add_argument("--verbose", type=int, choices=(0, 1, 2), default=1, help="1: progress bar, 2: line an epoch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    keras.utils.set_random_seed(args.seed)
    (x, y), validation_data, (x_test, y_test) = split(*load_images(args.data), args.seed)
    model = build_model(x.shape[1:])
    stopping = EarlyStopping("val_loss", patience=10, verbose=args.verbose)
    history = model.custom_fit(
        x, y, epochs=args.epochs, verbose=args.verbose, validation_data=validation_data, early_stopping=stopping
    )
    test = model.evaluate(x_test, y_test, verbose=0, return_dict=True)
    print(f"Test accuracy: {test['accuracy']:.2%} of {len(x_test)} images")

    axes = callbacks.plot_history(history)
    axes[0].figure.savefig(args.output, dpi=150)
    print(f"The curves are in {args.output}")
    required = REQUIRED_ACCURACY[args.data]
    if test["accuracy"] <= required:
        raise SystemExit(f"The test accuracy should be over {required:.0%} but is {test['accuracy']:.2%}.")


if __name__ == "__main__":
    main()
