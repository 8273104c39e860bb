"""`OneCycle`: the rate and momentum of each update, in the graph; and `find_learning_rate`, which leaves no trace."""

import copy
import json

import numpy as np
import pytest

import customfit
from customfit import CustomTrainModel
from customfit.callbacks import OneCycle, StepHistory
from customfit.checkpoint import random_states, variables_of
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled
from tests.resume.cut import assert_resumes

X, Y = models.rows(70)
METHODS = ("fit", "custom_fit")
SGD = keras.optimizers.SGD


def train(how, *callbacks, optimizer, build=models.dense, **options):
    keras.utils.set_random_seed(1)
    model = compiled(build, optimizer=lambda: optimizer, **options)
    getattr(model, how)(X, Y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def curve(begin, peak, end, updates, warmup):
    """By hand."""
    values = []
    for update in range(updates):
        share = update / (updates - 1)
        if share < warmup:
            a, b, part = begin, peak, share / warmup
        else:
            a, b, part = peak, end, (share - warmup) / (1 - warmup)
        values.append(float(b + (a - b) / 2 * (1 + np.cos(np.pi * part))))
    return values


@pytest.mark.supports("Callbacks", "`OneCycle`: rate and momentum of each step")
@pytest.mark.parametrize("how", METHODS)
def test_the_rate_of_each_step_is_that_of_the_cycle(how):
    steps = StepHistory()
    train(how, OneCycle(0.5, warmup=0.25, start_factor=10, end_factor=100), steps, optimizer=SGD(0.01))
    np.testing.assert_allclose(steps.history["learning_rate"], curve(0.05, 0.5, 0.0005, 20, 0.25), rtol=1e-4)


class ByHand(keras.callbacks.Callback):
    """The same by assigning before each step, as one does under `run_eagerly=True`."""

    def __init__(self, rates, momenta):
        super().__init__()
        self.values = zip(rates, momenta)

    def on_train_batch_begin(self, batch, logs=None):
        rate, momentum = next(self.values)
        self.model.optimizer.learning_rate = rate
        if momentum is not None:
            name = "beta_1" if hasattr(self.model.optimizer, "beta_1") else "momentum"
            setattr(self.model.optimizer, name, momentum)


@pytest.mark.parametrize("how", METHODS)
@pytest.mark.parametrize(
    ("make", "cycles_momentum"),
    [
        (lambda: SGD(0.01), False),
        (lambda: SGD(0.01, momentum=0.9), True),
        (lambda: SGD(0.01, momentum=0.9, nesterov=True), True),
        (lambda: keras.optimizers.Adam(0.01), True),
        (lambda: keras.optimizers.Nadam(0.01), None),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "nadam"],
)
def test_rate_and_momentum_train_as_if_they_were_set_before_each_step(how, make, cycles_momentum):
    if isinstance(make(), keras.optimizers.Nadam) and not hasattr(keras, "ops"):
        pytest.skip("Keras 2's Nadam counts in Python: it trains another way if it runs eagerly")
    cycle = OneCycle(0.05, momentum=(0.8, 0.9))
    rates = curve(0.002, 0.05, 0.002 / 1e4, 20, 0.3)
    momenta = curve(0.9, 0.8, 0.9, 20, 0.3) if cycles_momentum in (True, None) else [None] * 20
    optimizer = make()
    ours = train(how, cycle, optimizer=optimizer)
    theirs = train("custom_fit", ByHand(rates, momenta), optimizer=make(), run_eagerly=True)
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, rtol=2e-3, atol=2e-5)
    json.dumps({name: value for name, value in optimizer.get_config().items() if name in ("momentum", "beta_1")})


def test_momentum_is_what_it_was_and_the_next_call_is_not_scheduled():
    optimizer = keras.optimizers.Adam(0.01)
    model = train("custom_fit", OneCycle(0.05), optimizer=optimizer)
    assert optimizer.beta_1 == 0.9
    last = float(optimizer.learning_rate)
    optimizer.learning_rate = 0.25
    model.custom_fit(X, Y, verbose=0)
    assert float(optimizer.learning_rate) == 0.25
    assert last == pytest.approx(0.05 / 25 / 1e4)


def test_groups_keep_their_proportion():
    steps = StepHistory()
    train("custom_fit", OneCycle(0.5), steps, optimizer=[("kernel", SGD(0.1)), ("bias", SGD(0.02))])
    rates = steps.history
    np.testing.assert_allclose(rates["learning_rate/bias"], rates["learning_rate/kernel"] * 0.2, rtol=1e-5)
    assert rates["learning_rate/kernel"].max() == pytest.approx(0.5, rel=0.02)


def test_accumulation_counts_updates():
    steps = StepHistory()
    train("custom_fit", OneCycle(0.5), steps, optimizer=SGD(0.1), gradient_accumulation_steps=2)
    by_update = curve(0.02, 0.5, 0.02 / 1e4, 12, 0.3)  # 3 in each epoch of 5 steps
    of_steps = [epoch * 3 + min(step // 2, 2) for epoch in range(4) for step in range(5)]
    np.testing.assert_allclose(steps.history["learning_rate"], np.take(by_update, of_steps), rtol=1e-4)


def test_steps_still_run_in_blocks():
    calls = []
    model = compiled(models.dense)
    model.custom_fit(X, Y, batch_size=1, verbose=0)

    class Watch(OneCycle):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            step = self.model._compiled_steps.train
            if not calls:
                run = step.run
                step.run = lambda block: (calls.append(block.count), run(block))[1]

    model.custom_fit(X, Y, batch_size=1, verbose=0, epochs=4, callbacks=[Watch(0.1)])
    assert sum(calls) == 280
    assert len(calls) < 60


def test_it_is_resumed(tmp_path):
    arguments = lambda: {"x": X, "y": Y, "callbacks": [OneCycle(0.05)]}
    for build, cuts in ((models.dropout, (7, 10)),):
        assert_resumes(build, arguments, tmp_path, cuts=cuts, optimizer=lambda: keras.optimizers.Adam(0.01))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`max_rate` must be a positive number. Received: max_rate=-1"):
        OneCycle(-1)
    with pytest.raises(ValueError, match="`momentum` must be"):
        OneCycle(0.1, momentum=(0.9, 0.8))
    with pytest.raises(ValueError, match="`warmup` must be between 0 and 1"):
        OneCycle(0.1, warmup=1)
    with pytest.raises(ValueError, match="learning rate that is a number"):
        train("custom_fit", OneCycle(0.1), optimizer=SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    unknown = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).filter(lambda x, y: True)
    with pytest.raises(ValueError, match=r"`OneCycle\(updates=\)` must be given"):
        compiled(models.dense).custom_fit(unknown, verbose=0, callbacks=[OneCycle(0.1)])
    with pytest.raises(TypeError, match="must be given to a `CustomTrainModel`"):
        compiled(models.dense, keras.Model).fit(X, Y, verbose=0, callbacks=[OneCycle(0.1)])


# ------------------------------------------------------------------------------------------- find_learning_rate


def search(model, x=X, y=Y, **options):
    return customfit.find_learning_rate(model, x, y, **{"batch_size": None if y is None else 16, **options})


def state(model):
    variables = {name: variable.numpy() for name, variable in variables_of(model).items()}
    return copy.deepcopy((variables, random_states()))


@pytest.mark.parametrize("build", [models.dropout, models.batch_norm], ids=["dropout", "batch_norm"])
@pytest.mark.parametrize("trained", [False, True])
def test_the_search_leaves_no_trace(build, trained):
    keras.utils.set_random_seed(2)
    model = compiled(build, optimizer="adam", gradient_metrics=["grad_norm"], clip_percentile=90)
    if trained:
        model.custom_fit(X, Y, batch_size=16, verbose=0)
    else:
        model.optimizer.build(model.trainable_variables)
    (before, random_before), attributes = state(model), set(vars(model))
    found = search(model)
    after, random_after = state(model)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, name)
    np.testing.assert_equal(random_after, random_before)
    assert set(vars(model)) - attributes <= {"_compiled_steps"}
    assert len(found.rates) > 20


@pytest.mark.parametrize("data", ["arrays", "dataset"])
@pytest.mark.parametrize("build", [models.dropout, models.subclassed], ids=["functional", "subclassed"])
def test_training_afterwards_ends_with_the_bits_of_training_alone(build, data):
    def run(searches):
        keras.utils.set_random_seed(3)
        model = compiled(build, optimizer="adam")
        shuffled = tf.data.Dataset.from_tensor_slices((X, Y)).cache().shuffle(70).batch(16)
        x, y = (X, Y) if data == "arrays" else (shuffled, None)
        arguments = {"batch_size": 16} if data == "arrays" else {}
        for _ in range(2):
            model.custom_fit(x, y, verbose=0, epochs=2, **arguments)
            if searches:
                search(model, x, y)
        return model.get_weights()

    for mine, other in zip(run(True), run(False)):
        np.testing.assert_array_equal(mine, other)


def test_an_unbuilt_model_is_built_and_trains_as_if_it_had_not_been_searched():
    def run(searches):
        keras.utils.set_random_seed(3)
        model = compiled(models.subclassed, optimizer="adam")
        if searches:
            search(model)
        model.custom_fit(X, Y, batch_size=16, verbose=0)
        return model.get_weights()

    for mine, other in zip(run(True), run(False)):
        np.testing.assert_array_equal(mine, other)


def linear():
    x = np.random.RandomState(0).randn(256, 8).astype("float32")
    return x, x @ np.arange(8, dtype="float32")[:, None]


def test_the_suggestion_trains_and_rates_far_beside_it_do_not():
    x, y = linear()

    def loss(rate):
        keras.utils.set_random_seed(0)
        model = customfit.CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(1)])
        model.compile(SGD(rate), "mse")
        found = customfit.find_learning_rate(model, x, y, batch_size=32)
        history = model.custom_fit(x, y, batch_size=32, epochs=3, verbose=0)
        return found.suggestion, history.history["loss"][-1]

    suggestion, _ = loss(0.01)
    losses = [loss(suggestion * factor)[1] for factor in (0.01, 1, 100)]
    assert losses[1] < 0.5 * losses[0]
    assert not losses[2] < losses[1]


def test_a_generator_is_refused_and_a_function_is_called():
    def batches():
        for _ in range(200):
            yield X[:16], Y[:16]

    with pytest.raises(ValueError, match="reading anything else would change it"):
        search(compiled(models.dense), batches(), None)
    assert len(search(compiled(models.dense), batches, None).rates) > 20


def test_the_step_of_the_search_may_be_refused_or_not_finite():
    model = compiled(models.dense, nonfinite="raise")
    assert len(search(model, highest=1e30).rates) > 5
    with pytest.raises(ValueError, match="learning rate that is a number"):
        search(compiled(models.dense, optimizer=SGD(keras.optimizers.schedules.CosineDecay(0.1, 10))))


def test_the_plot_marks_the_suggestion():
    pytest.importorskip("matplotlib")
    model = customfit.CustomTrainSequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    found = search(model, *linear())
    assert f"suggestion: {found.suggestion:.2g}" in [line.get_label() for line in found.plot().lines]
    assert isinstance(compiled(models.dense), CustomTrainModel)
