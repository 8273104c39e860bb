"""Fine-tuning: frozen first, then unfrozen layer by layer
==========================================================

Is a digit even or odd? We pretend to have 40 labelled images, and a network that somebody else has trained to read
digits. Its layers are of use here, too. ``CustomTrainModel.from_model`` gives the loop to a model that exists.
``Unfreeze`` trains the new head alone at first, and the body from epoch 20 on; ``LayerRates`` gives the body a tenth
of the learning rate. There is no second ``compile()``, and a run that is cut off resumes in the stage in which it
was.

Run it with ``python fine_tuning.py --output fine_tuning.png``. See that the body does not move before epoch 20, and
that the fine-tuned model beats one that starts from nothing.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel, LayerRates, callbacks

keras = tf.keras

BODY = ["body_1", "body_2", "features"]
UNFREEZE_AT, EPOCHS = 20, 60


def load_images():
    """Returns (x, digit) to pretrain on, and the images of another task, with whether their digit is odd."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32").reshape(-1, 8, 8, 1)
    return (x[:900], y[:900]), (x[900:], y[900:] % 2)


def new_network():
    """Returns a plain Keras model that reads digits, as it might come from `keras.applications`."""
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(32, 3, activation="relu", name="body_1")(inputs)
    hidden = keras.layers.Conv2D(32, 3, activation="relu", name="body_2")(hidden)
    hidden = keras.layers.Flatten()(hidden)
    hidden = keras.layers.Dense(32, activation="relu", name="features")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="old_head")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def with_new_head(pretrained):
    """Returns a `CustomTrainModel` of its layers up to the features, and a new head."""
    features = pretrained.get_layer("features").output
    head = keras.layers.Dense(2, activation="softmax", name="head")(features)
    model = CustomTrainModel.from_model(keras.Model(pretrained.input, head))
    optimizer = LayerRates(keras.optimizers.Adam(3e-3), dict.fromkeys(BODY, 0.1))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
    return model


def main():
    """Pretrains, fine-tunes, and trains the same model from nothing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    args = parser.parse_args()
    (x_digits, digits), (x, y) = load_images()
    few, rest = slice(0, 40), slice(40, None)

    keras.utils.set_random_seed(0)
    pretrained = new_network()
    pretrained.fit(x_digits, digits, epochs=15, verbose=0)
    model = with_new_head(pretrained)
    body, moved = model.get_layer("body_2"), []
    before = body.get_weights()[0]
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: moved.append(not np.array_equal(before, body.get_weights()[0]))
    )
    history = model.custom_fit(
        x[few],
        y[few],
        epochs=EPOCHS,
        verbose=0,
        validation_data=(x[rest], y[rest]),
        callbacks=[callbacks.Unfreeze({UNFREEZE_AT: BODY}), watch],
    )

    fresh = with_new_head(new_network())
    fresh.custom_fit(x[few], y[few], epochs=EPOCHS, verbose=0)

    accuracy = model.custom_evaluate(x[rest], y[rest], verbose=0)[1]
    fresh_accuracy = fresh.custom_evaluate(x[rest], y[rest], verbose=0)[1]
    print(f"The body moved first in epoch {moved.index(True) + 1}.")
    print(f"fine-tuned:   accuracy {accuracy:.2%} on {len(x[rest])} images")
    print(f"from nothing: accuracy {fresh_accuracy:.2%}")
    if moved.index(True) != UNFREEZE_AT or accuracy < fresh_accuracy + 0.02:
        raise SystemExit("Fine-tuning was expected to help, and the body to stay frozen at first.")
    if args.output:
        callbacks.plot_history(history)[0].figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
