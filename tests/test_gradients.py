"""The gradient pipeline: accumulation, what is not finite, mixed precision, and what the logs say of it."""

import pathlib

import numpy as np
import pytest

from customfit import CustomTrainModel, NonFiniteError, TrainingSession, debug
from customfit.compat import IS_KERAS_3, keras, tf
from customfit.gradients import AdaptiveClip, NonFinite
from tests.parity import models

METHODS = ("fit", "custom_fit")
X, Y = models.rows(64)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True),
}
if hasattr(keras.optimizers, "AdamW"):
    OPTIMIZERS["adamw"] = lambda: keras.optimizers.AdamW(0.01)


# And all others there are, under one of the loops.
OTHERS = ["SGD", "Adadelta", "Adagrad", "Adamax", "Adafactor", "Nadam", "Ftrl", "Lion", "Lamb", "Muon"]


def compiled(build=models.dense, optimizer="sgd", cls=CustomTrainModel, **options):
    keras.utils.set_random_seed(5)
    model = build(cls)
    options = {"loss": "sparse_categorical_crossentropy", **options}
    model.compile(OPTIMIZERS[optimizer]() if optimizer in OPTIMIZERS else optimizer, **options)
    return model


def train(model, how, x=X, y=Y, **arguments):
    arguments = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    return getattr(model, how)(x, y, **arguments)


def updates(model):
    return int(np.asarray(model.optimizer.iterations))


def assert_close(ours, theirs, rtol=2e-5):
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=2e-6)


def assert_same(ours, theirs):
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_array_equal(mine, other)


# ------------------------------------------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("how", METHODS)
def test_micro_batches_make_the_update_of_the_large_batch(how, optimizer):
    """To rounding: a mean over 16 rows and the mean of four means over 4 are sums in another order."""
    ours, theirs = compiled(optimizer=optimizer, gradient_accumulation_steps=4), compiled(optimizer=optimizer)
    train(ours, how, batch_size=4)
    train(theirs, how, batch_size=16)
    assert_close(ours, theirs)
    assert updates(ours) == updates(theirs) == 8


@pytest.mark.parametrize("name", [name for name in OTHERS if hasattr(keras.optimizers, name)])
def test_micro_batches_make_the_update_of_the_large_batch_for_every_optimizer(name):
    """Lion goes by signs, which rounding can turn where a gradient is next to nothing: no gradient here is."""
    make = lambda: getattr(keras.optimizers, name)(0.01)
    ours, theirs = compiled(optimizer=make(), gradient_accumulation_steps=4), compiled(optimizer=make())
    train(ours, "custom_fit", batch_size=4)
    train(theirs, "custom_fit", batch_size=16)
    assert_close(ours, theirs)
    assert updates(ours) == updates(theirs) == 8


@pytest.mark.parametrize("how", METHODS)
def test_a_smaller_micro_batch_counts_by_its_rows_and_the_tail_of_an_epoch_is_applied(how):
    ours, theirs = compiled(gradient_accumulation_steps=3), compiled()
    train(ours, how, X[:22], Y[:22], batch_size=4)  # 4 4 4 | 4 4 2: the second update has 10 rows
    train(theirs, how, X[:22], Y[:22], batch_size=12)
    assert_close(ours, theirs)
    assert updates(ours) == 4


@pytest.mark.parametrize("validation", [None, (X[:8], Y[:8])], ids=["alone", "validated"])
@pytest.mark.parametrize("how", METHODS)
def test_the_tail_is_applied_before_validation_and_nothing_of_it_is_left_for_the_next_epoch(how, validation):
    ours, theirs = compiled(gradient_accumulation_steps=3), compiled()
    history = train(ours, how, X[:40], Y[:40], batch_size=8, epochs=3, validation_data=validation)
    expected = train(theirs, how, X[:40], Y[:40], batch_size=24, epochs=3, validation_data=validation)
    assert_close(ours, theirs)
    assert updates(ours) == 6
    if validation is not None:
        np.testing.assert_allclose(history.history["val_loss"], expected.history["val_loss"], rtol=1e-5)


def test_plain_keras_leaves_the_tail_of_training_unapplied():
    if not hasattr(keras.optimizers.SGD(), "gradient_accumulation_steps"):
        pytest.skip("this Keras has no gradient_accumulation_steps")
    model = compiled(cls=keras.Model, optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    before = model.get_weights()
    train(model, "fit", X[:48], Y[:48], epochs=1)  # three micro-batches
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("how", METHODS)
def test_schedules_follow_updates(how):
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.0])  # only the first update moves anything
    ours = compiled(optimizer=keras.optimizers.SGD(rates), gradient_accumulation_steps=2)
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.0])
    theirs = compiled(optimizer=keras.optimizers.SGD(rates))
    train(ours, how, batch_size=8, epochs=1)
    train(theirs, how, batch_size=16, epochs=1)
    assert_close(ours, theirs)


@pytest.mark.parametrize("how", METHODS)
def test_slices_are_summed_rightly(how):
    x = np.random.RandomState(0).randint(0, 10, (64, 8))
    ours, theirs = compiled(models.embedding, gradient_accumulation_steps=4), compiled(models.embedding)
    train(ours, how, x, batch_size=4)
    train(theirs, how, x, batch_size=16)
    assert_close(ours, theirs)


def test_accumulated_gradients_are_clipped_once_and_not_each_micro_batch():
    ours = compiled(gradient_accumulation_steps=4, global_clipnorm=0.01)
    theirs = compiled(global_clipnorm=0.01)
    train(ours, "custom_fit", batch_size=4)
    train(theirs, "custom_fit", batch_size=16)
    assert_close(ours, theirs)


def test_accumulation_under_xla():
    ours = compiled(gradient_accumulation_steps=4, jit_compile=True)
    theirs = compiled(jit_compile=False)
    train(ours, "custom_fit", batch_size=4)
    train(theirs, "custom_fit", batch_size=16)
    assert_close(ours, theirs, rtol=1e-4)


def test_fit_and_custom_fit_accumulate_to_the_same_bits():
    ours, theirs = (compiled(models.dropout, "adam", gradient_accumulation_steps=3) for _ in METHODS)
    train(ours, "custom_fit", batch_size=8)
    train(theirs, "fit", batch_size=8)
    assert_same(ours, theirs)


def test_an_own_loop_applies_the_tail_itself():
    model = compiled(gradient_accumulation_steps=4)
    before = model.get_weights()
    model.train_on_batch(X[:16], Y[:16])
    assert all(np.array_equal(now, then) for now, then in zip(model.get_weights(), before))
    model.apply_accumulated_gradients()
    other = compiled()
    other.train_on_batch(X[:16], Y[:16])
    assert_close(model, other)


def test_a_session_applies_the_tail():
    model, other = compiled(gradient_accumulation_steps=4), compiled()
    with TrainingSession(model, verbose=0) as session:
        for _ in session.epochs():
            session.train_on((X[:8], Y[:8]))
            session.train_on((X[8:16], Y[8:16]))
    other.train_on_batch(X[:16], Y[:16])
    assert_close(model, other)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "2"])
def test_accumulation_steps_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps` must be a positive integer. Received"):
        compiled(gradient_accumulation_steps=value)


def test_accumulating_twice_is_refused():
    if not hasattr(keras.optimizers.SGD(), "gradient_accumulation_steps"):
        pytest.skip("this Keras has no gradient_accumulation_steps")
    with pytest.raises(ValueError, match="not in both"):
        compiled(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2), gradient_accumulation_steps=2)


# ---------------------------------------------------------------------------------------------------------- not finite


def with_bad_rows(*batches, batch_size=16):
    x = X.copy()
    for batch in batches:
        x[batch * batch_size + 3, 2] = np.nan
    return x


@pytest.mark.parametrize("build", [models.dense, models.batch_norm, models.dropout])
@pytest.mark.parametrize("how", METHODS)
def test_a_skipped_step_is_as_if_its_batch_had_not_been_there(how, build):
    if build is models.dropout and not IS_KERAS_3:
        pytest.skip("Keras 2 keeps the state of dropout in the op, where nothing can put it back")
    good = [0, 2, 3]
    ours = compiled(build, "adam", nonfinite="skip", metrics=["accuracy"])
    theirs = compiled(build, "adam", metrics=["accuracy"])
    history = train(ours, how, with_bad_rows(1))
    x = np.concatenate([X[16 * batch : 16 * batch + 16] for batch in good])
    y = np.concatenate([Y[16 * batch : 16 * batch + 16] for batch in good])
    expected = train(theirs, how, x, y)
    assert_same(ours, theirs)
    assert history.history == expected.history
    assert ours.skipped_steps == 2
    assert updates(ours) == 6


@pytest.mark.parametrize("policy", [None, "skip", "raise", "stop"])
@pytest.mark.parametrize("how", METHODS)
def test_a_policy_changes_nothing_of_good_steps(how, policy):
    ours = compiled(models.dropout, "adam", nonfinite=policy, metrics=["accuracy"])
    theirs = compiled(models.dropout, "adam", cls=keras.Model, metrics=["accuracy"])
    assert train(ours, how).history == train(theirs, "fit").history
    assert_same(ours, theirs)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("how", METHODS)
def test_raise_names_what_and_when_and_leaves_the_last_good_weights(how, steps_per_execution):
    ours = compiled(nonfinite="raise", steps_per_execution=steps_per_execution)
    theirs = compiled()
    with pytest.raises(NonFiniteError, match="is not finite in step 3 of epoch 1 .* No weight") as error:
        train(ours, how, with_bad_rows(2))
    assert error.value.what in ("loss", "dense/kernel")  # after a relu, NaN may be gone from the loss
    assert (error.value.epoch, error.value.step) == (0, 2)
    train(theirs, how, X[:32], Y[:32], epochs=1)
    assert_same(ours, theirs)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_raise_names_the_first_variable_where_the_loss_is_finite(jit_compile):
    model = compiled(models.exploding, nonfinite="raise", jit_compile=jit_compile)
    with pytest.raises(NonFiniteError, match="The gradient of below/kernel is not finite"):
        train(model, "custom_fit")


@pytest.mark.parametrize("how", METHODS)
def test_stop_ends_training_with_the_last_good_weights(how):
    ours, theirs = compiled(nonfinite="stop"), compiled()
    history = train(ours, how, with_bad_rows(2), epochs=5)
    train(theirs, how, X[:32], Y[:32], epochs=1)
    assert_same(ours, theirs)
    assert len(history.epoch) == 1
    if how == "custom_fit":
        assert "step 3 of epoch 1" in history.stop_reason


def test_training_can_continue_after_a_bad_step_was_raised():
    ours, theirs = compiled(nonfinite="raise"), compiled()
    with pytest.raises(NonFiniteError):
        train(ours, "custom_fit", with_bad_rows(0))
    train(ours, "custom_fit")
    train(theirs, "custom_fit")
    assert_same(ours, theirs)


def test_a_bad_micro_batch_does_not_cost_the_others_of_its_update():
    ours = compiled(nonfinite="skip", gradient_accumulation_steps=2)
    train(ours, "custom_fit", with_bad_rows(1), epochs=1)
    theirs = compiled()
    theirs.train_on_batch(X[:16], Y[:16])
    theirs.train_on_batch(X[32:], Y[32:])
    assert_close(ours, theirs)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match='`nonfinite` must be None, "skip", "raise", "stop" or a `NonFinite`') as error:
        compiled(nonfinite="ignore")
    assert str(error.value).endswith("Received: nonfinite='ignore'")
    with pytest.raises(ValueError, match=r"`NonFinite\(policy=\)` must be .* Received: policy=None"):
        NonFinite(None)


def test_a_dump_goes_with_raise_alone_and_is_a_path():
    with pytest.raises(ValueError, match=r"`NonFinite\(dump=\)` must go with the policy \"raise\""):
        NonFinite("skip", dump="here")
    with pytest.raises(ValueError, match=r"`NonFinite\(dump=\)` must be the path of a folder. Received: dump=3"):
        NonFinite("raise", dump=3)


def test_xla_cannot_save_a_step():
    with pytest.raises(ValueError, match=r"`NonFinite\(dump=\)` must not be set with `jit_compile=True`"):
        compiled(nonfinite=NonFinite("raise", dump="here"), jit_compile=True)


def test_a_policy_with_options_is_equal_to_one_of_the_same_values():
    assert NonFinite("raise", dump=pathlib.Path("here")) == NonFinite("raise", dump="here")
    assert len({NonFinite("skip"), NonFinite("skip"), NonFinite("stop")}) == 2
    assert compiled(nonfinite=NonFinite("skip")).gradient_pipeline.guard.policy == "skip"


def test_a_bad_step_is_saved_and_replayed_to_the_operation(tmp_path):
    def build(cls):
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
        return cls(inputs, keras.layers.Dense(3, activation="softmax")(hidden))

    model = compiled(build, "adam", nonfinite=NonFinite("raise", dump=tmp_path / "bad"))
    with pytest.raises(NonFiniteError, match=r"customfit.debug.replay\("):
        train(model, "custom_fit", with_bad_rows(2))
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?i)nan"):
        debug.replay(tmp_path / "bad")
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?i)nan"):
        debug.replay(tmp_path / "bad", compiled(build, "adam"))


def test_replay_of_a_folder_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a folder in which a step was saved"):
        debug.replay(tmp_path)


# ----------------------------------------------------------------------------------------------------- mixed precision


@pytest.fixture
def float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def scale_of(model):
    optimizer = model.optimizer
    scale = getattr(optimizer, "dynamic_scale", None)
    return float(np.asarray(optimizer.loss_scale if scale is None else scale))


@pytest.mark.parametrize("how", METHODS)
def test_the_loss_scale_moves_as_under_fit_with_a_clip_that_clips_nothing(float16, how):
    ours = compiled(optimizer="adam", global_clipnorm=1e6, gradient_metrics=["grad_norm"])
    theirs = compiled(optimizer="adam", cls=keras.Model)
    ours_history, theirs_history = train(ours, how), train(theirs, "fit")
    assert ours_history.history["loss"] == theirs_history.history["loss"]
    assert_same(ours, theirs)
    assert scale_of(ours) == scale_of(theirs)


@pytest.mark.parametrize("how", METHODS)
def test_an_overflow_halves_the_scale_as_under_fit_and_is_counted(float16, how):
    found_in = keras.optimizers if IS_KERAS_3 else keras.mixed_precision

    def optimizer():  # times such a scale, gradients are beyond what float16 holds
        return found_in.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**24)

    ours = compiled(optimizer=optimizer(), global_clipnorm=1e6, gradient_metrics=["skipped_steps", "grad_norm"])
    theirs = compiled(optimizer=optimizer(), cls=keras.Model)
    history = train(ours, how, batch_size=8, epochs=1)
    train(theirs, "fit", batch_size=8, epochs=1)
    assert_same(ours, theirs)
    assert scale_of(ours) == scale_of(theirs) < 2**24
    assert history.history["skipped_steps"] == [np.log2(2**24 / scale_of(ours))]
    assert ours.skipped_steps == history.history["skipped_steps"][0]
    assert np.isfinite(history.history["grad_norm"]).all()


@pytest.mark.parametrize("how", METHODS)
def test_norms_are_of_unscaled_gradients(float16, how):
    ours = compiled(gradient_metrics=["grad_norm", "loss_scale"])
    norm = train(ours, how, epochs=1).history["grad_norm"][0]
    keras.mixed_precision.set_global_policy("float32")
    expected = train(compiled(gradient_metrics=["grad_norm"]), how, epochs=1).history["grad_norm"][0]
    np.testing.assert_allclose(norm, expected, rtol=0.02)  # float16 has three digits


@pytest.mark.parametrize("how", METHODS)
def test_bfloat16_needs_no_scale(bfloat16, how):
    ours = compiled(global_clipnorm=1e6, gradient_metrics=["loss_scale"])
    theirs = compiled(cls=keras.Model)
    history = train(ours, how)
    train(theirs, "fit")
    assert_same(ours, theirs)
    assert history.history["loss_scale"] == [1.0, 1.0]


# ---------------------------------------------------------------------------------------------------- gradient metrics


@pytest.mark.parametrize("how", METHODS)
def test_gradient_metrics_are_in_the_logs_and_say_what_happened(how):
    names = ["grad_norm", "clip_fraction", "update_ratio", "loss_scale", "skipped_steps"]
    model = compiled(optimizer=keras.optimizers.SGD(0.5), clipnorm=1e-3, gradient_metrics=names)
    before = model.get_weights()
    history = train(model, how, epochs=1, batch_size=64, validation_data=(X, Y)).history
    after = model.get_weights()
    moved = np.sqrt(sum(np.sum((now - then) ** 2) for now, then in zip(after, before)))
    weights = np.sqrt(sum(np.sum(then**2) for then in before))
    np.testing.assert_allclose(history["update_ratio"], [moved / weights], rtol=1e-4)
    assert history["clip_fraction"] == [1.0]
    assert history["loss_scale"] == [1.0]
    assert history["skipped_steps"] == [0.0]
    with tf.GradientTape() as tape:
        other = compiled()
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(Y, other(X)))
    norm = tf.linalg.global_norm(tape.gradient(loss, other.trainable_variables))
    np.testing.assert_allclose(history["grad_norm"], [norm], rtol=1e-5)
    assert not any(name.startswith("val_") and name[4:] in names for name in history)


def test_gradient_metrics_are_reset_each_epoch_and_change_no_number():
    model = compiled(optimizer=keras.optimizers.SGD(0.0), gradient_metrics=["grad_norm"])
    norms = train(model, "custom_fit", epochs=3).history["grad_norm"]
    assert norms[0] == norms[1] == norms[2] > 0
    ours, theirs = compiled(models.dropout, gradient_metrics=["grad_norm", "update_ratio"]), compiled(models.dropout)
    train(ours, "custom_fit")
    train(theirs, "custom_fit")
    assert_same(ours, theirs)


def test_unknown_gradient_metrics_are_refused():
    with pytest.raises(ValueError, match="`gradient_metrics` must be some of grad_norm, .* Received: 'norm'"):
        compiled(gradient_metrics=["norm"])


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2, "nonfinite": "skip", "clip_percentile": 50},
        {"nonfinite": NonFinite("raise", dump="here"), "adaptive_clip": AdaptiveClip(0.1, exclude=["dense"])},
    ],
)
def test_options_survive_saving(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the step would be saved
    model = compiled(gradient_metrics=["grad_norm"], **options)
    model.train_on_batch(X, Y)
    config = model.get_compile_config()
    loaded = models.dense(CustomTrainModel)
    loaded.compile_from_config(config)
    assert loaded.gradient_pipeline.get_config() == model.gradient_pipeline.get_config()


def test_transform_gradients_comes_after_accumulation_and_before_the_clip():
    seen = []

    class Spy(CustomTrainModel):
        def transform_gradients(self, gradients, variables):
            seen.append(len(gradients))
            return [gradient * 1000.0 for gradient in gradients]

    ours = compiled(cls=Spy, optimizer=keras.optimizers.SGD(1.0), gradient_accumulation_steps=4, global_clipnorm=0.5)
    before = ours.get_weights()
    train(ours, "custom_fit", batch_size=16, epochs=1)
    moved = np.sqrt(sum(np.sum((now - then) ** 2) for now, then in zip(ours.get_weights(), before)))
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)
    assert set(seen) == {4}
