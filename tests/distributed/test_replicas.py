"""On two replicas: `custom_fit` is `fit` to the bit, and what the gradient pipeline does is what one device does."""

import numpy as np
import pytest

from customfit import CustomTrainModel, NonFiniteError, TrainingSession, compat
from customfit.compat import keras, tf
from tests import test_remat
from tests.parity import models
from tests.parity.compare import assert_equal, compiled
from tests.resume.cut import assert_resumes

if not compat.divides_loss_by_replicas():
    pytest.skip("Keras 3 before 3.8 is refused: tests/distributed/test_refused.py", allow_module_level=True)

X, Y = models.rows(64)
METHODS = ("fit", "custom_fit")
supports = pytest.mark.supports


def under(strategy, build, base=CustomTrainModel, **options):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        return compiled(build, base, **options)


def train(strategy, build, how, base=CustomTrainModel, x=X, y=Y, options=None, **arguments):
    model = under(strategy, build, base, **(options or {}))
    given = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    return model, getattr(model, how)(x, y, **given)


# ----------------------------------------------------------------------------------------------------- as `fit` does


@supports("Distribution", "`MirroredStrategy`, on Keras 2 and Keras 3.8 or newer: arrays, datasets, validation")
@pytest.mark.parametrize("build", [models.dropout, models.batch_norm, models.subclassed, models.embedding])
def test_it_trains_as_fit_does(strategy, build):
    validation = {"validation_data": (X[:32], Y[:32])}
    ours = train(strategy, build, "custom_fit", **validation)
    theirs = train(strategy, build, "fit", keras.Model, **validation)
    assert_equal(ours, theirs)


def test_a_dataset(strategy):
    data = lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    ours = train(strategy, models.dropout, "custom_fit", x=data(), y=None, batch_size=None)
    assert_equal(ours, train(strategy, models.dropout, "fit", keras.Model, x=data(), y=None, batch_size=None))


def test_a_dataset_that_is_distributed_already(strategy):
    data = lambda: strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensor_slices((X, Y)).batch(16))
    ours = train(strategy, models.dense, "custom_fit", x=data(), y=None, batch_size=None, steps_per_epoch=4, epochs=1)
    assert_equal(ours, train(strategy, models.dense, "custom_fit", epochs=1))


def test_a_dataset_of_unknown_size_is_the_same_data(strategy):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(16)
    ours = train(strategy, models.dropout, "custom_fit", x=data, y=None, batch_size=None)
    assert_equal(ours, train(strategy, models.dropout, "custom_fit"))


@supports("Distribution", "`steps_per_execution` on several replicas", fit="Keras 2")
def test_steps_per_execution(strategy):
    """Keras 3.7 to 3.15: `fit` raises. Ours trains, whether a callback hears of each execution or not."""
    listens = lambda: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    options = {"steps_per_execution": 2}
    ours = train(strategy, models.dense, "custom_fit", options=options, callbacks=[listens()])
    assert_equal(ours, train(strategy, models.dense, "fit", keras.Model))
    if compat.IS_KERAS_3:
        with pytest.raises(tf.errors.InvalidArgumentError, match="must feed a value for placeholder"):
            train(strategy, models.dense, "fit", keras.Model, options=options)


@supports("Distribution", "a `train_step` of the user's that returns logs of its own: their mean (Keras 2: their sum)")
def test_a_step_of_the_user_s(strategy):
    def build(base):
        class Mine(base):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((self(x, training=True) - tf.one_hot(y, 3)) ** 2) / 2
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
                return {"mine": loss}

        return models.dense(Mine)

    assert_equal(train(strategy, build, "custom_fit"), train(strategy, build, "fit", keras.Model))


def test_eager(strategy):
    options = {"run_eagerly": True}
    assert_equal(
        train(strategy, models.dense, "custom_fit", options=options, epochs=1),
        train(strategy, models.dense, "fit", keras.Model, options=options, epochs=1),
    )


def test_evaluation_and_an_own_loop(strategy):
    ours, history = train(strategy, models.dense, "custom_fit", epochs=1)
    assert ours.custom_evaluate(X, Y, verbose=0) == ours.evaluate(X, Y, verbose=0)
    own = under(strategy, models.dense)
    with TrainingSession(own, epochs=1, verbose=0) as session:
        for _ in session.epochs():
            for begin in range(0, 64, 16):
                session.train_on((X[begin : begin + 16], Y[begin : begin + 16]))
    assert session.history.history == history.history
    for mine, other in zip(own.get_weights(), ours.get_weights()):
        np.testing.assert_array_equal(mine, other)


def test_a_smaller_last_batch_is_shared(strategy):
    """Of 5 rows one replica has 3, and the other 2."""
    given = {"x": X[:37], "y": Y[:37]}
    ours = train(strategy, models.dense, "custom_fit", **given)
    assert_equal(ours, train(strategy, models.dense, "fit", keras.Model, **given))


def test_a_shuffled_dataset_comes_in_the_order_of_one_device(strategy, one_device):
    """`fit` of Keras 3 passes the first order over: it has looked at it to build the model."""
    data = lambda: tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(64, seed=3).batch(16)
    given = lambda: {"x": data(), "y": None, "batch_size": None, "epochs": 1}
    one, two = (train(each, models.dense, "custom_fit", **given())[0] for each in (one_device, strategy))
    for single, mine in zip(one.get_weights(), two.get_weights()):
        np.testing.assert_allclose(mine, single, rtol=1e-5, atol=1e-6)  # sums in another order


def test_traces_do_not_grow(strategy):
    traced = []

    def build(base):
        class Counts(base):
            def train_step(self, data):
                traced.append(1)
                return super().train_step(data)

        return models.dense(Counts)

    train(strategy, build, "custom_fit", epochs=1)
    once = len(traced)
    traced.clear()
    train(strategy, build, "custom_fit", epochs=5)
    assert len(traced) == once


@supports("Resume", "several replicas, each with its own accumulators and metrics", fit="no")
@pytest.mark.parametrize("cut", [3, 6])
def test_resume(strategy, tmp_path, cut):
    """In the middle of an epoch, and of a window of micro-batches. Each replica validates with its moving averages."""

    def build(base):
        class Scoped(base):
            def compile(self, *args, **kwargs):
                with strategy.scope():
                    super().compile(*args, **kwargs)

        with strategy.scope():
            return models.batch_norm(Scoped)

    given = {"x": X, "y": Y, "validation_data": (X, Y)}
    assert_resumes(build, given, tmp_path, cuts=[cut], gradient_accumulation_steps=2)


# ------------------------------------------------------------------- batches with fewer rows than there are replicas


def regularized(base):
    inputs = keras.Input((8,))
    return base(inputs, keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2")(inputs))


def two_outputs(base):
    inputs = keras.Input((8,))
    return base(inputs, {name: keras.layers.Dense(3, activation="softmax", name=name)(inputs) for name in "ab"})


def own_step(base):
    """A step of the user's, which calls Keras's `compute_loss`."""

    class Mine(base):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
            self.track_loss(loss, x)
            self.apply_gradients(self.compute_gradients(loss, tape), loss=loss)
            return self.compute_metrics(x, y, y_pred, None)

    return models.dense(Mine)


def mean_over_rows(base):
    """A loss of the user's, which is not finite without rows."""

    class Mine(base):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, y_pred))
            return loss / tf.distribute.get_strategy().num_replicas_in_sync

    return models.dense(Mine)


def train_by_single_rows(strategy, build, how="custom_fit", base=CustomTrainModel, **options):
    """Each batch is one row, of training and of validation: one replica has it, and the other none."""
    early_stopping = {"early_stopping": options.pop("early_stopping", None)} if how == "custom_fit" else {}
    rows = lambda count: {"a": Y[:count], "b": Y[:count]} if build is two_outputs else Y[:count]
    validation = {"validation_data": (X[:3], rows(3)), "validation_batch_size": 1}
    return train(strategy, build, how, base, X[:5], rows(5), options, batch_size=1, **validation, **early_stopping)


@supports("Distribution", "batches with fewer rows than there are replicas", fit="Keras 2")
@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("build", [models.dense, regularized, two_outputs, own_step])
def test_a_replica_without_rows_counts_as_nothing(strategy, one_device, build, run_eagerly):
    """Its share of the mean is nothing. So each gradient is half of that on one device, as with half the loss there."""
    name, outputs = "sparse_categorical_crossentropy", "ab" if build is two_outputs else ""
    losses = {"loss": dict.fromkeys(outputs, name) if outputs else name}
    metrics = {"metrics": {output: [name] for output in outputs} if outputs else [name]}
    two, history = train_by_single_rows(strategy, build, run_eagerly=run_eagerly, **losses, **metrics)
    half = dict.fromkeys(outputs, 0.5) if outputs else [0.5]
    one, _ = train_by_single_rows(one_device, build, loss_weights=half, **losses, **metrics)
    for mine, single in zip(two.get_weights(), one.get_weights()):
        np.testing.assert_allclose(mine, single, rtol=1e-5, atol=1e-7)
    assert all(np.isfinite(values).all() for values in history.history.values())
    for kind in ("", "val_"):
        of_outputs = [
            history.history[f"{kind}{output}_{name}" if output else f"{kind}{name}"] for output in outputs or [""]
        ]
        more = np.subtract(history.history[f"{kind}loss"], np.sum(of_outputs, axis=0))
        assert (more > 0.001).all() if build is regularized else more == pytest.approx(0, abs=1e-6)


def test_fit_of_keras_3_trains_no_batch_with_fewer_rows_than_replicas(strategy):
    if not compat.IS_KERAS_3:
        assert_equal(
            *(train_by_single_rows(strategy, models.dense, *how) for how in (["custom_fit"], ["fit", keras.Model]))
        )
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have the same size and shape"):
        train_by_single_rows(strategy, models.dense, "fit", keras.Model)


@pytest.mark.parametrize("build", [models.dense, mean_over_rows, own_step])
def test_a_replica_without_rows_is_not_what_nonfinite_and_early_stopping_look_for(strategy, build):
    patience = None if build is mean_over_rows else 1  # Keras 2 does not log a loss of the user's
    model, history = train_by_single_rows(strategy, build, nonfinite="raise", early_stopping=patience)
    assert history.epoch == [0, 1]
    assert history.stop_reason is None
    plain, _ = train_by_single_rows(strategy, build)
    for mine, its in zip(model.get_weights(), plain.get_weights()):
        np.testing.assert_array_equal(mine, its)


def test_evaluation_by_single_rows(strategy, one_device):
    one, two = (under(each, regularized) for each in (one_device, strategy))
    expected = one.custom_evaluate(X[:3], Y[:3], batch_size=1, verbose=0)
    assert two.custom_evaluate(X[:3], Y[:3], batch_size=1, verbose=0) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------- the pipeline, as on one device


LINE_X = np.array([[1.0], [-1.0]] * 4, "float32")
LINE_Y = np.array([[3.0], [-1.0], [2.0], [0.5], [-2.0], [1.0], [0.0], [4.0]], "float32")
# Two rows with gradients of 200 and -202: together they are -1, and each replica has one.
OPPOSING = np.array([[1.0], [1.0]], "float32"), np.array([[-99.0], [102.0]], "float32")


def line(base):
    """A line through the origin."""
    inputs = keras.Input((1,))
    return base(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs))


def weight(strategy, how, x=LINE_X, y=LINE_Y, base=CustomTrainModel, optimizer=None, **options):
    arguments = {name: options.pop(name) for name in ("batch_size", "epochs") if name in options}
    optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
    options = {"optimizer": lambda: optimizer, "loss": "mse", "metrics": None, **options}
    given = {"batch_size": 2, "epochs": 1, **arguments}
    model, _ = train(strategy, line, how, base, x, y, options, **given)
    return float(model.get_weights()[0][0, 0])


@pytest.mark.parametrize("how", METHODS)
class TestPipeline:
    def test_clips_after_the_sum(self, strategy, one_device, how):
        one, two = (weight(each, how, *OPPOSING, global_clipnorm=1.0) for each in (one_device, strategy))
        assert two == pytest.approx(one, rel=1e-6)

    def test_percentile(self, strategy, one_device, how):
        one, two = (weight(each, how, clip_percentile=50) for each in (one_device, strategy))
        assert two == pytest.approx(one, rel=1e-6)

    def test_accumulation_is_the_large_batch(self, strategy, one_device, how):
        one = weight(one_device, how, batch_size=4)
        assert weight(strategy, how, gradient_accumulation_steps=2) == pytest.approx(one, rel=1e-6)

    def test_the_tail_of_an_epoch_is_applied(self, strategy, one_device, how):
        one = weight(one_device, how, batch_size=6)
        assert weight(strategy, how, gradient_accumulation_steps=3) == pytest.approx(one, rel=1e-6)

    def test_a_bad_batch_is_skipped_on_both(self, strategy, one_device, how):
        bad = LINE_X.copy()
        bad[3] = np.nan
        one = weight(one_device, how, np.delete(LINE_X, [2, 3], 0), np.delete(LINE_Y, [2, 3], 0))
        assert weight(strategy, how, bad, nonfinite="skip") == pytest.approx(one, rel=1e-6)

    def test_a_skipped_batch_leaves_moving_averages_alone(self, strategy, how):
        bad = X.copy()
        bad[20] = np.nan
        options = {"nonfinite": "skip"}
        model, history = train(strategy, models.batch_norm, how, x=bad, options=options)
        assert all(np.isfinite(weights).all() for weights in model.get_weights())
        assert np.isfinite(history.history["loss"]).all()

    def test_slices_are_accumulated(self, strategy, one_device, how):
        options = {"gradient_accumulation_steps": 2, "optimizer": "sgd"}
        one, two = (train(each, models.embedding, how, options=options)[0] for each in (one_device, strategy))
        for single, mine in zip(one.get_weights(), two.get_weights()):
            np.testing.assert_allclose(mine, single, rtol=1e-5, atol=1e-7)  # sums in another order

    def test_a_bad_batch_raises(self, strategy, how):
        bad = LINE_X.copy()
        bad[3] = np.nan
        with pytest.raises(NonFiniteError, match="in step 2 of epoch 1 "):
            weight(strategy, how, bad, nonfinite="raise")

    @pytest.mark.parametrize("row", [3, 12])  # of the first replica and of the second
    def test_what_is_not_finite_has_the_name_that_it_has_on_one_device(self, strategy, one_device, how, row):
        bad, found = X.copy(), []
        bad[row] = np.nan
        for each in (one_device, strategy):
            keras.backend.clear_session()  # so that layers have the same names
            with pytest.raises(NonFiniteError) as raised:
                train(each, models.dense, how, x=bad, options={"nonfinite": "raise"})
            found.append((raised.value.what, raised.value.step))
        assert found[0] == found[1]
        with pytest.raises(NonFiniteError, match="The gradient of below/kernel is not finite"):
            train(strategy, models.exploding, how, options={"nonfinite": "raise"})

    def test_metrics(self, strategy, one_device, how):
        options = {"optimizer": "sgd", "loss": "mse", "metrics": None, "gradient_metrics": ["grad_norm"]}
        given = {"x": LINE_X, "y": LINE_Y, "batch_size": 2, "options": options}
        one, two = (train(each, line, how, **given)[1].history["grad_norm"] for each in (one_device, strategy))
        assert two == pytest.approx(one, rel=1e-5)


def test_the_optimizer_of_keras_3_clips_each_replica_before_the_sum(strategy, one_device):
    """Of two opposing gradients of norm 200 each keeps 1, and their sum is 0; their true sum of -1 would be kept."""
    clips = lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    one, two = (weight(each, "fit", *OPPOSING, keras.Model, clips()) for each in (one_device, strategy))
    assert one == pytest.approx(1.1)
    assert two == pytest.approx(1.0 if compat.IS_KERAS_3 else 1.1)


def test_a_percentile_s_history_is_the_same_on_both_replicas(strategy, tmp_path):
    from customfit.gradients.clipping import PercentileClipping

    clip = PercentileClipping(50.0)
    with strategy.scope():
        clip.build(None)

    @tf.function
    def step(norm):
        return strategy.run(lambda: clip([tf.reshape(norm, [1])], [None])[0])

    def clipped(norm):
        return [float(values[0]) for values in strategy.experimental_local_results(step(tf.constant(norm)))]

    assert [clipped(norm) for norm in (4.0, 2.0, 8.0)] == [[4.0, 4.0], [2.0, 2.0], [4.0, 4.0]]
    for variable in clip.variables:
        one, other = (copy.numpy() for copy in strategy.experimental_local_results(variable))
        np.testing.assert_array_equal(one, other)
    path = tf.train.Checkpoint(variables=clip.variables).write(str(tmp_path / "state"))
    clipped(5.0)
    tf.train.Checkpoint(variables=clip.variables).read(path).assert_consumed()
    assert int(clip.variables[1].read_value()) == 3
    assert clipped(5.0) == [4.5, 4.5]


@pytest.mark.parametrize("how", METHODS)
def test_two_groups_of_one_kind_are_one_optimizer(strategy, how):
    from tests.test_optimizers import SGD, make
    from tests.test_optimizers import X as TOKENS
    from tests.test_optimizers import Y as TARGETS

    weights = []
    new = lambda: SGD(0.1, momentum=0.9)
    for optimizer in (lambda: {"encoder": new(), "head": new()}, new):
        with strategy.scope():
            model = make()
            model.compile(optimizer(), "mse")
        getattr(model, how)(TOKENS, TARGETS, batch_size=8, epochs=1, shuffle=False, verbose=0)
        assert model.optimizer.iterations.numpy() == 5
        weights.append(model.get_weights())
    for mine, its in zip(*weights):
        np.testing.assert_array_equal(mine, its)


def test_blocks_that_are_computed_again_train_to_the_same_bits(strategy):
    build = lambda cls: test_remat.chain(cls, [test_remat.NORM])
    assert_equal(*(train(strategy, build, "custom_fit", options={"remat": remat}) for remat in (True, False)))
