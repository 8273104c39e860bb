"""Where `custom_fit` and `fit` differ on purpose, or by a rounding: the list of docs/differences.md, in numbers."""

import math

import numpy as np
import pytest

from customfit import CustomTrainModel, TrainingSession, compat
from customfit.compat import keras, tf
from customfit.testing import check_parity
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows()  # 70 rows: seven batches of ten
NEW = compat.IS_KERAS_3 and compat.KERAS_VERSION >= (3, 7)


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)


def steps_after_each_epoch(how, data, epochs=2, steps_per_execution=1, **arguments):
    """What `optimizer.iterations` is after each epoch, and the losses."""
    keras.utils.set_random_seed(3)
    base = CustomTrainModel if how == "custom_fit" else keras.Model
    model = compiled(models.dense, base, steps_per_execution=steps_per_execution)
    seen = []
    see = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(int(model.optimizer.iterations.numpy()))
    )
    history = getattr(model, how)(data, epochs=epochs, verbose=0, callbacks=[see], **arguments)
    return seen, history.history["loss"]


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_an_epoch_has_exactly_steps_per_epoch():
    """`fit` of Keras 3 runs whole executions: of two steps here, so six steps for an epoch of five."""
    given = {"steps_per_epoch": 5, "steps_per_execution": 2}
    assert steps_after_each_epoch("custom_fit", batches().repeat(), **given)[0] == [5, 10]
    assert steps_after_each_epoch("fit", batches().repeat(), **given)[0] == ([6, 12] if compat.IS_KERAS_3 else [5, 10])


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_a_last_execution_that_is_not_full_counts_its_steps():
    """`fit` of Keras 3.3 counts one more: seven batches are four executions of two."""
    ours, our_losses = steps_after_each_epoch("custom_fit", batches(), steps_per_execution=2)
    theirs, their_losses = steps_after_each_epoch("fit", batches(), steps_per_execution=2)
    assert ours == [7, 14]
    assert theirs == ([8, 16] if compat.IS_KERAS_3 and not NEW else [7, 14])
    assert our_losses == their_losses


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_data_of_unknown_size_that_ends_with_an_epoch():
    """`fit` trains the second epoch on nothing."""
    given = {"steps_per_epoch": 7, "epochs": 3}
    unknown = lambda: batches().filter(lambda x, y: True)
    assert steps_after_each_epoch("custom_fit", unknown(), **given)[0] == ([7, 14, 21] if compat.IS_KERAS_3 else [7])
    theirs, losses = steps_after_each_epoch("fit", unknown(), **given)
    assert theirs == ([7, 8, 15] if compat.IS_KERAS_3 else [7, 8])
    assert losses[1] == 0


def order_seen(how, data):
    """The rows of each epoch, in the order in which they are trained on."""
    rows = []
    model = compiled(models.dense, run_eagerly=True)
    step = model.train_step
    model.train_step = lambda data: rows.extend(data[0].numpy()[:, 0].tolist()) or step(data)
    if how == "own loop":
        with TrainingSession(model, epochs=3, verbose=0) as session:
            for _ in session.epochs():
                for batch in data:
                    session.train_on(batch)
    else:
        getattr(model, how)(data, epochs=3, verbose=0)
    return np.array_split(rows, 3)


def test_an_own_loop_over_a_dataset_that_shuffles_in_each_epoch():
    """`fit` of Keras 3.7 and newer, and of Keras 2, makes iterators that it does not read: each has its own order."""

    def shuffled(**options):
        return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70, seed=5, **options).batch(10)

    loop, fit = order_seen("own loop", shuffled()), order_seen("fit", shuffled())
    np.testing.assert_array_equal(order_seen("custom_fit", shuffled()), fit)
    if NEW:
        assert not np.array_equal(loop, fit)
        np.testing.assert_array_equal(loop[2], fit[1])  # every second order
    fixed = order_seen("own loop", shuffled(reshuffle_each_iteration=False))
    for how in ("fit", "custom_fit"):
        np.testing.assert_array_equal(order_seen(how, shuffled(reshuffle_each_iteration=False)), fixed)


class Watched(getattr(keras.utils, "PyDataset", keras.utils.Sequence)):
    """Seven batches, which note when `on_epoch_end` is called."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return X[10 * index : 10 * index + 10], Y[10 * index : 10 * index + 10]

    def on_epoch_end(self):
        self.seen.append("data")


def test_when_a_sequence_s_on_epoch_end_is_called():
    """In the last epoch of Keras 2 before that of the callbacks; else when `fit` calls it."""
    ends = {}
    for how in ("fit", "custom_fit"):
        seen = ends[how] = []
        see = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, seen=seen: seen.append("callback"))
        getattr(compiled(models.dense), how)(Watched(seen), epochs=3, verbose=0, callbacks=[see])
    if compat.IS_KERAS_3:
        assert ends["custom_fit"] == ends["fit"]
    else:
        assert ends["fit"] == ["callback", "data"] * 3
        assert ends["custom_fit"] == ["callback", "data"] * 2 + ["data", "callback"]


def test_on_train_end_follows_terminate_on_nan_that_raises():
    parameters = keras.callbacks.TerminateOnNaN.__init__.__code__.co_varnames
    if "raise_error" not in parameters:
        pytest.skip("TerminateOnNaN of this Keras does not raise")
    for how, ends in (("fit", 0), ("custom_fit", 1)):
        ended = []
        see = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(True))  # noqa: B023
        model = compiled(models.dense)
        model.set_weights([np.full_like(weight, math.nan) for weight in model.get_weights()])
        with pytest.raises(RuntimeError, match="NaN"):
            getattr(model, how)(X, Y, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN(raise_error=True), see])
        assert len(ended) == ends


def test_check_parity_recognizes_a_rounding_of_fits_own_graph():
    """Of a Dense with "swish": oneDNN fuses its gradient in the graph of a single step, and rounds otherwise."""

    def build(activation="swish"):
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(8, activation=activation)(inputs)
        model = CustomTrainModel(inputs, keras.layers.Dense(3)(hidden))
        model.compile("adam", "mse")
        return model

    data = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    assert check_parity(lambda: build("relu"), (data, data), batch_size=8)
    report = check_parity(build, (data, data), batch_size=8)
    if report:
        pytest.skip("TensorFlow rounds alike on this processor")
    assert "fit() agrees with custom_fit() if it runs eagerly" in report.message
    assert "TF_ENABLE_ONEDNN_OPTS=0" in report.message
    assert check_parity(build, (data, data), batch_size=8, rtol=1e-6)
