"""Trains on two logical CPU devices and prints the weights as JSON. In a process of its own: devices are split once."""

import json
import sys

import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from customfit import CustomTrainModel  # noqa: E402
from customfit.compat import keras  # noqa: E402

X = np.array([[1.0], [-1.0]] * 4, "float32")
Y = np.array([[3.0], [-1.0], [2.0], [0.5], [-2.0], [1.0], [0.0], [4.0]], "float32")


def build(cls, replicas, optimizer=None, **options):
    """A line through the origin, compiled under a strategy of so many replicas."""
    devices = [f"CPU:{index}" for index in range(replicas)]
    strategy = tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        inputs = keras.Input((1,))
        model = cls(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))
        optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer()
        model.compile(optimizer, "mse", **options)
    return model


def weight_after(x, y, batch_size=2, epochs=1, **arguments):
    model = build(**arguments)
    model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return float(model.get_weights()[0][0, 0])


def one_and_two(x=X, y=Y, batch_size=2, cls=CustomTrainModel, **options):
    """The weight on one device, and on two replicas that share each batch."""
    return [weight_after(x, y, batch_size, cls=cls, replicas=replicas, **options) for replicas in (1, 2)]


def opposing():
    """Two rows with gradients of 200 and -202: together they are -1, and each replica has one."""
    return np.array([[1.0], [1.0]], "float32"), np.array([[-99.0], [102.0]], "float32")


def bad():
    x = X.copy()
    x[3] = np.nan
    return x


CASES = {
    "plain": lambda: one_and_two(),
    "clip": lambda: one_and_two(*opposing(), global_clipnorm=1.0),
    "keras_clip": lambda: one_and_two(
        *opposing(), cls=keras.Model, optimizer=lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    ),
    "accumulation": lambda: [
        weight_after(X, Y, 4, cls=CustomTrainModel, replicas=1),
        weight_after(X, Y, 2, cls=CustomTrainModel, replicas=2, gradient_accumulation_steps=2),
    ],
    "tail": lambda: [
        weight_after(X, Y, 6, cls=CustomTrainModel, replicas=1),
        weight_after(X, Y, 2, cls=CustomTrainModel, replicas=2, gradient_accumulation_steps=3),
    ],
    "skip": lambda: [
        weight_after(np.delete(X, [2, 3], 0), np.delete(Y, [2, 3], 0), cls=CustomTrainModel, replicas=1),
        weight_after(bad(), Y, cls=CustomTrainModel, replicas=2, nonfinite="skip"),
    ],
    "percentile": lambda: one_and_two(clip_percentile=50),
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]]()))
