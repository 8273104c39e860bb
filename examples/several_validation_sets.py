"""Several validation sets, and metrics of all predictions
==========================================================

A model that recognizes clean images may fail on noisy ones. Here one run validates on both after each epoch, under
the names "clean" and "noisy"; early stopping watches the noisy ones; and scikit-learn's F1 score is computed from the
predictions of the same validation pass.

Run it with ``python several_validation_sets.py --output sets.png``. See that ``val_clean_loss`` and
``val_noisy_loss`` are separate logs, that each has a best epoch of its own, and that the F1 scores are those that a
second pass gives.
"""

import argparse
import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

from customfit import CustomTrainModel, EarlyStopping, callbacks

keras = tf.keras


def macro_f1(y, probabilities):
    """Returns the mean of the F1 scores of the ten digits."""
    return f1_score(y, probabilities.argmax(axis=-1), average="macro")


def main():
    """Trains, validates on two sets, compares."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    noise = np.random.default_rng(0).normal(scale=0.35, size=x.shape).astype("float32")
    train, held_out = slice(0, 1200), slice(1200, None)
    validation_data = {"clean": (x[held_out], y[held_out]), "noisy": ((x + noise)[held_out], y[held_out])}

    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    model = CustomTrainModel(inputs, keras.layers.Dense(10, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.custom_fit(
        x[train],
        y[train],
        epochs=args.epochs,
        verbose=0,
        validation_data=validation_data,
        early_stopping=EarlyStopping("val_noisy_loss", patience=5),
        callbacks=[callbacks.PredictionMetrics({"f1": macro_f1})],
    )

    best = {name: int(np.argmin(history.history[f"val_{name}_loss"])) for name in validation_data}
    for name, (x_val, y_val) in validation_data.items():
        logs = {metric: history.history[f"val_{name}_{metric}"] for metric in ("loss", "accuracy", "f1")}
        values = ", ".join(f"{metric} {numbers[best['noisy']]:.4f}" for metric, numbers in logs.items())
        print(f"{name}: {values}; its own best epoch is {best[name] + 1}")
        # Early stopping has restored the weights of the best epoch: its scores are those of the model now.
        if not np.isclose(macro_f1(y_val, model.custom_predict(x_val, verbose=0)), logs["f1"][best["noisy"]]):
            raise SystemExit(f"Another pass over the {name} set gives another F1 score.")
    if best["noisy"] >= best["clean"]:
        raise SystemExit("The loss on noisy images was expected to rise first.")
    if args.output:
        callbacks.plot_history(history, monitor="val_noisy_loss")[0].figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()
