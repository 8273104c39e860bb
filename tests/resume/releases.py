"""Runs that are cut off on one release of Keras and resumed on another of its generation.

`python -m tests.resume.releases` writes the files of the release that it runs on into `tests/saved/`: of each run the
checkpoint where it is cut off, and how it ends where it is left alone. `test_releases.py` reads them.
"""

import json
import pathlib
import shutil

import numpy as np

from customfit import Checkpoints, CustomTrainModel, compat
from customfit.compat import keras

SAVED = pathlib.Path(__file__).parent.parent / "saved"
CUT = 8  # of 15 steps: in the middle of the second epoch
layers, optimizers = keras.layers, keras.optimizers

rng = np.random.default_rng(0)
ROWS = rng.normal(size=(20, 6)).astype("float32")
SEQUENCES = rng.normal(size=(20, 5, 4)).astype("float32")
TOKENS = rng.integers(0, 10, (20, 6)).astype("int32")
Y = rng.integers(0, 3, 20)


def plain():
    """Layers that all releases compute alike, a regularizer, a constraint, a model within the model."""
    rows, tokens = keras.Input((6,), name="rows"), keras.Input((6,), dtype="int32", name="tokens")
    normalization = layers.Normalization()
    normalization.adapt(ROWS)
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.LayerNormalization(),
        ],
        name="encoder",
    )
    words = layers.Conv1D(3, 3, activation="relu", kernel_constraint=keras.constraints.MaxNorm(2))(
        layers.Embedding(10, 4)(tokens)
    )
    both = layers.Concatenate()([inner(normalization(rows)), layers.Flatten()(layers.MaxPooling1D()(words))])
    hidden = layers.BatchNormalization()(layers.Dropout(0.2)(layers.Rescaling(0.5)(both)))
    model = CustomTrainModel([rows, tokens], layers.Dense(3, activation="softmax", name="head")(hidden))
    model.compile(
        optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"], global_clipnorm=5.0
    )
    plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=0.5)
    return model, {"x": [ROWS, TOKENS], "early_stopping": 3, "callbacks": [plateau]}


def recurrent():
    """Layers that TensorFlow or Keras computes differently from release to release, by a digit or by more."""
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(2, 3, dropout=0.1)(inputs, inputs)
    found = [
        layers.LSTM(3, dropout=0.1)(inputs),
        layers.Bidirectional(layers.GRU(2))(inputs),
        layers.RNN(layers.SimpleRNNCell(2))(inputs),
        layers.Flatten()(layers.TimeDistributed(layers.Dense(2, activation="gelu"))(attention)),
    ]
    model = CustomTrainModel(inputs, layers.Dense(3, activation="softmax")(layers.Concatenate()(found)))
    rate = optimizers.schedules.CosineDecay(0.05, 20)
    model.compile(optimizers.SGD(rate, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
    return model, {"x": SEQUENCES}


def every_optimizer():
    """A layer for each optimizer, which is trained by it."""
    names = ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Ftrl", "AdamW", "Adafactor"]
    names += ["Nadam", "Lion"] if hasattr(keras, "ops") else []  # of Keras 2, TensorFlow 2.12 lacks Lion
    inputs = keras.Input((6,))
    hidden = inputs
    for name in names:
        hidden = layers.Dense(4, activation="tanh", name=name.lower())(hidden)
    model = CustomTrainModel(inputs, layers.Dense(3, activation="softmax", name="head")(hidden))
    groups = {name.lower(): getattr(optimizers, name)(0.01) for name in names}
    model.compile(
        {**groups, "head": optimizers.SGD(0.01, momentum=0.9, use_ema=True)}, "sparse_categorical_crossentropy"
    )
    return model, {"x": ROWS}


RUNS = {"plain": plain, "recurrent": recurrent, "every_optimizer": every_optimizer}


def train(name, folder=None, **arguments):
    """Trains as a new process would. Returns the model and its History."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(7)
    model, given = RUNS[name]()
    checkpoint = None if folder is None else Checkpoints(folder, keep=1)
    given = {"y": Y, "batch_size": 4, "epochs": 3, "verbose": 0, "checkpoint": checkpoint, **given, **arguments}
    return model, model.custom_fit(**given)


def release():
    """The folder of this release, such as "keras3.15"."""
    return "keras" + ".".join(compat.keras_release().split()[1].split(".")[:2])


def end_of(model, history):
    """How a run has ended: its weights, and its History as JSON."""
    weights = {str(index): value for index, value in enumerate(model.get_weights())}
    return {**weights, "history": json.dumps(history.history, default=float)}


def main():
    """Writes the files of this release."""
    for name in RUNS:
        folder = SAVED / release() / name
        shutil.rmtree(folder, ignore_errors=True)
        train(name, folder, max_steps=CUT)
        for path in sorted(folder.glob("checkpoint-*"))[:-1]:
            shutil.rmtree(path)
        np.savez_compressed(folder / "end.npz", **end_of(*train(name)))


if __name__ == "__main__":
    main()
