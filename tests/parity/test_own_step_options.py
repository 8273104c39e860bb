"""The options of `compile()` hold in a `train_step` of the user's, however it is written, as in the inherited one.

A table of the option by how the step is written, under `fit` and `custom_fit`. Each cell ends as the inherited step, to
the bit, or the option is refused by name.
"""

import functools
import types

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, NonFiniteError, compat
from customfit.callbacks import GradientHealth
from customfit.compat import IS_KERAS_3, keras, tf
from tests.parity import models

X, Y = models.rows(72)
BAD = np.where(np.arange(72)[:, None] == 40, np.nan, X)  # in the third batch of 16


def gradients_of(model, data):
    x, y = data[:2]
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
    kept = types.SimpleNamespace(update=model.optimizer.apply_gradients)
    kept.update(list(zip(gradients, variables)))


def by_a_function_of_its_own(model, gradients, variables):
    tf.function(lambda: guide(model, gradients, variables), autograph=False)()


def by_minimize(self, data):
    x, y = data[:2]
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
    self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
    return updated(self, data, loss, y_pred)


def by_compute_gradients(self, data):
    x, y = data[:2]
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


@pytest.mark.supports("compile()", "our options, in a `train_step` of yours that calls any optimizer itself")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("how_written", STEPS)
def test_an_option_holds_however_the_step_is_written(how_written, option):
    for how in ("fit", "custom_fit"):
        cls = type("Mine", (CustomTrainModel,), {"train_step": STEPS[how_written]})
        assert_equal(train(cls, how, OPTIONS[option]), inherited(option))


@pytest.mark.parametrize("option", ["global_clipnorm", "accumulation", "metrics, skip"])
@pytest.mark.parametrize("combined", ["mixin first", "theirs first", "set later", "set on the model"])
def test_an_option_holds_wherever_the_step_comes_from(combined, option):
    def make(*arguments):
        theirs = type("Theirs", (compat.functional_class(),), {"train_step": STEPS["as in the guide"]})
        if combined == "mixin first":
            return type("Mine", (CustomTrainMixin, theirs), {})(*arguments)
        if combined == "theirs first":
            return type("Mine", (theirs, CustomTrainModel), {})(*arguments)
        cls = type("Mine", (CustomTrainModel,), {})
        if combined == "set later":
            cls.train_step = STEPS["as in the guide"]
            return cls(*arguments)
        model = cls(*arguments)
        model.train_step = STEPS["as in the guide"].__get__(model)
        return model

    for how in ("fit", "custom_fit"):
        assert_equal(train(make, how, OPTIONS[option]), inherited(option))


def assigns(model, gradients, variables):
    for variable, gradient in zip(variables, gradients):
        variable.assign_sub(0.1 * gradient)


@pytest.mark.parametrize("how", ["fit", "custom_fit", "train_on_batch"])
@pytest.mark.parametrize("option", ["clipvalue", "accumulation", "raise", "metrics"])
def test_an_option_is_refused_by_name_where_the_step_calls_no_optimizer(option, how):
    keras.utils.set_random_seed(7)
    model = build(type("Mine", (CustomTrainModel,), {"train_step": step(assigns)}))
    model.compile("sgd", "sparse_categorical_crossentropy", **OPTIONS[option])
    before = model.get_weights()
    arguments = {} if how == "train_on_batch" else {"verbose": 0}
    name = next(iter(OPTIONS[option]))
    with pytest.raises(ValueError, match=f"(?s)no effect in `Mine.train_step`.*self.apply_gradients.*{name}="):
        getattr(model, how)(X, Y, **arguments)
    for weight, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(weight, other)


def test_without_an_option_a_step_that_calls_no_optimizer_trains():
    results = []
    for base, how in ((keras.Model, "fit"), (CustomTrainModel, "fit"), (CustomTrainModel, "custom_fit")):
        cls = type("Mine", (compat.functional_class() if base is keras.Model else base,), {"train_step": plain_step})
        results.append(train(cls, how, {})[0])
    for weights in results[1:]:
        for weight, other in zip(weights, results[0]):
            np.testing.assert_array_equal(weight, other)


def plain_step(self, data):
    loss, y_pred, gradients = gradients_of(self, data)
    assigns(self, gradients, self.trainable_variables)
    return self.compute_metrics(data[0], data[1], y_pred, None)


class Two(CustomTrainModel):
    """Two parts, two optimizers, two losses: as a GAN's."""

    parts = ("left", "right")

    def __init__(self, applied):
        super().__init__()
        self.left, self.right = keras.layers.Dense(1), keras.layers.Dense(1)
        self.applied = applied

    def compile(self, **options):
        super().compile(**options)
        self.optimizers = {"left": keras.optimizers.Adam(0.05), "right": keras.optimizers.SGD(0.2)}

    def call(self, inputs):
        return self.left(inputs) + self.right(inputs)

    def train_step(self, data):
        x, y = data[:2]
        y = tf.cast(y, tf.float32)[:, None]
        logs = {}
        for name in self.parts:
            part = getattr(self, name)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(part(x) - y))
            variables = part.trainable_variables
            self.applied(self, tape.gradient(loss, variables), variables, self.optimizers[name], tf.shape(x)[0])
            logs[name] = loss
        return logs


def in_public(model, gradients, variables, optimizer, rows):
    model.apply_gradients(gradients, variables, optimizer, batch_size=rows)


def by_the_optimizer(model, gradients, variables, optimizer, rows):
    optimizer.apply_gradients(zip(gradients, variables))


def train_two(applied, how, **options):
    keras.utils.set_random_seed(7)
    model = Two(applied)
    model.compile(**options)
    history = getattr(model, how)(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model, history.history


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm", "clip_percentile", "accumulation", "metrics"])
def test_options_hold_in_a_step_with_several_optimizers(option):
    theirs, their_history = train_two(in_public, "fit", **OPTIONS[option])
    for how in ("fit", "custom_fit"):
        ours, history = train_two(by_the_optimizer, how, **OPTIONS[option])
        assert history == their_history
        for mine, other in zip(ours.get_weights(), theirs.get_weights()):
            np.testing.assert_array_equal(mine, other)
    plain, _ = train_two(by_the_optimizer, "fit")
    changed = [not np.array_equal(*pair) for pair in zip(plain.get_weights(), theirs.get_weights())]
    assert all(changed) or option == "metrics"


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("how", ["fit", "custom_fit"])
def test_a_bad_step_of_several_updates_changes_nothing_of_any(how, eagerly):
    """The second update is bad: the first, which was good, is undone, and the optimizers' state with it."""

    bad = np.array(X)
    bad[16:32] = 1e18  # whose product with weights of 1e20 is infinite

    def train_right(x, y):
        keras.utils.set_random_seed(7)
        model = Two(by_the_optimizer)
        model.compile(nonfinite="skip", gradient_metrics="skipped_steps", run_eagerly=eagerly)
        model(x[:1])
        model.left.set_weights([np.full((8, 1), 1e-10, "float32"), np.zeros(1, "float32")])
        model.right.set_weights([np.full((8, 1), 1e3, "float32"), np.zeros(1, "float32")])
        return model, getattr(model, how)(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0).history

    ours, history = train_right(bad, Y)
    without, _ = train_right(np.delete(X, np.s_[16:32], 0), np.delete(Y, np.s_[16:32]))
    assert history["skipped_steps"] == [1.0]
    assert ours.skipped_steps == 1
    for mine, other in zip(ours.get_weights(), without.get_weights()):
        np.testing.assert_array_equal(mine, other)
    for name in ours.parts:
        states = [as_list(model.optimizers[name].variables) for model in (ours, without)]
        for mine, other in zip(*states):
            np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_windows_are_not_undone_with_several_updates():
    model = Two(by_the_optimizer)
    model.compile(nonfinite="skip", gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="makes several updates"):
        model.custom_fit(X, Y, verbose=0)


@pytest.mark.parametrize("how", ["fit", "custom_fit"])
def test_gradient_health_measures_the_variables_of_each_optimizer(how):
    keras.utils.set_random_seed(7)
    model = Two(by_the_optimizer)
    model.compile()
    health = GradientHealth(print_fn=None)
    getattr(model, how)(X, Y, batch_size=16, epochs=2, verbose=0, callbacks=[health])
    assert len(health.names) == 4
    assert all((norms > 0).all() for norms in health.norms)


class Sharpness(CustomTrainModel):
    """Sharpness-aware minimization in public names of TensorFlow: it moves the weights and moves them back."""

    def train_step(self, data):
        _, _, gradients = gradients_of(self, data)
        moves = [0.05 * gradient / (tf.linalg.global_norm(gradients) + 1e-12) for gradient in gradients]
        for variable, move in zip(self.trainable_variables, moves):
            variable.assign_add(move)
        loss, y_pred, gradients = gradients_of(self, data)
        for variable, move in zip(self.trainable_variables, moves):
            variable.assign_sub(move)
        guide(self, gradients, self.trainable_variables)
        return updated(self, data, loss, y_pred)


@pytest.mark.parametrize("how", ["fit", "custom_fit"])
def test_a_skipped_step_undoes_what_the_step_itself_did_to_weights(how):
    keras.utils.set_random_seed(7)
    ours = build(Sharpness)
    ours.compile("adam", "sparse_categorical_crossentropy", nonfinite="skip")
    getattr(ours, how)(BAD, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    keras.utils.set_random_seed(7)
    without = build(Sharpness)
    without.compile("adam", "sparse_categorical_crossentropy")
    rows = np.delete(np.arange(72), np.s_[40:48])
    without.fit(X[rows], Y[rows], batch_size=8, epochs=1, shuffle=False, verbose=0)
    for mine, other in zip(ours.get_weights(), without.get_weights()):
        np.testing.assert_array_equal(mine, other)


def scaled_guide(self, data):
    """With mixed precision, as its guide writes it, in either generation."""
    x, y = data[:2]
    with tf.GradientTape() as tape:
        y_pred = self(x, training=True)
        loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        scale = getattr(self.optimizer, "scale_loss", None) or self.optimizer.get_scaled_loss
        scaled = scale(loss)
    gradients = tape.gradient(scaled, self.trainable_variables)
    if hasattr(self.optimizer, "get_unscaled_gradients"):
        gradients = self.optimizer.get_unscaled_gradients(gradients)
    guide(self, gradients, self.trainable_variables)
    return updated(self, data, loss, y_pred)


@pytest.mark.parametrize("option", ["clipvalue", "global_clipnorm", "accumulation", "metrics, skip", "raise"])
def test_options_hold_with_mixed_precision(option):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        mixed = type("Mine", (CustomTrainModel,), {"train_step": scaled_guide})
        theirs = train(CustomTrainModel, "fit", OPTIONS[option])
        for how in ("fit", "custom_fit"):
            assert_equal(train(mixed, how, OPTIONS[option]), theirs)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("update", [guide, lambda model, gradients, _: model.apply_gradients(gradients)])
def test_with_a_dynamic_loss_scale_nonfinite_needs_the_loss(update):
    """Gradients that overflow are how the scale finds its value; a step that never scales its loss shows none."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = build(type("Mine", (CustomTrainModel,), {"train_step": step(update)}))
        model.compile("sgd", "sparse_categorical_crossentropy", nonfinite="skip")
        with pytest.raises(ValueError, match=r"(?s)needs the loss.*self.apply_gradients\(gradients, loss=loss\)"):
            model.custom_fit(X, Y, verbose=0)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("options", [{}, {"nonfinite": "skip"}, {"gradient_accumulation_steps": 1, "clipvalue": 0.1}])
def test_in_a_loop_of_one_s_own_a_step_takes_what_its_author_likes(options):
    class Mine(CustomTrainModel):
        def train_step(self, x, y, scale=1.0):
            with tf.GradientTape() as tape:
                loss = scale * self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            guide(self, tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    def trained(call):
        keras.utils.set_random_seed(7)
        model = build(Mine)
        model.compile("sgd", "sparse_categorical_crossentropy", **options)
        for begin in range(0, 64, 16):
            call(model, tf.constant(X[begin : begin + 16]), tf.constant(Y[begin : begin + 16]))
        return model.get_weights()

    by_position = trained(lambda model, x, y: model.train_step(x, y, 0.5))
    by_name = trained(lambda model, x, y: model.train_step(y=y, x=x, scale=0.5))
    for mine, other in zip(by_position, by_name):
        np.testing.assert_array_equal(mine, other)
