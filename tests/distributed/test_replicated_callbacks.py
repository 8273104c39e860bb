"""On two replicas: callbacks that work in the graph of a step see and set what one device would."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat, find_learning_rate
from customfit.callbacks import OneCycle, PredictionMetrics, StepHistory
from customfit.checkpoint import random_states, variables_of
from customfit.compat import keras, tf
from tests.distributed.test_replicas import under
from tests.parity import models
from tests.parity.compare import assert_equal, compiled
from tests.resume.cut import assert_resumes

if not compat.divides_loss_by_replicas():
    pytest.skip("Keras 3 before 3.8 is refused: tests/distributed/test_refused.py", allow_module_level=True)

X, Y = models.rows(64)
METHODS = ("fit", "custom_fit")
SGD = keras.optimizers.SGD
supports = pytest.mark.supports


def train(strategy, how, *callbacks, rows=64, build=models.dropout, options=None, **arguments):
    model = under(strategy, build, **(options or {}))
    given = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, "callbacks": list(callbacks), **arguments}
    return model, getattr(model, how)(X[:rows], Y[:rows], **given)


class EveryStep(keras.callbacks.Callback):
    """What a callback with a batch hook sees of each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append({name: float(value) for name, value in logs.items()})


# ------------------------------------------------------------------------------------------------------ StepHistory


@supports("Distribution", "`StepHistory`, `OneCycle`, `find_learning_rate`, `PredictionMetrics` on several replicas")
@pytest.mark.parametrize(("how", "rows"), [("custom_fit", 64), ("custom_fit", 37), ("fit", 64)])
def test_the_logs_are_those_that_a_batch_hook_sees(strategy, how, rows):
    watch, steps = EveryStep(), StepHistory()
    theirs = train(strategy, how, watch, rows=rows)
    ours = train(strategy, how, steps, rows=rows)
    assert_equal(ours, theirs)
    for name in watch.seen[0]:
        np.testing.assert_allclose(steps.history[name], [seen[name] for seen in watch.seen], rtol=1e-6)
    np.testing.assert_allclose(steps.history["learning_rate"], 0.01, rtol=1e-6)


@pytest.mark.parametrize("rows", [64, 37, 33])  # the last batch has 16 rows, 5, and one: a replica has none
def test_the_batch_s_own_loss_is_the_mean_over_its_rows(strategy, rows):
    steps = StepHistory(every=1)
    options = {"optimizer": lambda: SGD(0.0)}
    model, _ = train(strategy, "custom_fit", steps, rows=rows, build=models.dense, options=options, epochs=1)
    losses = -np.log(model.predict(X[:rows], verbose=0)[np.arange(rows), Y[:rows]])
    expected = [losses[begin : begin + 16].mean() for begin in range(0, rows, 16)]
    np.testing.assert_allclose(steps.history["batch_loss"], expected, rtol=1e-5)


def test_logs_of_a_step_of_the_user_s_are_reduced_as_fit_does(strategy):
    class Own(CustomTrainModel):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True))) / 2.0
            self.apply_gradients(self.compute_gradients(loss, tape))
            return {"mine": loss}

    def run(callback):
        keras.utils.set_random_seed(3)
        with strategy.scope():
            model = compiled(models.dense, Own)
        model.custom_fit(X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=[callback])
        return callback

    seen = [logs["mine"] for logs in run(EveryStep()).seen]
    np.testing.assert_allclose(run(StepHistory()).history["mine"], seen, rtol=1e-6)


def scoped(strategy, build):
    """`build`, for a model that is compiled under the strategy, with an optimizer that is made there."""

    def make(base):
        class Scoped(base):
            def compile(self, optimizer, *args, **kwargs):
                with strategy.scope():
                    super().compile(SGD(0.01, momentum=0.9), *args, **kwargs)

        with strategy.scope():
            return build(Scoped)

    return make


def test_both_are_resumed(strategy, tmp_path):
    left_alone, cut = StepHistory(), StepHistory()
    made = iter([left_alone, StepHistory(), cut])
    arguments = lambda: {"x": X, "y": Y, "callbacks": [OneCycle(0.05), next(made)]}
    assert_resumes(scoped(strategy, models.batch_norm), arguments, tmp_path, cuts=(6,))
    assert cut.steps.tolist() == list(range(1, 13))
    for name, values in left_alone.history.items():
        np.testing.assert_array_equal(cut.history[name], values, name)


# --------------------------------------------------------------------------------------------------------- OneCycle


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: [("kernel", SGD(0.1)), ("bias", SGD(0.02))],
    ],
    ids=["momentum", "adam", "groups"],
)
def test_it_trains_as_on_one_device(strategy, one_device, how, optimizer):
    found = []
    for each in (one_device, strategy):
        steps, options = StepHistory(), {"optimizer": optimizer}
        model, _ = train(each, how, OneCycle(0.2), steps, build=models.dense, options=options)
        found.append((model, steps.history))
    (one, one_history), (two, two_history) = found
    for name in one_history:
        if name.startswith("learning_rate"):
            np.testing.assert_allclose(two_history[name], one_history[name], rtol=1e-6)
    for single, mine in zip(one.get_weights(), two.get_weights()):
        np.testing.assert_allclose(mine, single, rtol=2e-4, atol=2e-6)  # sums in another order
    left = [getattr(each, "beta_1", getattr(each, "momentum", 0.0)) for each in compat.optimizers_in(two.optimizer)]
    assert set(left) <= {0.9, 0.0}  # numbers, as they were, and no tensors of a graph


def test_accumulation_counts_updates(strategy):
    steps, options = StepHistory(), {"optimizer": lambda: SGD(0.1, momentum=0.9), "gradient_accumulation_steps": 2}
    train(strategy, "custom_fit", OneCycle(0.5), steps, options=options)
    rates = steps.history["learning_rate"]
    np.testing.assert_array_equal(rates[::2], rates[1::2])
    assert len(set(rates)) == 4


# ----------------------------------------------------------------------------------------------- find_learning_rate


@pytest.mark.parametrize("build", [models.batch_norm, models.subclassed], ids=["batch_norm", "subclassed"])
def test_the_search_leaves_no_trace(strategy, build):
    def run(searches):
        model = under(strategy, build, optimizer="adam")
        model.custom_fit(X, Y, batch_size=16, verbose=0)
        before = {name: variable.numpy() for name, variable in variables_of(model).items()}, random_states()
        if searches:
            assert len(find_learning_rate(model, X, Y, batch_size=16).rates) > 20
            after = {name: variable.numpy() for name, variable in variables_of(model).items()}, random_states()
            np.testing.assert_equal(after, before)
        model.custom_fit(X, Y, batch_size=16, verbose=0)
        return model.get_weights()

    for mine, other in zip(run(True), run(False)):
        np.testing.assert_array_equal(mine, other)


# ------------------------------------------------------------------------------------------------ PredictionMetrics


@pytest.mark.parametrize("how", METHODS)
def test_predictions_are_those_of_all_replicas_in_the_order_of_the_rows(strategy, how):
    seen = {}
    metrics = PredictionMetrics({"rows": lambda y, p: seen.update(y=y, p=p) or len(y)})
    weights = np.linspace(0.1, 2.0, 30).astype("float32")
    weighted = PredictionMetrics({"weight": lambda y, p, sample_weight=None: sample_weight[-1]})
    validation = {"validation_data": (X[:30], Y[:30], weights)}
    model, history = train(strategy, how, metrics, weighted, build=models.dense, **validation)
    assert history.history["val_rows"] == [30.0] * 2
    assert history.history["val_weight"] == [2.0] * 2
    np.testing.assert_array_equal(np.ravel(seen["y"]), Y[:30])
    np.testing.assert_allclose(seen["p"], model.predict(X[:30], verbose=0), rtol=1e-5)


def test_a_replica_without_rows_adds_none(strategy):
    metrics = PredictionMetrics({"rows": lambda y, p: len(y)})
    validation = {"validation_data": (X[:3], Y[:3]), "validation_batch_size": 1}
    _, history = train(strategy, "custom_fit", metrics, **validation)
    assert history.history["val_rows"] == [3.0] * 2


def test_predictions_of_other_processes_are_refused():
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = compiled(models.dense)
    with pytest.raises(NotImplementedError, match="workers of other processes.*CollectiveAllReduceStrategy"):
        model.custom_fit(X, Y, verbose=0, callbacks=[PredictionMetrics({"rows": lambda y, p: len(y)})])
