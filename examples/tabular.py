"""Tables: columns of several kinds by ``FeatureSpace``
=======================================================

A table has columns of several kinds. Keras's ``FeatureSpace`` learns from the data how to normalize numbers, cut an
age into bins, encode a category and cross two columns, and all of that is then part of the model: it takes a dict of
raw columns. ``cross_validate`` trains one model for each fold, and prints the mean and its deviation.

Run it with ``python tabular.py``. The data are the 442 patients of scikit-learn's diabetes study; the target is how
far the disease has gone on after a year. See that each fold is better than guessing the mean.
"""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_diabetes

from customfit import CustomTrainModel, cross_validate

keras = tf.keras


def load_patients():
    """Returns the columns by name, and the target as a share of its largest value."""
    data = load_diabetes(scaled=False)
    columns = {name: data.data[:, index].astype("float32") for index, name in enumerate(data.feature_names)}
    columns = dict(sorted(columns.items()))  # Keras 3 warns of another order
    columns["sex"] = columns["sex"].astype("int64")
    return columns, (data.target / data.target.max()).astype("float32")


COLUMNS, TARGET = load_patients()


def build():
    """Returns a new compiled model, which takes a dict of columns."""
    FeatureSpace = keras.utils.FeatureSpace  # noqa: N806
    features = {name: FeatureSpace.float_normalized() for name in COLUMNS if name not in ("age", "sex")}
    features["age"] = FeatureSpace.float_discretized(num_bins=8)
    features["sex"] = FeatureSpace.integer_categorical(num_oov_indices=0)
    space = FeatureSpace(features, crosses=[FeatureSpace.cross(("age", "sex"), crossing_dim=16)], output_mode="concat")
    space.adapt(tf.data.Dataset.from_tensor_slices(COLUMNS).batch(64))
    hidden = keras.layers.Dense(32, activation="relu")(space.get_encoded_features())
    hidden = keras.layers.Dropout(0.2)(hidden)
    inputs = dict(space.get_inputs())  # Keras 3 warns of its own kind of dict
    encoder = CustomTrainModel(inputs, keras.layers.Dense(1)(hidden))
    encoder.compile(keras.optimizers.Adam(3e-3), "mse", metrics=["mae"])
    return encoder


def main():
    """Trains and tests by cross-validation."""
    result = cross_validate(build, COLUMNS, TARGET, cv=3, epochs=60, validation_split=0.1, early_stopping=10)
    print(result)
    for fold, rows in zip(result.folds, result.held_out):
        guess = np.abs(TARGET[rows] - np.delete(TARGET, rows).mean()).mean()
        print(f"guessing the mean: {guess:.4f}, the model: {fold['mae']:.4f}")
        if fold["mae"] > 0.9 * guess:
            raise SystemExit("The model was expected to be better than the mean.")


if __name__ == "__main__":
    main()
