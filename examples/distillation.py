"""Distillation: a small model learns from a large one
======================================================

A teacher has seen 1500 images of digits. A student of 8 hidden units sees only 100 of their labels, but may ask the
teacher what it thinks of all images. `Hinton et al. 2015 <https://arxiv.org/abs/1503.02531>`_: the probabilities that
the teacher gives to wrong answers tell the student what looks alike.

Only ``compute_loss`` is overridden, so ``fit()``, ``custom_fit()``, clipping, mixed precision and accumulation work
as for any model.

Run it with ``python distillation.py --output accuracy.png``. See that the student of a teacher beats the one without,
on images that neither has seen.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf
from sklearn.datasets import load_digits

from customfit import CustomTrainModel

keras = tf.keras


class Student(CustomTrainModel):
    """Learns from labels where it has them, with weight 1, and from a teacher's logits everywhere."""

    teacher = None
    temperature = 3.0

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        if self.teacher is None:
            return loss
        theirs = tf.nn.softmax(self.teacher(x, training=False) / self.temperature)
        ours = tf.nn.log_softmax(y_pred / self.temperature)
        return loss - self.temperature**2 * tf.reduce_mean(tf.reduce_sum(theirs * ours, axis=-1))


def new_model(cls, units):
    """Returns a model with one hidden layer, compiled. Its outputs are logits."""
    inputs = keras.Input((64,))
    model = cls(inputs, keras.layers.Dense(10)(keras.layers.Dense(units, activation="relu")(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, weighted_metrics=["accuracy"])
    return model


def draw(histories, path):
    """Draws the accuracy of both students on the test images."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(8, 4), layout="constrained").add_subplot()
    for name, history in histories.items():
        axes.plot(history["val_accuracy"], label=name)
    axes.set(xlabel="epoch", ylabel="test accuracy")
    axes.legend()
    axes.figure.savefig(path, dpi=100)


def main():
    """Trains a teacher, a student on its own and a student of the teacher."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", help="the file to draw into")
    args = parser.parse_args()
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    x, y, test = x[:1500], y[:1500], (x[1500:], y[1500:])
    labelled = (tf.range(1500) < 100).numpy().astype("float32")  # weight 0: the label is not known

    keras.utils.set_random_seed(0)
    teacher = new_model(CustomTrainModel, 256)
    teacher.custom_fit(x, y, epochs=20, verbose=0)
    print(f"{'teacher':<23} test accuracy {teacher.custom_evaluate(*test, verbose=0)[1]:.2%}")
    alone, taught = new_model(Student, 8), new_model(Student, 8)
    taught.set_weights(alone.get_weights())
    taught.teacher = teacher
    teacher.trainable = False

    histories = {}
    for name, student in {"student alone": alone, "student of the teacher": taught}.items():
        history = student.custom_fit(x, y, sample_weight=labelled, epochs=40, validation_data=test, verbose=0)
        histories[name] = history.history
        print(f"{name:<23} test accuracy {history.history['val_accuracy'][-1]:.2%}")
    if histories["student of the teacher"]["val_accuracy"][-1] < histories["student alone"]["val_accuracy"][-1] + 0.03:
        raise SystemExit("The student was expected to learn from the teacher.")
    if args.output:
        draw(histories, args.output)


if __name__ == "__main__":
    main()
