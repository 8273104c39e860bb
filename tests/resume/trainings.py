"""Trainings that the soak kills: each with something that is hard to take up."""

import numpy as np

from customfit import Checkpoints, CustomTrainModel, Every
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(150)
EPOCHS = 4  # of 10 steps


OFTEN = Every(steps=3)


def _fit(model, checkpoint, every=OFTEN, **arguments):
    given = {"batch_size": 16, "epochs": EPOCHS, "verbose": 0, **arguments}
    return model, model.custom_fit(checkpoint=Checkpoints(checkpoint, every=every), **given)


def arrays(checkpoint):
    """Shuffled arrays, dropout, accumulation with a window that epochs cut, early stopping, a falling learning rate."""
    keras.utils.set_random_seed(1)
    model = models.dropout(CustomTrainModel)
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        gradient_accumulation_steps=3,
    )
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1)
    return _fit(model, checkpoint, x=X, y=Y, validation_split=0.2, early_stopping=3, callbacks=[plateau])


def mixed_precision(checkpoint):
    """float16 with its loss scale, which grows every 5 steps; dropout; validation inside epochs."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    keras.utils.set_random_seed(2)
    model = models.dropout(CustomTrainModel)
    optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(), dynamic_growth_steps=5)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return _fit(model, checkpoint, x=X, y=Y, validation_data=(X, Y), validation_freq=Every(steps=7))


def dataset(checkpoint):
    """A shuffled `tf.data.Dataset`, dropout, a schedule, checkpoints by the clock: blocks end anywhere."""
    keras.utils.set_random_seed(3)
    model = models.dropout(CustomTrainModel)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 40)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(len(X), seed=4).batch(16)
    return _fit(model, checkpoint, x=data, batch_size=None, every=Every(seconds=1e-6))


def differs(checkpoint):
    """What cannot be taken up: it draws from a generator that no seed is set for."""
    keras.utils.set_random_seed(4)
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    noise = np.random.default_rng().normal(size=len(X))

    class Noise(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            weights = self.model.get_weights()
            weights[-1] += noise[epoch]
            self.model.set_weights(weights)

    return _fit(model, checkpoint, x=X, y=Y, callbacks=[Noise()])


def counts_in_python(checkpoint):
    """What cannot be taken up either: its step calls a Python function that counts its calls."""
    keras.utils.set_random_seed(4)
    calls = []

    def scale():
        calls.append(None)
        return np.float32(1 + len(calls) % 7)

    class Counts(CustomTrainModel):
        def transform_gradients(self, gradients, variables):
            factor = tf.reshape(tf.numpy_function(scale, [], tf.float32), [])
            return [gradient * factor for gradient in gradients]

    model = models.dense(Counts)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return _fit(model, checkpoint, x=X, y=Y)
