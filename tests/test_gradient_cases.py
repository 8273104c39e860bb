"""The gradient pipeline where two of its options meet, in steps of the user's, and after training was cut off."""

import numpy as np
import pytest

from customfit import CustomTrainModel, NonFiniteError, debug
from customfit.compat import IS_KERAS_3, keras, tf
from customfit.gradients import NonFinite
from tests.parity import models
from tests.test_gradients import METHODS, X, Y, assert_same, compiled, train, updates, with_bad_rows

ALL_BAD = np.full_like(X, np.nan)


def test_a_window_without_a_good_batch_is_no_update():
    """Momentum, weight decay and `iterations` would move by a gradient of zero."""
    sgd = lambda: keras.optimizers.SGD(0.1, momentum=0.9)
    ours = compiled(optimizer=sgd(), nonfinite="skip", gradient_accumulation_steps=2)
    train(ours, "custom_fit", X[:32], Y[:32], epochs=1)
    before = ours.get_weights()
    train(ours, "custom_fit", ALL_BAD, Y, epochs=1)
    assert updates(ours) == 1
    for mine, other in zip(ours.get_weights(), before):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize("policy", ["raise", "stop"])
def test_after_a_bad_micro_batch_nothing_is_applied(how, policy):
    ours, theirs = (compiled(nonfinite=policy, gradient_accumulation_steps=2) for _ in range(2))
    x = with_bad_rows(2)  # the first of the second window
    if policy == "raise":
        with pytest.raises(NonFiniteError, match="in step 3 of epoch 1 "):
            train(ours, how, x)
    else:
        train(ours, how, x)
    train(theirs, how, X[:32], Y[:32], epochs=1)
    assert_same(ours, theirs)


@pytest.mark.parametrize("how", METHODS)
def test_what_an_exception_left_of_a_window_is_not_in_the_next_training(how):
    def fail(batch, logs):
        raise ZeroDivisionError

    ours, theirs = (compiled(gradient_accumulation_steps=2) for _ in range(2))
    with pytest.raises(ZeroDivisionError):
        train(ours, how, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=fail)])
    train(ours, how)
    train(theirs, how)
    assert_same(ours, theirs)


def test_train_on_batch_follows_the_policy():
    ours, theirs = compiled(nonfinite="raise"), compiled()
    with pytest.raises(NonFiniteError):
        ours.train_on_batch(ALL_BAD[:16], Y[:16])
    for model in (ours, theirs):
        model.train_on_batch(X[:16], Y[:16])
    assert_same(ours, theirs)


@pytest.mark.parametrize("how", METHODS)
def test_a_reason_to_stop_is_that_of_its_own_training(how):
    ours = compiled(nonfinite="stop")
    stopped, whole = train(ours, how, with_bad_rows(0)), train(ours, how)
    assert (stopped.epoch, whole.epoch) == ([0], [0, 1])
    if how == "custom_fit":
        assert "not finite in step 1 of epoch 1" in stopped.stop_reason
        assert whole.stop_reason is None


@pytest.mark.parametrize("steps", [3, 8])
def test_gradient_metrics_count_the_tail_of_an_epoch_under_both_loops(steps):
    history = [
        train(compiled(gradient_accumulation_steps=steps, gradient_metrics=["grad_norm"]), how, X[:70], Y[:70]).history
        for how in METHODS
    ]
    assert history[0]["grad_norm"] == history[1]["grad_norm"]
    assert all(isinstance(norm, float) and norm > 0 for norm in history[0]["grad_norm"])


def test_replay_leaves_the_model_as_it_was(tmp_path):
    model = compiled(nonfinite=NonFinite("raise", dump=tmp_path / "bad"))
    with pytest.raises(NonFiniteError):
        train(model, "custom_fit", with_bad_rows(2))
    before = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError):
        debug.replay(tmp_path / "bad", model)
    for mine, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(NonFiniteError):
        train(model, "custom_fit", with_bad_rows(1))


def test_replay_builds_a_subclassed_model(tmp_path):
    model = compiled(models.subclassed, "adam", nonfinite=NonFinite("raise", dump=tmp_path / "bad"))
    with pytest.raises(NonFiniteError):
        train(model, "custom_fit", with_bad_rows(2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?i)nan"):
        debug.replay(tmp_path / "bad", compiled(models.subclassed, "adam"))


@pytest.mark.skipif(not IS_KERAS_3, reason="optimizers of Keras 2 do not accumulate")
def test_accumulating_twice_is_refused_in_a_group_too():
    adam = keras.optimizers.Adam
    if "gradient_accumulation_steps" not in adam().get_config():
        pytest.skip("nor do those of this Keras 3")
    with pytest.raises(ValueError, match="in `compile\\(\\)` or in the optimizer, not in both"):
        groups = [("kernel", adam(gradient_accumulation_steps=2)), ("bias", adam())]
        models.dense(CustomTrainModel).compile(groups, "mse", gradient_accumulation_steps=2)


def test_a_plan_counts_updates():
    model = compiled(gradient_accumulation_steps=4)
    assert train(model, "plan_fit", X[:64], Y[:64], batch_size=8, epochs=4).updates == 8


def test_changes_of_weights_at_zero_are_no_infinite_ratio():
    """A bias begins at zero."""
    ours = compiled(gradient_metrics=["update_ratio"])
    ours.gradient_pipeline.measure_layers(ours)
    train(ours, "custom_fit", epochs=1)
    _, means = ours.gradient_pipeline.metrics.layer_results()
    assert max(means["update_ratio"]) <= 1


@pytest.mark.parametrize("how", METHODS)
def test_the_loss_scale_is_logged_also_where_no_update_came_of_it(how):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        ours = compiled(gradient_metrics=["loss_scale", "skipped_steps"])
        history = train(ours, how, ALL_BAD, Y, epochs=1).history
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert history["skipped_steps"][0] > 0
    assert history["loss_scale"][0] > 0


# ---------------------------------------------------------------------------------------------- steps of the user's


def two_updates(base):
    """A step with two updates, by one optimizer each, as a GAN has."""

    class TwoUpdates(base):
        def compile(self, *args, **kwargs):
            super().compile(*args, **kwargs)
            self.others = keras.optimizers.SGD(0.01)

        def train_step(self, data):
            x, y = data
            first, second = self.trainable_variables[:2], self.trainable_variables[2:]
            for variables, optimizer in ((first, self.optimizer), (second, self.others)):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
                gradients = self.compute_gradients(loss, tape, variables, optimizer)
                self.apply_gradients(gradients, variables, optimizer, loss=loss)
            return {"last": loss}

    return models.dense(TwoUpdates)


def doubles_the_first(base):
    class DoublesTheFirst(base):
        def transform_gradients(self, gradients, variables):
            return [2.0 * gradients[0], *gradients[1:]]

    return models.dense(DoublesTheFirst)


@pytest.mark.parametrize(
    ("build", "options"), [(doubles_the_first, {}), (models.dense, {"adaptive_clip": 0.001})], ids=["transform", "clip"]
)
@pytest.mark.parametrize("how", METHODS)
def test_under_a_policy_some_gradients_may_be_left_as_they_are(how, build, options):
    """An adaptive clip leaves those of the output layer; the optimizer then gets tensors of several graphs."""
    ours, theirs = compiled(build, nonfinite="skip", **options), compiled(build, **options)
    for model in (ours, theirs):
        train(model, how)
    assert_same(ours, theirs)


@pytest.mark.parametrize("how", METHODS)
def test_the_step_is_named_where_a_step_has_several_updates(how, tmp_path):
    model = compiled(two_updates, nonfinite=NonFinite("raise", dump=tmp_path / "bad"))
    with pytest.raises(NonFiniteError, match="in step 3 of epoch 1 "):
        train(model, how, with_bad_rows(2))


@pytest.mark.parametrize("how", METHODS)
def test_building_blocks_are_the_step_that_they_are_taken_from(how):
    """With all options: they see to clips, accumulation and a policy as `train_step` does."""

    def build(base):
        class Own(base):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
                self.apply_gradients(self.compute_gradients(loss, tape), loss=loss, batch_size=tf.shape(x)[0])
                return {"loss": loss}

        return models.dense(Own)

    options = dict(global_clipnorm=0.1, gradient_accumulation_steps=2, nonfinite="skip", optimizer="adam")
    ours, theirs = compiled(build, **options), compiled(**options)
    for model in (ours, theirs):
        train(model, how, with_bad_rows(1))
    assert_same(ours, theirs)


def test_a_model_whose_compile_takes_something_else_can_be_loaded(tmp_path):
    model = models.dense(OwnCompile)
    model.compile(3, optimizer="sgd", loss="mse")
    path = str(tmp_path / "model.keras")
    model.save(path, **({} if IS_KERAS_3 else {"save_format": "keras_v3"}))
    loaded = keras.models.load_model(path)
    assert_same(loaded, model)


@keras.utils.register_keras_serializable("tests")
class OwnCompile(CustomTrainModel):
    def compile(self, rounds, **kwargs):
        super().compile(**kwargs)
        self.rounds = rounds
