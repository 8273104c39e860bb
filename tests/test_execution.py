"""Compiled steps: traced once, whatever is trained and however often."""

import threading

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows(96)


def counting(base=CustomTrainModel):
    """A model that counts how often its steps are traced."""

    class Counting(base):
        train_traces = 0
        test_traces = 0

        def train_step(self, data):
            type(self).train_traces += 1
            return super().train_step(data)

        def test_step(self, data):
            type(self).test_traces += 1
            return super().test_step(data)

    return Counting


def sequential():
    return CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])


def train(cls, how, arguments, **options):
    keras.utils.set_random_seed(0)
    model = models.dense(cls)
    model.compile("adam", "sparse_categorical_crossentropy", **options)
    getattr(model, how)(X, Y, verbose=0, validation_data=(X[:40], Y[:40]), **arguments)
    return model


@pytest.mark.parametrize("steps_per_execution", [1, 2, 4])
@pytest.mark.parametrize("rows", [96, 70], ids=["even", "ragged"])
def test_fifty_epochs_and_further_calls_trace_no_more_than_one_epoch(steps_per_execution, rows):
    cls = counting()
    keras.utils.set_random_seed(0)
    model = models.dense(cls)
    model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=steps_per_execution)
    arguments = {"x": X[:rows], "y": Y[:rows], "validation_data": (X[:40], Y[:40]), "verbose": 0}
    model.custom_fit(**arguments)
    traced = cls.train_traces, cls.test_traces
    model.custom_fit(epochs=50, **arguments)
    model.custom_fit(epochs=2, **arguments)
    assert (cls.train_traces, cls.test_traces) == traced


def test_no_more_traces_than_fit_makes():
    ours, theirs = counting(), counting()
    train(ours, "custom_fit", {"epochs": 3})
    train(theirs, "fit", {"epochs": 3})
    assert ours.train_traces <= theirs.train_traces
    assert ours.test_traces <= theirs.test_traces


@pytest.mark.skipif(not hasattr(keras, "ops"), reason="an optimizer of Keras 2 makes its variables in its first step")
def test_no_variable_is_left_to_make_in_the_first_step_so_that_one_trace_is_enough():
    cls = counting()
    keras.utils.set_random_seed(0)
    model = models.dense(cls)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.custom_fit(X, Y, verbose=0)
    assert cls.train_traces == 1


@pytest.mark.skipif(not hasattr(keras, "ops"), reason="an optimizer of Keras 2 makes its variables in its first step")
@pytest.mark.parametrize("build", [models.dense, lambda cls: sequential()], ids=["functional", "sequential"])
def test_the_metrics_are_made_before_the_first_step_so_that_one_trace_is_enough(build):
    traces = []

    def loss(y, y_pred):
        traces.append(1)
        return keras.losses.sparse_categorical_crossentropy(y, y_pred)

    keras.utils.set_random_seed(0)
    model = build(CustomTrainModel)
    model.compile(keras.optimizers.SGD(), loss, metrics=["accuracy"])
    model.custom_fit(X, Y, verbose=0)
    assert len(traces) == 1


def test_data_of_another_length_traces_no_step_again():
    cls = counting()
    model = train(cls, "custom_fit", {})
    traced = cls.train_traces
    model.custom_fit(X[:64], Y[:64], verbose=0)
    assert cls.train_traces == traced


def test_compile_again_changes_what_a_step_does():
    model = train(CustomTrainModel, "custom_fit", {})
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    before = model.get_weights()
    model.custom_fit(X, Y, verbose=0)
    for now, then in zip(model.get_weights(), before):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("switch", ["model.run_eagerly", "tf.config"])
def test_eager_can_be_switched_on_between_calls(switch):
    eager = []

    class Watch(CustomTrainModel):
        def train_step(self, data):
            eager.append(tf.executing_eagerly())
            return super().train_step(data)

    model = train(Watch, "custom_fit", {})
    assert not any(eager)
    eager.clear()
    if switch == "tf.config":
        tf.config.run_functions_eagerly(True)
    else:
        model.run_eagerly = True
    model.custom_fit(X, Y, verbose=0)
    assert eager == [True] * 3


def test_logs_stay_on_the_device_until_they_are_needed():
    """No step's logs are turned into numbers while no callback has a batch hook and no progress bar is shown."""
    from customfit import compat

    read = []
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pythonify_logs", "epoch_logs"):
            original = getattr(compat, name)
            patch.setattr(compat, name, lambda logs, original=original: read.append(logs) or original(logs))
        model.custom_fit(X, Y, batch_size=2, verbose=0, log_every=16)
    # 48 steps: three lines, and the epoch's own logs from the last step and from the metrics.
    assert len(read) == 3 + 2


# ------------------------------------------------------------------------------------------------------------ blocks


def block_sizes(model, callbacks=(), epochs=20, **arguments):
    """The sizes of the blocks of a run."""
    from customfit.training import TrainingSession

    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        original = TrainingSession.train_block
        patch.setattr(
            TrainingSession, "train_block", lambda self, block: sizes.append(block.count) or original(self, block)
        )
        model.custom_fit(X, Y, batch_size=2, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)
    return sizes


def compiled_model(**options):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", **options)
    return model


def idle_callbacks(folder):
    return {
        "none": [],
        "ModelCheckpoint": [keras.callbacks.ModelCheckpoint(str(folder / "w.weights.h5"), save_weights_only=True)],
        "BackupAndRestore": [keras.callbacks.BackupAndRestore(str(folder / "backup"))],
        "TensorBoard": [keras.callbacks.TensorBoard(str(folder / "logs"))],
        "EarlyStopping": [
            keras.callbacks.EarlyStopping("loss", patience=100),
            keras.callbacks.CSVLogger(str(folder / "log")),
        ],
    }


@pytest.mark.parametrize("name", ["none", "ModelCheckpoint", "BackupAndRestore", "TensorBoard", "EarlyStopping"])
def test_blocks_stay_long_beside_callbacks_without_batch_hooks(name, tmp_path):
    sizes = block_sizes(compiled_model(), idle_callbacks(tmp_path)[name])
    assert sum(sizes) == 20 * 48
    assert max(sizes) > 4


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("name", ["lambda", "TerminateOnNaN", "ModelCheckpoint", "TensorBoard"])
def test_a_callback_with_a_batch_hook_gets_steps_by_steps_per_execution(name, steps_per_execution, tmp_path):
    callback = {
        "lambda": keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
        "TerminateOnNaN": keras.callbacks.TerminateOnNaN(),
        "ModelCheckpoint": keras.callbacks.ModelCheckpoint(
            str(tmp_path / "w.weights.h5"), save_weights_only=True, save_freq=1000
        ),
        "TensorBoard": keras.callbacks.TensorBoard(str(tmp_path), update_freq="batch", write_steps_per_second=True),
    }[name]
    sizes = block_sizes(compiled_model(steps_per_execution=steps_per_execution), [callback], epochs=2)
    assert set(sizes) == {steps_per_execution}


def test_no_block_crosses_a_line_of_log_every(capsys):
    sizes = block_sizes(compiled_model(), log_every=7)
    assert max(sizes) <= 7
    assert len(capsys.readouterr().out.strip().splitlines()) == 20 * 48 // 7


# -------------------------------------------------------------------------------------------------------- generators


@pytest.mark.parametrize("sequence", [False, True])
def test_python_works_on_the_next_batch_while_a_step_runs(sequence):
    """The step waits, in the graph, until the batch after its own has been asked for: without a thread, in vain."""
    asked = [threading.Event() for _ in range(8)]

    def batch(index):
        asked[index].set()
        return np.full((2, 8), index, "float32"), Y[:2]

    class Batches(keras.utils.Sequence):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return batch(index)

    class Waits(CustomTrainModel):
        def train_step(self, data):
            index = tf.cast(data[0][0, 0], tf.int32)
            wait = lambda index: asked[min(int(index) + 1, 7)].wait(timeout=30)
            tf.debugging.Assert(tf.py_function(wait, [index], tf.bool), [index])
            return super().train_step(data)

    model = models.dense(Waits)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.custom_fit(Batches() if sequence else map(batch, range(8)), verbose=0, shuffle=False)
    assert int(model.optimizer.iterations.numpy()) == 8


def test_an_error_in_a_generator_surfaces_at_its_step():
    def batches():
        for _ in range(20):
            yield X[:4], Y[:4]
        raise RuntimeError("the file is broken")

    model = compiled_model()
    model.custom_fit(X, Y, verbose=0)
    before = int(model.optimizer.iterations.numpy())
    with pytest.raises(Exception, match="the file is broken"):
        model.custom_fit(batches(), verbose=0, steps_per_epoch=100)
    assert int(model.optimizer.iterations.numpy()) - before == 20


@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_logs_of_unknown_shape(data):
    class Measures(CustomTrainModel):
        def train_step(self, data):
            logs = super().train_step(data)
            return {**logs, "mine": tf.numpy_function(lambda x: x.sum(), [data[0]], tf.float32)}

    histories = []
    for how in ("custom_fit", "fit"):
        keras.utils.set_random_seed(0)
        model = models.dense(Measures)
        model.compile("adam", "sparse_categorical_crossentropy")
        rows = (X, Y) if data == "arrays" else (tf.data.Dataset.from_tensor_slices((X, Y)).batch(32),)
        histories.append(getattr(model, how)(*rows, verbose=0, shuffle=False, epochs=2).history)
    assert histories[0] == histories[1]
    assert "mine" in histories[0]
