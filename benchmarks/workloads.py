"""What is trained: six small models and their data.

Each model is given the Keras to build it with, because one of the contenders has a Keras of its own, on JAX. Images are
scikit-learn's handwritten digits, repeated to the number of rows; token ids are drawn, from a fixed seed, so that the
label can be learned from them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and its data.

    Attributes:
        build: `build(keras)` gives the inputs and outputs of a functional model that classifies.
        load: `load(rows)` gives `x` and `y`.
        steps: Steps in an epoch, of 32 rows each. A multiple of the 50 that a tuned `fit` runs in one execution.
        quick_steps: The same for `--quick`.
        data: The forms of data that are measured unless `--data` names others: where a step computes much, the form
            matters little, and measuring takes long.
    """

    build: Callable[[Any], tuple]
    load: Callable[[int], tuple[np.ndarray, np.ndarray]]
    steps: int
    quick_steps: int
    data: tuple[str, ...] = ("arrays",)


# ------------------------------------------------------------------------------------------------------------ models


def mlp(keras: Any) -> tuple:
    """64-64-10: a step computes next to nothing, so that the loop's own work is what takes the time."""
    inputs = keras.Input((64,))
    x = keras.layers.Dense(64, activation="relu")(inputs)
    return inputs, keras.layers.Dense(10, activation="softmax")(x)


def cnn(keras: Any) -> tuple:
    """Two convolutions on 28x28."""
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(16, 3, activation="relu")(inputs)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(32, 3, activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    return inputs, keras.layers.Dense(10, activation="softmax")(x)


def transformer(keras: Any) -> tuple:
    """One block of attention, four heads, over 32 tokens."""

    class AddPositions(keras.layers.Layer):
        def build(self, shape):
            self.positions = self.add_weight(shape=tuple(shape[1:]), initializer="uniform", name="positions")

        def call(self, x):
            return x + self.positions

    inputs = keras.Input((32,), dtype="int32")
    x = AddPositions()(keras.layers.Embedding(2000, 64)(inputs))
    attended = keras.layers.MultiHeadAttention(num_heads=4, key_dim=16)(x, x)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attended]))
    expanded = keras.layers.Dense(64)(keras.layers.Dense(128, activation="relu")(x))
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, expanded]))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return inputs, keras.layers.Dense(2, activation="softmax")(x)


def lstm(keras: Any) -> tuple:
    """Reads an image row by row, as in Keras's guide to RNNs."""
    inputs = keras.Input((28, 28))
    return inputs, keras.layers.Dense(10, activation="softmax")(keras.layers.LSTM(64)(inputs))


def dense(keras: Any) -> tuple:
    """2048 wide: a step is all matrix products, so that every loop takes about the same time."""
    inputs = keras.Input((64,))
    x = keras.layers.Dense(2048, activation="relu")(inputs)
    x = keras.layers.Dense(2048, activation="relu")(x)
    return inputs, keras.layers.Dense(10, activation="softmax")(x)


def embedding(keras: Any) -> tuple:
    """A bag of words: 20,000 rows of which a step touches a few hundred."""
    inputs = keras.Input((16,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20000, 32)(inputs))
    x = keras.layers.Dense(32, activation="relu")(x)
    return inputs, keras.layers.Dense(2, activation="softmax")(x)


# -------------------------------------------------------------------------------------------------------------- data


def digits(rows: int, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits: as they are, 8x8, or enlarged to 28x28."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise SystemExit("The benchmarks need scikit-learn for its digits: pip install scikit-learn") from None
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8)
    if 28 in shape:
        images = np.pad(np.kron(images, np.ones((1, 3, 3), "float32")), [(0, 0), (2, 2), (2, 2)])
    repeated = np.arange(rows) % len(images)
    return images[repeated].reshape(rows, *shape), labels[repeated].astype("int32")


def tokens(rows: int, length: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids, and whether most of them are in the first half of the vocabulary."""
    x = np.random.default_rng(0).integers(0, vocabulary, (rows, length)).astype("int32")
    return x, ((x < vocabulary // 2).sum(axis=1) > length // 2).astype("int32")


flat_digits = functools.partial(digits, shape=(64,))

DATA = ("arrays", "tfdata", "generator")

WORKLOADS = {
    "mlp": Workload(mlp, flat_digits, 2000, 100, DATA),
    "cnn": Workload(cnn, functools.partial(digits, shape=(28, 28, 1)), 100, 50, DATA),
    "transformer": Workload(transformer, functools.partial(tokens, length=32, vocabulary=2000), 100, 50),
    "lstm": Workload(lstm, functools.partial(digits, shape=(28, 28)), 100, 50),
    "dense": Workload(dense, flat_digits, 50, 50),
    "embedding": Workload(embedding, functools.partial(tokens, length=16, vocabulary=20000), 100, 50, DATA),
}
