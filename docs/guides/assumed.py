import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import customfit
from customfit import Checkpoints, CustomTrainModel, DryRun, EarlyStopping, Every, TrainingSession, callbacks

keras = tf.keras
x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")
x_val, y_val = x[1500:], y[1500:]
x, y = x[:1500], y[:1500]


def build(**options):
    """Returns a small model, compiled with options."""
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="relu", name="encoder")(inputs)
    model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax", name="head")(hidden))
    model.compile(
        **{"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **options}
    )
    return model


model = build()
