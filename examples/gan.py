"""A GAN: two losses and two optimizers in one step
===================================================

Two networks train each other (`Goodfellow et al. 2014 <https://arxiv.org/abs/1406.2661>`_): a generator that draws
digits from noise, and a discriminator that tells them from real ones. There are two losses and two optimizers. The
model's own ``train_step`` calls ``compute_gradients`` and ``apply_gradients`` twice, each for its own variables and
with its own optimizer. It is run in blocks like the step of any other model, and the clip of ``compile()`` holds for
both.

Run it with ``python gan.py --output digits.png``. See that the mean of the generated images comes close to the mean
of the real ones, and in the figure real digits above generated ones.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
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


def noise(rows):
    """Returns the same noise in every call."""
    return np.random.RandomState(0).normal(size=(rows, NOISE)).astype("float32")


def distance(model, x):
    """How far the mean of generated images is from the mean of real ones."""
    return float(np.linalg.norm(np.mean(model.generator(noise(500)), axis=0) - x.mean(axis=0)))


def draw(model, x, path):
    """Draws two rows of real digits, and two of generated ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    images = np.concatenate([x[:20], model.generator(noise(20))])
    for index, image in enumerate(images):
        axes = figure.add_subplot(4, 10, index + 1)
        axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        if index % 10 == 0:
            axes.set_ylabel("real" if index < 20 else "generated")
    figure.savefig(path, dpi=100)


def main():
    """Trains on handwritten digits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", help="the file to draw into")
    args = parser.parse_args()
    x = (load_digits().data / 16.0).astype("float32")
    keras.utils.set_random_seed(0)
    model = GAN()
    model.compile(keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3), global_clipnorm=5.0)
    before = distance(model, x)
    history = model.custom_fit(x, batch_size=64, epochs=args.epochs, verbose=0)
    after, losses = distance(model, x), history.history["d_loss"]
    print(f"discriminator loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print(f"distance of the mean image to that of real digits {before:.3f} -> {after:.3f}")
    if args.output:
        draw(model, x, args.output)
    if after > before / 2:
        raise SystemExit("The generated images were expected to come closer to the real ones.")


if __name__ == "__main__":
    main()
