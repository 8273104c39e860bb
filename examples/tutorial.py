"""Tutorial: a training loop from the tape up
=============================================

Seven steps, each written by hand and then with customfit. Each adds one thing that ``fit()`` does for you: (1) model,
loss, optimizer and metric; (2) a compiled step with a ``GradientTape``; (3) the loop over epochs and batches, with a
line every 100 steps; (4) metrics that start from zero in each epoch; (5) a validation loop; (6) early stopping with
patience; (7) gradients clipped by value.

Run it with ``python tutorial.py``. See that after each step the hand-written loop and customfit have trained the same
model from the same start to the same weights, to the last bit; otherwise it ends with an error. Read it from top to
bottom; nothing is used before it is explained.
"""

import os

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow logs less
import tensorflow as tf

from customfit import CustomTrainModel, EarlyStopping

keras = tf.keras

EPOCHS = 3


def load_digits():
    """Returns (x, y) for training, which is the first 1500 images, and (x, y) for validation."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise SystemExit("This example needs scikit-learn: pip install scikit-learn") from None
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return (x[:1500], y[:1500]), (x[1500:], y[1500:])


# ------------------------------------------------------------------------------ 1. model, loss, optimizer and metric
#
# A model turns images into ten probabilities. The loss says how wrong they are, and the optimizer changes the weights
# to make it smaller. The metric is for people: here the share of images that are classified correctly. By hand these
# are four objects that you keep; with customfit they are arguments of `CustomTrainModel` and `compile()`, as in Keras.

TRAIN, VALIDATION = load_digits()
BATCHES = tf.data.Dataset.from_tensor_slices(TRAIN).batch(8)
VALIDATION_BATCHES = tf.data.Dataset.from_tensor_slices(VALIDATION).batch(32)


def new_model(model_class):
    """Returns a model of a class, whose weights are the same in each call."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    x = keras.layers.Dense(32, activation="relu")(inputs)
    return model_class(inputs, keras.layers.Dense(10, activation="softmax")(x))


def new_parts():
    """Returns what a hand-written loop keeps: the model, the optimizer, the loss and the metric."""
    loss = keras.losses.SparseCategoricalCrossentropy()
    return new_model(keras.Model), keras.optimizers.Adam(), loss, keras.metrics.SparseCategoricalAccuracy()


def new_compiled_model(**options):
    """Returns the same with customfit."""
    model = new_model(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False, **options)
    return model


def compare(step, by_hand, ours):
    """Ends the example unless two models have the same weights, to the bit."""
    if not all(map(np.array_equal, by_hand.get_weights(), ours.get_weights())):
        raise SystemExit(f"After step {step} the weights differ.")
    print(f"Step {step}: the weights are equal to the last bit.\n")


# ------------------------------------------------------------------------------------------------ 2. a compiled step
#
# The tape records the forward pass and gives the gradient of the loss for each weight. `tf.function` makes a graph of
# the step in the first call, and runs the graph in all others.


def new_step(model, optimizer, loss_function, accuracy):
    """Returns a step that trains on a batch."""

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            loss = loss_function(y, probabilities)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        accuracy.update_state(y, probabilities)
        return loss

    return train_step


def step_2():
    """One step on each of the first ten batches."""
    model, optimizer, loss, accuracy = new_parts()
    train_step = new_step(model, optimizer, loss, accuracy)
    for x, y in BATCHES.take(10):
        train_step(x, y)

    ours = new_compiled_model()
    for x, y in BATCHES.take(10):
        ours.train_on_batch(x, y)  # the step that `new_step` writes: see customfit/models/steps.py
    compare(2, model, ours)


# ----------------------------------------------------------------------------------------------------- 3. the loop
#
# An epoch is one pass over the data. The line every 100 steps is there to see that something happens. By hand the steps
# are counted in each epoch; `log_every` counts them over the whole run.


def step_3():
    """All batches, epoch by epoch."""
    model, optimizer, loss, accuracy = new_parts()
    train_step = new_step(model, optimizer, loss, accuracy)
    for epoch in range(EPOCHS):
        for step, (x, y) in enumerate(BATCHES, start=1):
            batch_loss = train_step(x, y)
            if step % 100 == 0:
                print(f"epoch {epoch + 1}, step {step}: loss of this batch {batch_loss:.4f}")

    ours = new_compiled_model()
    ours.custom_fit(BATCHES, epochs=EPOCHS, verbose=0, log_every=100)  # it logs the mean loss of the epoch so far
    compare(3, model, ours)


# ---------------------------------------------------------------------------------- 4. metrics reset in each epoch
#
# A metric is a running mean. Without a reset, the accuracy of the last epoch would be that of all epochs.


def step_4():
    """The accuracy of each epoch."""
    model, optimizer, loss, accuracy = new_parts()
    train_step = new_step(model, optimizer, loss, accuracy)
    accuracies = []
    for _epoch in range(EPOCHS):
        accuracy.reset_state()
        for x, y in BATCHES:
            train_step(x, y)
        accuracies.append(float(accuracy.result()))

    ours = new_compiled_model()
    history = ours.custom_fit(BATCHES, epochs=EPOCHS, verbose=0)  # which also holds the mean loss
    if history.history["accuracy"] != accuracies:
        raise SystemExit(f"The accuracies differ: {history.history['accuracy']} and {accuracies}.")
    print("accuracy of each epoch:", ", ".join(f"{value:.4f}" for value in accuracies))
    compare(4, model, ours)


# ------------------------------------------------------------------------------------------------- 5. validation
#
# Data that the model does not learn from tell how well it has learned. No tape, no optimizer, `training=False`, and a
# metric of its own.


def new_validation(model, loss_function):
    """Returns what makes a pass over the validation data, and returns its loss and accuracy."""
    mean_loss, accuracy = keras.metrics.Mean(), keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def validation_step(x, y):
        probabilities = model(x, training=False)
        rows = tf.shape(x)[0]  # the last batch has fewer, and counts for less
        mean_loss.update_state(loss_function(y, probabilities), sample_weight=rows)
        accuracy.update_state(y, probabilities)

    def validate():
        mean_loss.reset_state()
        accuracy.reset_state()
        for x, y in VALIDATION_BATCHES:
            validation_step(x, y)
        return float(mean_loss.result()), float(accuracy.result())

    return validate


def step_5():
    """Validation after each epoch."""
    model, optimizer, loss, accuracy = new_parts()
    train_step, validate = new_step(model, optimizer, loss, accuracy), new_validation(model, loss)
    accuracies = []
    for _epoch in range(EPOCHS):
        for x, y in BATCHES:
            train_step(x, y)
        accuracies.append(validate()[1])

    ours = new_compiled_model()
    history = ours.custom_fit(BATCHES, epochs=EPOCHS, verbose=0, validation_data=VALIDATION_BATCHES)
    if history.history["val_accuracy"] != accuracies:
        raise SystemExit(f"The accuracies differ: {history.history['val_accuracy']} and {accuracies}.")
    print("validation accuracy of each epoch:", ", ".join(f"{value:.4f}" for value in accuracies))
    compare(5, model, ours)


# ---------------------------------------------------------------------------------------------- 6. early stopping
#
# At some epoch the validation loss stops falling: from there on the model memorizes its training data. Training ends
# when the loss has not fallen for `patience` epochs, and the weights of the best epoch are restored.

PATIENCE = 2


def step_6():
    """As many epochs as help."""
    model, optimizer, loss, accuracy = new_parts()
    optimizer.learning_rate.assign(0.01)  # it comes to its best epoch sooner
    train_step, validate = new_step(model, optimizer, loss, accuracy), new_validation(model, loss)
    best_loss, best_epoch, best_weights = float("inf"), 0, None
    for epoch in range(50):
        for x, y in BATCHES:
            train_step(x, y)
        val_loss, _ = validate()
        if val_loss < best_loss:
            best_loss, best_epoch, best_weights = val_loss, epoch, model.get_weights()
        elif epoch - best_epoch >= PATIENCE:
            break
    model.set_weights(best_weights)

    ours = new_compiled_model()
    ours.optimizer.learning_rate.assign(0.01)
    stopping = EarlyStopping("val_loss", patience=PATIENCE)
    ours.custom_fit(BATCHES, epochs=50, verbose=0, validation_data=VALIDATION_BATCHES, early_stopping=stopping)
    print(f"stopped after epoch {epoch + 1}; the best one was epoch {best_epoch + 1}")
    if stopping.best_epoch != best_epoch:
        raise SystemExit(f"The best epochs differ: {stopping.best_epoch} and {best_epoch}, counted from 0.")
    compare(6, model, ours)


# ------------------------------------------------------------------------------------------- 7. clipping by value
#
# A batch with outliers has large gradients, and one step on it can undo many others. Clipping by value limits each
# number of a gradient. It happens between the tape and the optimizer.

CLIP_VALUE = 0.01


def step_7():
    """Gradients within bounds."""
    model, optimizer, loss_function, _ = new_parts()

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients = [tf.clip_by_value(gradient, -CLIP_VALUE, CLIP_VALUE) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    for _epoch in range(EPOCHS):
        for x, y in BATCHES:
            train_step(x, y)

    ours = new_compiled_model(clipvalue=CLIP_VALUE)
    ours.custom_fit(BATCHES, epochs=EPOCHS, verbose=0)
    compare(7, model, ours)


if __name__ == "__main__":
    if tf.config.list_physical_devices("GPU"):  # which adds numbers up in any order, unless asked not to
        tf.config.experimental.enable_op_determinism()
    print(f"Step 1: {len(TRAIN[0])} images to train on, {len(VALIDATION[0])} to validate on.\n")
    for step in (step_2, step_3, step_4, step_5, step_6, step_7):
        step()
    print("All seven steps: what you have written by hand and what customfit does are the same, to the last bit.")
