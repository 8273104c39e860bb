"""The options of `compile()` hold in a `train_step` of the user's, however it is written, as in the inherited one.

A table of the option by how the step is written, under `fit` and `custom_fit`. Each cell ends as the inherited step, to
the bit, or the option is refused by name.
"""

import functools

import numpy as np
import pytest

from customfit import CustomTrainModel, NonFiniteError
from customfit.compat import IS_KERAS_3, keras, tf
from tests.parity import models

X, Y = models.rows(72)
BAD = np.where(np.arange(72)[:, None] == 40, np.nan, X)  # in the third batch of 16


def gradients_of(model, data):
    x, y = data
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x=x, y=y, y_pred=y_pred)
    return loss, y_pred, tape.gradient(loss, model.trainable_variables)


def updated(model, data, loss, y_pred):
    """Updates the metrics as the guide does."""
    model.track_loss(loss, data[0])
    return model.compute_metrics(data[0], data[1], y_pred, None)


def step(update):
    """A `train_step` that updates the weights by `update(model, gradients, variables)`."""

    def train_step(self, data):
        loss, y_pred, gradients = gradients_of(self, data)
        update(self, gradients, self.trainable_variables)
        return updated(self, data, loss, y_pred)

    return train_step


def guide(model, gradients, variables):
    model.optimizer.apply_gradients(zip(gradients, variables))


def by_apply(model, gradients, variables):
    model.optimizer.apply(gradients, variables)


def by_apply_of_gradients_alone(model, gradients, variables):
    model.optimizer.build(variables)
    model.optimizer.apply(gradients)


def by_another_name(model, gradients, variables):
    [optimizer] = [value for name, value in vars(model).items() if name == "optimizer"] or [model.optimizer]
    (lambda: optimizer)().apply_gradients(list(zip(gradients, variables)))


def by_a_function_of_its_own(model, gradients, variables):
    tf.function(lambda: guide(model, gradients, variables), autograph=False)()


def by_ours(model, gradients, variables):
    model.apply_gradients(gradients, batch_size=count(gradients, model))


def count(gradients, model):
    return model.rows


def by_minimize(self, data):
    x, y = data
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
    self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
    return updated(self, data, loss, y_pred)


def by_compute_gradients(self, data):
    x, y = data
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
    self.apply_gradients(self.compute_gradients(loss, tape), loss=loss, batch_size=tf.shape(x)[0])
    return updated(self, data, loss, y_pred)


def by_super(self, data):
    return CustomTrainModel.train_step(self, data)


STEPS = {
    "as in the guide": step(guide),
    "by another name": step(by_another_name),
    "in a function of its own": step(by_a_function_of_its_own),
    "by our methods": by_compute_gradients,
    "by super()": by_super,
}
if IS_KERAS_3:
    STEPS["by apply"] = step(by_apply)
    STEPS["by apply, without variables"] = step(by_apply_of_gradients_alone)
else:
    STEPS["by minimize"] = by_minimize

OPTIONS = {
    "clipvalue": {"clipvalue": 1e-3},
    "clipnorm": {"clipnorm": 1e-2},
    "global_clipnorm": {"global_clipnorm": 1e-2},
    "adaptive_clip": {"adaptive_clip": 1e-3},
    "clip_percentile": {"clip_percentile": 30},
    "accumulation": {"gradient_accumulation_steps": 3},
    "accumulation, clipped": {"gradient_accumulation_steps": 3, "global_clipnorm": 1e-2},
    "skip": {"nonfinite": "skip"},
    "skip, accumulation": {"nonfinite": "skip", "gradient_accumulation_steps": 3},
    "stop": {"nonfinite": "stop"},
    "raise": {"nonfinite": "raise"},
    "metrics": {"gradient_metrics": ["grad_norm", "clip_fraction", "update_ratio", "skipped_steps"], "clipvalue": 1e-3},
    "metrics, skip": {"gradient_metrics": ["skipped_steps", "grad_norm"], "nonfinite": "skip"},
}


def build(cls):
    """BatchNormalization moves statistics, which a step that is skipped must not."""
    inputs = keras.Input((8,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(6, activation="tanh")(inputs))
    return cls(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def train(cls, how, options, **fit_options):
    keras.utils.set_random_seed(7)
    model = build(cls)
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    x, error, history = BAD if "nonfinite" in options else X, None, {}
    try:
        history = getattr(model, how)(x, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, **fit_options).history
    except NonFiniteError as raised:
        error = (raised.epoch, raised.step)
    return model.get_weights(), [v.numpy() for v in as_list(model.optimizer.variables)], history, error


def as_list(variables):
    return list(variables() if callable(variables) else variables)


@functools.cache
def inherited(option):
    return train(CustomTrainModel, "fit", OPTIONS[option])


def assert_equal(ours, theirs):
    np.testing.assert_equal(ours[2:], theirs[2:])
    for mine, other in zip([*ours[0], *ours[1]], [*theirs[0], *theirs[1]]):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("how_written", STEPS)
def test_an_option_holds_however_the_step_is_written(how_written, option):
    for how in ("fit", "custom_fit"):
        cls = type("Mine", (CustomTrainModel,), {"train_step": STEPS[how_written]})
        assert_equal(train(cls, how, OPTIONS[option]), inherited(option))
