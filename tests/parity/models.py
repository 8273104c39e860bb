"""Models and data of the parity tests: small, and each with something that could differ."""

import numpy as np

from customfit.compat import keras, tf

layers = keras.layers


def rows(count=70, features=8, classes=3, seed=0):
    """Random inputs of shape `(count, features)` and class ids."""
    rng = np.random.RandomState(seed)
    return rng.rand(count, features).astype("float32"), rng.randint(0, classes, count)


def dense(cls, outputs=3):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    return cls(inputs, layers.Dense(outputs, activation="softmax")(hidden))


def dropout(cls):
    inputs = keras.Input((8,))
    hidden = layers.Dropout(0.5)(layers.Dense(16, activation="relu")(inputs))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def batch_norm(cls):
    inputs = keras.Input((8,))
    hidden = layers.BatchNormalization()(layers.Dense(16)(inputs))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def l2(cls):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
    return cls(inputs, layers.Dense(3, activation="softmax", activity_regularizer="l2")(hidden))


def embedding(cls):
    inputs = keras.Input((8,))
    hidden = layers.Flatten()(layers.Embedding(10, 4)(inputs))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def two_outputs(cls):
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    return cls(
        inputs,
        {
            "kind": layers.Dense(3, activation="softmax", name="kind")(hidden),
            "size": layers.Dense(1, name="size")(hidden),
        },
    )


def two_inputs(cls):
    inputs = {"left": keras.Input((4,), name="left"), "right": keras.Input((4,), name="right")}
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()([inputs["left"], inputs["right"]]))
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def subclassed(base):
    """A subclassed model whose weights exist only after its first batch."""

    class Subclassed(base):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(16, activation="relu")
            self.drop = layers.Dropout(0.3)
            self.out = layers.Dense(3, activation="softmax")

        def call(self, inputs, training=None):
            return self.out(self.drop(self.hidden(inputs), training=training))

    return Subclassed()


def exploding(cls):
    """The loss is finite and the gradients of the first layer are not."""

    @tf.custom_gradient
    def explode(x):
        return tf.identity(x), lambda grad: grad * np.inf

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(4, name="below")(inputs)
    hidden = keras.layers.Lambda(explode, output_shape=(4,))(hidden)
    return cls(inputs, keras.layers.Dense(3, activation="softmax", name="above")(hidden))
