"""Three ways to train, and the same numbers
============================================

One model is trained by ``fit()``, by ``custom_fit()``, and by a loop of your own.

Run it with ``python fit_or_custom_fit.py``. The data are the images of handwritten digits that come with
scikit-learn, so nothing is downloaded. It needs scikit-learn: ``pip install scikit-learn``.

It trains the same model three times from the same seed, prints what the three ``History`` objects hold, and ends with
an error unless every number in them and every weight of the models is equal to the last bit.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf

from customfit import CustomTrainModel, TrainingSession

keras = tf.keras

BATCH_SIZE = 32


def load_digits():
    """Returns (x, y) for training, which is the first 1500 images, and (x, y) for validation."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise SystemExit("This example needs scikit-learn: pip install scikit-learn") from None
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


def new_model(seed):
    """Returns a model whose weights depend on the seed alone."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64, activation="relu")(inputs)
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    model = CustomTrainModel(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
    return model


# `fit()` and `custom_fit()` get `shuffle=False` here, because they differ in the order of the rows, on purpose: with
# `shuffle=True`, `fit()` of Keras 3 shuffles once and repeats that order in each epoch; `custom_fit()` draws a new one.


def train_with_fit(model, train_data, val_data, epochs):
    """What Keras brings."""
    return model.fit(
        *train_data, batch_size=BATCH_SIZE, epochs=epochs, validation_data=val_data, shuffle=False, verbose=0
    )


def train_with_custom_fit(model, train_data, val_data, epochs):
    """The same arguments, another loop: that of customfit/training/loop.py."""
    return model.custom_fit(
        *train_data, batch_size=BATCH_SIZE, epochs=epochs, validation_data=val_data, shuffle=False, verbose=0
    )


def train_with_own_loop(model, train_data, val_data, epochs):
    """The loop is yours; the session around it validates after each epoch and keeps the History."""
    batches = tf.data.Dataset.from_tensor_slices(train_data).batch(BATCH_SIZE)
    with TrainingSession(model, epochs=epochs, validation_data=val_data, verbose=0) as session:
        for _epoch in session.epochs():
            for batch in batches:
                session.train_on(batch)
    return session.history


def main():
    """Trains three times, prints the table, compares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    if tf.config.list_physical_devices("GPU"):  # which adds numbers up in any order, unless asked not to
        tf.config.experimental.enable_op_determinism()
    train_data, val_data = load_digits()
    ways = {"fit()": train_with_fit, "custom_fit()": train_with_custom_fit, "own loop": train_with_own_loop}
    histories, weights = [], []
    for train in ways.values():
        model = new_model(args.seed)
        histories.append(train(model, train_data, val_data, args.epochs).history)
        weights.append(model.get_weights())

    print(f"{'epoch':<6}{'metric':<14}{''.join(f'{way:<13}' for way in ways)}".rstrip())
    for epoch in range(args.epochs):
        for metric in ("loss", "accuracy", "val_loss", "val_accuracy"):
            # 9 digits tell any two float32 numbers apart
            values = [f"{history[metric][epoch]:<13.9f}" for history in histories]
            print(f"{epoch + 1:<6}{metric:<14}{''.join(values)}".rstrip())

    for way, history, way_weights in zip(ways, histories, weights):
        if history != histories[0] or not all(map(np.array_equal, way_weights, weights[0])):
            raise SystemExit(f"Training with {way} gave other numbers than fit().")
    print("All equal to the last bit, and so are the weights.")


if __name__ == "__main__":
    main()
