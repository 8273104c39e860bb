"""Ours under `custom_fit` and `fit` equals `fit` of a plain `keras.Model`: weights and History, to the bit."""

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, assert_parity, train

X, Y = models.rows()  # 70 rows: batches of 16 leave a ragged last one
ROWS = {"x": X, "y": Y}
supports = pytest.mark.supports


@supports("Models", "functional, subclassed; dropout, batch normalization, regularizers; a ragged last batch")
@pytest.mark.parametrize("build", [models.dense, models.dropout, models.batch_norm, models.l2, models.subclassed])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_models_and_ragged_last_batch(build, steps_per_execution):
    if steps_per_execution == 4 and (3, 0) <= compat.KERAS_VERSION < (3, 7):
        # `fit` of Keras 3.0-3.6 loses the steps of an execution that is cut short: compare with one step at a time.
        theirs = train(build, "fit", ROWS, base=keras.Model)
        assert_equal(train(build, "custom_fit", ROWS, steps_per_execution=4), theirs)
        return
    assert_parity(build, ROWS, steps_per_execution=steps_per_execution)


@pytest.mark.parametrize("fit_of_ours", [True, False])
def test_a_difference_is_found(fit_of_ours):
    """The test of these tests."""

    def build(base):
        class Swerves(base):
            def transform_gradients(self, gradients, variables):
                return [gradient * 1.001 for gradient in gradients]

        return models.dense(Swerves)

    with pytest.raises(AssertionError, match=r"under custom_fit\(\) .*kernel(:0)? differs by up to"):
        assert_parity(build, ROWS, fit_of_ours=fit_of_ours)


@pytest.mark.parametrize("build", [models.dropout, models.batch_norm])
def test_steps_per_execution_that_divides_the_epoch(build):
    assert_parity(build, {"x": X[:64], "y": Y[:64]}, steps_per_execution=4)


@supports("Models", "Sequential")
def test_sequential():
    def build(base):
        sequential = CustomTrainSequential if base is CustomTrainModel else keras.Sequential
        return sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)])

    assert_parity(build, ROWS, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@pytest.mark.parametrize("build", [models.dropout, models.batch_norm])
def test_eager(build):
    assert_parity(build, {**ROWS, "epochs": 2}, run_eagerly=True)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
        lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 10), weight_decay=0.1),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
    ],
    ids=["momentum", "clipnorm", "global_clipnorm", "schedule", "ema"],
)
def test_optimizers(optimizer):
    assert_parity(models.dense, ROWS, optimizer=optimizer)


def test_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert_parity(models.dropout, ROWS)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@supports("Data", "`sample_weight`, `class_weight`")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sample_weight(dtype):
    weights = np.linspace(0, 2, len(X)).astype(dtype)
    assert_parity(models.dense, {**ROWS, "sample_weight": weights}, weighted_metrics=["accuracy"])


def test_class_weight():
    assert_parity(models.dense, {**ROWS, "class_weight": {0: 1.0, 1: 0.25, 2: 3.0}}, weighted_metrics=["accuracy"])


def test_class_weight_of_one_hot_targets():
    one_hot = {"x": X, "y": np.eye(3, dtype="float32")[Y], "class_weight": {0: 1.0, 1: 0.25, 2: 3.0}}
    assert_parity(models.dense, one_hot, loss="categorical_crossentropy")


def test_two_outputs_with_a_weight_each():
    targets = {"kind": Y, "size": X.sum(axis=1, keepdims=True)}
    weights = {"kind": np.linspace(0, 1, len(X)), "size": np.linspace(2, 0, len(X))}
    # Keras 3.0 adds up a ragged batch's weighted loss in another order: the reported loss differs in its last bit.
    rtol = 5e-7 if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 1) else 0.0
    assert_parity(
        models.two_outputs,
        {"x": X, "y": targets, "sample_weight": weights},
        loss={"kind": "sparse_categorical_crossentropy", "size": "mse"},
        rtol=rtol,
        loss_weights={"kind": 1.0, "size": 0.5},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )


def test_two_inputs_in_a_dict():
    assert_parity(models.two_inputs, {"x": {"left": X[:, :4], "right": X[:, 4:]}, "y": Y})


def test_embedding():
    assert_parity(models.embedding, {"x": (X * 10).astype("int32"), "y": Y})


@supports(
    "Validation",
    "`validation_split`, `validation_data`, `validation_freq`, `validation_steps`, `validation_batch_size`",
)
@pytest.mark.parametrize("validation_freq", [1, 2, [1, 3]])
def test_validation_split_and_frequency(validation_freq):
    assert_parity(models.dropout, {**ROWS, "validation_split": 0.3, "validation_freq": validation_freq})


def test_validation_data_with_weights_batch_size_and_steps():
    x, y = models.rows(40, seed=1)
    validation = {"validation_data": (x, y, np.linspace(0, 1, 40)), "validation_batch_size": 7, "validation_steps": 4}
    # `fit` of Keras 3.0-3.6 goes on in the validation data where the last epoch stopped, later ones from its start.
    epochs = 1 if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 7) else 3
    assert_parity(models.batch_norm, {**ROWS, **validation, "epochs": epochs})


def test_add_loss_counts():
    class Penalised(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(0.1 * tf.reduce_mean(tf.square(inputs)))
            return inputs

    def build(base):
        inputs = keras.Input((8,))
        return base(inputs, keras.layers.Dense(3, activation="softmax")(Penalised()(keras.layers.Dense(4)(inputs))))

    assert_parity(build, ROWS)


@supports("Models", "`initial_epoch`, further calls, `fit()` and `custom_fit()` in turns")
def test_initial_epoch():
    assert_parity(models.dense, {**ROWS, "initial_epoch": 1})


def test_compute_loss_of_the_user_without_training_argument():
    def build(base):
        class Own(base):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
                return 2.0 * super().compute_loss(x, y, y_pred, sample_weight)

        return models.dense(Own)

    assert_parity(build, ROWS)


def test_train_step_of_the_user_that_returns_its_own_logs():
    def build(base):
        class Own(base):
            def train_step(self, data):
                x, y = data
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self(x, training=True) - tf.one_hot(y, 3)))
                self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights))
                return {"square": loss}

        return models.dense(Own)

    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 3):
        # `fit` of Keras 3.0-3.2 loses logs that are not metrics; `custom_fit` keeps them, as later ones do.
        assert set(train(build, "custom_fit", ROWS, loss="mse", metrics=None)[1].history) == {"square"}
        return
    assert_parity(build, ROWS, loss="mse", metrics=None)


# ------------------------------------------------------------------------------------------------------ datasets


def batches(shuffle_seed=None, unknown_size=False, repeat=False):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    if shuffle_seed is not None:
        data = data.shuffle(len(X), seed=shuffle_seed)
    if unknown_size:
        data = data.filter(lambda x, y: True)
    data = data.batch(16)
    return data.repeat() if repeat else data


@supports("Data", "`tf.data.Dataset`: finite, of unknown size, endless, shuffled by a seed")
def test_dataset():
    assert_parity(models.dropout, lambda: {"x": batches(), "validation_data": batches(), "batch_size": None})


def unknown_size():
    return {"x": batches(unknown_size=True), "batch_size": None}


@pytest.mark.skipif(
    compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 2),
    reason="`fit` of Keras 3.0 and 3.1 counts the end of the data in the loss, too: see the next test",
)
def test_dataset_of_unknown_size():
    """Weights and History; `optimizer.iterations` moves once more under `fit`: see the next test."""
    theirs = train(models.dense, "fit", unknown_size, base=keras.Model, optimizer="sgd")
    assert_equal(train(models.dense, "custom_fit", unknown_size, optimizer="sgd"), theirs)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_the_end_of_a_dataset_is_not_a_step(steps_per_execution):
    """`fit` of all releases counts one: the step that finds no data has moved `iterations`, which Adam reads."""
    if not compat.IS_KERAS_3 and steps_per_execution > 1:
        pytest.skip("Keras 2 takes no dataset of unknown size here")
    ours = train(models.dropout, "custom_fit", unknown_size, steps_per_execution=steps_per_execution)
    assert int(ours[0].optimizer.iterations.numpy()) == 3 * 5
    assert_equal(ours, train(models.dropout, "custom_fit", lambda: {"x": batches(), "batch_size": None}))


def test_dataset_with_class_weight():
    assert_parity(models.dense, lambda: {"x": batches(), "class_weight": {0: 1.0, 1: 0.25, 2: 3.0}, "batch_size": None})


def test_endless_dataset_with_steps():
    data = {"steps_per_epoch": 4, "batch_size": None}
    assert_parity(models.dense, lambda: {"x": batches(repeat=True), **data})


@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_dataset_that_shuffles_by_a_seed(steps_per_execution):
    assert_parity(
        models.dense,
        lambda: {"x": batches(shuffle_seed=5), "batch_size": None, "epochs": 4},
        steps_per_execution=steps_per_execution,
    )


def test_generator_with_steps():
    def generate():
        rng = np.random.RandomState(3)
        while True:
            chosen = rng.randint(0, len(X), 8)
            yield X[chosen], Y[chosen]

    assert_parity(models.dropout, lambda: {"x": generate(), "steps_per_epoch": 5, "batch_size": None})


# --------------------------------------------------------------------------------------------------- shuffling


def test_shuffled_rows_come_in_the_order_of_fit():
    """In all epochs on Keras 2; on Keras 3 in the first, after which `fit` repeats itself and `custom_fit` does not."""
    epochs = 1 if compat.IS_KERAS_3 else 4
    assert_parity(models.dropout, {**ROWS, "shuffle": True, "epochs": epochs})


@supports("Data", "`shuffle=True`: a new order each epoch, also after `set_random_seed`", fit="Keras 2")
def test_shuffled_rows_come_in_a_new_order_each_epoch():
    def orders(how):
        seen = []

        class Watch(CustomTrainModel):
            def train_step(self, data):
                tf.py_function(lambda x: seen.extend(x.numpy().ravel().astype(int)), [data[0]], [])
                return super().train_step(data)

        keras.utils.set_random_seed(SEED)
        inputs = keras.Input((1,))
        model = Watch(inputs, keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse", run_eagerly=True)
        rows = np.arange(10, dtype="float32")[:, None]
        getattr(model, how)(rows, rows, batch_size=4, epochs=3, verbose=0)
        return [tuple(seen[start : start + 10]) for start in (0, 10, 20)]

    ours, theirs = orders("custom_fit"), orders("fit")
    assert all(sorted(order) == list(range(10)) for order in ours)
    assert len(set(ours)) == 3
    assert ours == orders("custom_fit")  # the same under the same seed
    assert ours[0] == theirs[0]
    if not compat.IS_KERAS_3:
        assert ours == theirs
    elif compat.KERAS_VERSION <= (3, 15):
        assert len(set(theirs)) == 1  # what `custom_fit` does differently on purpose


# -------------------------------------------------------------------------------------- several calls in a row


def test_second_call_goes_on_as_the_second_fit_does():
    def twice(how, base):
        model, first = train(models.dropout, how, ROWS, base=base)
        second = getattr(model, how)(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
        return model, second

    assert_equal(twice("custom_fit", CustomTrainModel), twice("fit", keras.Model))


def test_fit_and_custom_fit_take_turns():
    def turns(methods, base):
        model, _ = train(models.batch_norm, methods[0], ROWS, base=base)
        return model, getattr(model, methods[1])(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)

    theirs = turns(["fit", "fit"], keras.Model)
    assert_equal(turns(["fit", "custom_fit"], CustomTrainModel), theirs)
    assert_equal(turns(["custom_fit", "fit"], CustomTrainModel), theirs)
