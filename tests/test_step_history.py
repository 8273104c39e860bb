"""`StepHistory`: the values of every step, written in the graph: no number changes, no block is split, all resumes."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.callbacks import StepHistory
from customfit.callbacks.step_history import ROWS
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train
from tests.resume.cut import assert_resumes

X, Y = models.rows(70)
METHODS = ("fit", "custom_fit")


class EveryStep(keras.callbacks.Callback):
    """What a callback with a batch hook sees of each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append({name: float(value) for name, value in logs.items()})


@pytest.mark.supports("Callbacks", "`StepHistory`: the values of every step")
@pytest.mark.parametrize("how", METHODS)
def test_the_logs_are_those_that_a_batch_hook_sees(how):
    watch, steps = EveryStep(), StepHistory()
    train(models.dropout, how, {"x": X, "y": Y, "callbacks": [watch]})
    train(models.dropout, how, {"x": X, "y": Y, "callbacks": [steps]})
    assert steps.steps.tolist() == list(range(1, 16))
    for name in watch.seen[0]:
        np.testing.assert_array_equal(steps.history[name], [seen[name] for seen in watch.seen])


@pytest.mark.parametrize("how", METHODS)
def test_the_batch_s_own_loss_is_that_of_the_batch(how):
    steps = StepHistory()
    keras.utils.set_random_seed(1)
    model = compiled(models.dense, optimizer=lambda: keras.optimizers.SGD(0.0))
    getattr(model, how)(X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=[steps])
    for index, loss in enumerate(steps.history["batch_loss"]):
        rows = slice(16 * index, 16 * index + 16)
        assert loss == pytest.approx(model.evaluate(X[rows], Y[rows], verbose=0)[0], rel=1e-5)
    assert len(steps.history["batch_loss"]) == 5


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}, {"nonfinite": "skip"}], ids=str)
def test_it_changes_no_number_and_splits_no_block(options):
    steps = StepHistory()
    build = models.dense if "jit_compile" in options else models.dropout  # which XLA does not repeat on Keras 2
    ours = train(build, "custom_fit", {"x": X, "y": Y, "callbacks": [steps]}, **options)
    theirs = train(build, "custom_fit", {"x": X, "y": Y}, **options)
    assert_equal(ours, theirs)
    assert len(steps.steps) == 15
    assert np.isfinite(steps.history["batch_loss"]).all()


def test_steps_run_in_blocks():
    calls = []
    model = compiled(models.dense)
    model.custom_fit(X, Y, batch_size=1, verbose=0)  # traces, and paces blocks
    model.custom_fit(X, Y, batch_size=1, verbose=0, epochs=2, callbacks=[StepHistory()])
    train_step = model._compiled_steps.train
    run = train_step.run
    train_step.run = lambda block: (calls.append(block.count), run(block))[1]
    model.custom_fit(X, Y, batch_size=1, verbose=0, epochs=3, callbacks=[StepHistory()])
    assert sum(calls) == 210
    assert max(calls) > 20


@pytest.mark.parametrize("how", METHODS)
def test_every_third_step_over_all_epochs(how):
    all_of_them, third = StepHistory(), StepHistory(every=3)
    for steps in (all_of_them, third):
        train(models.dense, how, {"x": X, "y": Y, "callbacks": [steps], "epochs": 4})
    assert third.steps.tolist() == [3, 6, 9, 12, 15, 18]
    for name, values in third.history.items():
        np.testing.assert_array_equal(values, all_of_them.history[name][2::3])


@pytest.mark.parametrize(("how", "options"), [("custom_fit", {}), ("fit", {}), ("fit", {"steps_per_execution": 7})])
def test_an_epoch_may_have_more_steps_than_the_buffer_has_rows(how, options):
    x, y = models.rows(2 * ROWS + 100)
    steps = StepHistory()
    model = compiled(models.dense, optimizer=lambda: keras.optimizers.SGD(0.0), metrics=None, **options)
    getattr(model, how)(x, y, batch_size=1, shuffle=False, verbose=0, callbacks=[steps])
    assert steps.steps.tolist() == list(range(1, len(x) + 1))
    losses = -np.log(model.predict(x, verbose=0)[np.arange(len(x)), y])
    np.testing.assert_allclose(steps.history["batch_loss"], losses, rtol=1e-4)


def test_learning_rates_are_those_of_each_update():
    steps = StepHistory()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [steps]}, optimizer=keras.optimizers.SGD(schedule))
    np.testing.assert_allclose(steps.history["learning_rate"], 0.1 * 0.5 ** np.arange(15), rtol=1e-5)


def test_it_is_resumed(tmp_path):
    left_alone, cut = StepHistory(), StepHistory()
    arguments = {"x": X, "y": Y, "epochs": 3}
    made = iter([left_alone, StepHistory(), StepHistory(), cut])
    assert_resumes(models.dropout, lambda: {**arguments, "callbacks": [next(made)]}, tmp_path, cuts=(4, 12))
    assert cut.steps.tolist() == left_alone.steps.tolist() == list(range(1, 16))
    assert cut.history.keys() == left_alone.history.keys()
    for name, values in left_alone.history.items():
        np.testing.assert_array_equal(cut.history[name], values, name)


def test_a_checkpoint_can_be_resumed_with_and_without_it(tmp_path):
    made = iter([[], [StepHistory()], []])
    assert_resumes(models.dense, lambda: {"x": X, "y": Y, "callbacks": next(made)}, tmp_path, cuts=(7,))


def test_a_step_of_the_user_s_own():
    class Own(CustomTrainModel):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
            self.apply_gradients(self.compute_gradients(loss, tape))
            return {"mine": loss, "vector": tf.ones([2])}

    steps = StepHistory()
    model = compiled(models.dense, Own)
    model.custom_fit(X, Y, batch_size=16, verbose=0, callbacks=[steps])
    assert set(steps.history) == {"mine", "learning_rate"}
    assert len(steps.history["mine"]) == 5


def test_the_plot_shows_the_batch_loss_beside_the_mean():
    pytest.importorskip("matplotlib")
    steps = StepHistory()
    with pytest.raises(ValueError, match="train with this callback first"):
        steps.plot()
    train(models.dense, "custom_fit", {"x": X, "y": Y, "callbacks": [steps]})
    assert [line.get_label() for line in steps.plot().lines] == ["batch_loss", "loss"]
    with pytest.raises(ValueError, match="must be a log that was recorded.*'lose'"):
        steps.plot("lose")


def test_a_plain_model_is_refused():
    with pytest.raises(TypeError, match="must be given to a `CustomTrainModel`"):
        compiled(models.dense, keras.Model).fit(X, Y, verbose=0, callbacks=[StepHistory()])
