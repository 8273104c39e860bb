"""A GAN (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661): two losses and two optimizers in one step.

The model's own `train_step` calls `compute_gradients` and `apply_gradients` twice, each for its own variables and with
its own optimizer. It is fused into blocks like the step of any other model, and `compile()`'s clip holds for both.
"""

import argparse

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel

keras = tf.keras

NOISE = 16


class GAN(CustomTrainModel):
    """A generator and a discriminator that learn from each other."""

    def __init__(self):
        super().__init__()
        dense = keras.layers.Dense
        self.generator = keras.Sequential(
            [keras.Input((NOISE,)), dense(64, activation="relu"), dense(64, activation="sigmoid")]
        )
        self.discriminator = keras.Sequential([keras.Input((64,)), dense(64, activation="relu"), dense(1)])
        self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

    def call(self, noise):
        return self.generator(noise)

    def compile(self, generator_optimizer, discriminator_optimizer, **options):
        super().compile(optimizer=generator_optimizer, **options)
        self.discriminator_optimizer = discriminator_optimizer

    def train_step(self, data):
        real = data
        rows = tf.shape(real)[0]

        with tf.GradientTape() as tape:
            fake = self.generator(tf.random.normal((rows, NOISE)))
            judged_real, judged_fake = self.discriminator(real), self.discriminator(fake)
            d_loss = self.bce(tf.ones((rows, 1)), judged_real) + self.bce(tf.zeros((rows, 1)), judged_fake)
        variables, optimizer = self.discriminator.trainable_variables, self.discriminator_optimizer
        self.apply_gradients(self.compute_gradients(d_loss, tape, variables, optimizer), variables, optimizer)

        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(tf.random.normal((rows, NOISE))))
            g_loss = self.bce(tf.ones((rows, 1)), judged)
        variables = self.generator.trainable_variables
        self.apply_gradients(self.compute_gradients(g_loss, tape, variables), variables)
        return {"d_loss": d_loss, "g_loss": g_loss}


def main():
    """Trains on handwritten digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    x = (load_digits().data / 16.0).astype("float32")
    keras.utils.set_random_seed(0)
    model = GAN()
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3), global_clipnorm=5.0)
    before = distance(model, x)
    history = model.custom_fit(x, batch_size=64, epochs=epochs, verbose=0)
    losses = history.history["d_loss"]
    print(f"discriminator loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print(f"distance of the mean image to that of real digits {before:.3f} -> {distance(model, x):.3f}")


def distance(model, x):
    """How far the mean of generated images is from the mean of real ones."""
    noise = np.random.RandomState(0).normal(size=(500, NOISE)).astype("float32")
    return float(np.linalg.norm(np.mean(model.generator(noise), axis=0) - x.mean(axis=0)))


if __name__ == "__main__":
    main()
