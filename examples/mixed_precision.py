"""Mixed precision: true gradients in the logs and in the clip
==============================================================

Under ``mixed_float16`` the loss is multiplied by a large number, the loss scale, so that small gradients do not
become 0 in float16. customfit divides the gradients by it before anything looks at them: clips, norms and
``transform_gradients`` see what they would see in float32.

Run it with ``python mixed_precision.py``. See that the gradient norm of the first epoch is that of float32 to a few
percent, while the loss scale is in the thousands. (On a CPU float16 is slower, not faster: it is a GPU that has units
for it.)
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel

keras = tf.keras


def train(policy):
    """Returns the History of a model under a dtype policy."""
    keras.mixed_precision.set_global_policy(policy)
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    outputs = keras.layers.Dense(10, activation="softmax", dtype="float32")(hidden)  # the loss is computed in float32
    model = CustomTrainModel(inputs, outputs)
    measured = ["grad_norm", "loss_scale"] if policy == "mixed_float16" else ["grad_norm"]
    model.compile(
        "adam",
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        global_clipnorm=1.0,
        gradient_metrics=measured,
    )
    history = model.custom_fit((x / 16).astype("float32"), y, epochs=10, validation_split=0.2, shuffle=False, verbose=0)
    keras.mixed_precision.set_global_policy("float32")
    return history.history


def main():
    """Trains in float32 and in mixed precision, and compares."""
    full, mixed = train("float32"), train("mixed_float16")
    for name, history in {"float32": full, "mixed_float16": mixed}.items():
        print(
            f"{name:<14} gradient norm {history['grad_norm'][0]:.4f} in the first epoch, "
            f"validation accuracy {history['val_accuracy'][-1]:.2%}"
        )
    print(f"{'':<14} loss scale {mixed['loss_scale'][-1]:.0f}")
    if abs(mixed["grad_norm"][0] / full["grad_norm"][0] - 1) > 0.05 or mixed["loss_scale"][-1] < 1000:
        raise SystemExit("The gradient norm was expected to be the true one.")
    if abs(mixed["val_accuracy"][-1] - full["val_accuracy"][-1]) > 0.03:
        raise SystemExit("Mixed precision was expected to be as accurate.")


if __name__ == "__main__":
    main()
