"""Dry runs: a try on few batches leaves nothing behind, and a plan takes no step."""

import inspect

import numpy as np
import pytest

from customfit import Checkpoints, CustomTrainModel, DryRun, Every
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows(70)
ROWS = {"x": X, "y": Y}
VALIDATION = {"validation_data": (X, Y)}


@pytest.mark.parametrize(("batches", "steps"), [(True, 1), (3, 3), (100, 5)])
def test_a_dry_run_is_so_many_batches_of_each_and_saves_nothing(batches, steps, tmp_path):
    tested = []
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "model.keras")),
        keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
        keras.callbacks.LambdaCallback(on_train_begin=lambda logs: tested.append("heard")),
    ]
    given = {**ROWS, **VALIDATION, "epochs": 50, "max_time": 1e-9, "callbacks": callbacks, "dry_run": batches}
    model, history = train(models.dense, "custom_fit", {**given, "checkpoint": tmp_path / "checkpoints"})
    assert int(model.optimizer.iterations.numpy()) == steps
    assert history.epoch == [0]
    assert "val_loss" in history.history
    assert tested == ["heard"]
    assert not list(tmp_path.iterdir())


def test_a_dry_run_validates_so_many_batches():
    model, history = train(models.dense, "custom_fit", {**ROWS, **VALIDATION, "dry_run": 2})
    assert (
        "val_loss"
        in train(models.dense, "custom_fit", {**ROWS, **VALIDATION, "dry_run": 1, "validation_freq": 3})[1].history
    )
    assert history.history["val_loss"] == [model.evaluate(X[:32], Y[:32], batch_size=16, verbose=0)[0]]


@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_overfit_batches_trains_on_the_first_ones_again_and_again(data):
    rows = {**ROWS, "shuffle": True}
    if data == "dataset":
        rows = {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), "batch_size": None}
    ours = train(models.dropout, "custom_fit", {**rows, "epochs": 3, "dry_run": DryRun(overfit_batches=2)})
    few = {"x": X[:32], "y": Y[:32], "epochs": 3, "shuffle": False}
    assert_equal(ours, train(models.dropout, "fit", few, base=keras.Model))


def test_overfit_batches_of_data_that_changes_are_the_same_ones():
    seen = []

    def build(base):
        class Looks(base):
            def train_step(self, data):
                seen.append(np.asarray(data[0]))
                return super().train_step(data)

        return models.dense(Looks)

    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70).batch(16)
    train(build, "custom_fit", {"x": data, "batch_size": None, "dry_run": DryRun(overfit_batches=2)}, run_eagerly=True)
    for epoch in (2, 4):
        np.testing.assert_array_equal(seen[0:2], seen[epoch : epoch + 2])


def test_sanity_validation_finds_a_mistake_before_the_first_step_and_leaves_no_trace():
    model = compiled(models.dense)
    with pytest.raises(Exception, match=r"shape|incompatible|dimension"):
        model.custom_fit(X, Y, validation_data=(X[:, :5], Y), dry_run=DryRun(sanity_validation=1), verbose=0)
    assert int(model.optimizer.iterations.numpy()) == 0
    tested = []
    listener = keras.callbacks.LambdaCallback()
    listener.on_test_begin = lambda logs=None: tested.append(True)
    given = {**ROWS, **VALIDATION}
    ours = train(
        models.dropout, "custom_fit", {**given, "dry_run": DryRun(sanity_validation=2), "callbacks": [listener]}
    )
    assert_equal(ours, train(models.dropout, "custom_fit", given))
    assert len(tested) == 3  # after each epoch


@pytest.mark.parametrize("dataset", [False, True])
def test_a_plan_counts_and_takes_no_step(dataset, tmp_path):
    model = compiled(models.dense, optimizer="adam")
    weights = model.get_weights()
    rows = {"x": X, "y": Y, "batch_size": 16}
    if dataset:
        rows = {"x": tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(16)}
    given = {**rows, **VALIDATION, "epochs": 6, "validation_freq": 2, "checkpoint": tmp_path}
    plan = model.plan_fit(**given)
    assert (plan.epochs, plan.validations, plan.checkpoints) == (6, 3, 6)
    assert plan.steps == plan.updates == (None if dataset else 30)
    size = 4 * sum(weight.size for weight in weights)
    assert plan.parameter_bytes == plan.gradient_bytes == size
    assert plan.optimizer_bytes == 2 * size  # Adam's
    assert plan.data_bytes == (None if dataset else 70 * 8 * 4 + Y.nbytes)
    assert plan.conflicts == ()
    printed = str(plan)
    assert "validations 3" in printed
    assert ("updates     not known" if dataset else "updates     30") in printed
    assert all(np.array_equal(mine, before) for mine, before in zip(model.get_weights(), weights))
    assert not list(tmp_path.iterdir())


def test_a_plan_counts_by_intervals_and_limits(tmp_path):
    given = {**ROWS, **VALIDATION, "batch_size": 16, "epochs": 6, "max_steps": 23}
    given["validation_freq"] = Every(steps=5)
    plan = compiled(models.dense).plan_fit(**given, checkpoint=Checkpoints(tmp_path, every=Every(steps=10)))
    assert (plan.epochs, plan.steps, plan.validations, plan.checkpoints) == (5, 23, 4, 3)


@pytest.mark.parametrize("every", [Every(epochs=1), Every(steps=4)])
@pytest.mark.parametrize("cut", [7, 10, 12])
def test_a_plan_of_what_a_checkpoint_has_left_is_what_happens(cut, every, tmp_path):
    """A window of accumulation that is open at the cut, an epoch's shorter last one, the limit: all are counted."""
    passes = []
    listener = keras.callbacks.LambdaCallback()
    listener.on_test_begin = lambda logs=None: passes.append(True)
    given = {**ROWS, **VALIDATION, "epochs": 5, "validation_freq": 2, "callbacks": [listener], "max_steps": 23}
    given["checkpoint"] = Checkpoints(tmp_path / "kept", every=every, keep=100)
    train(models.dense, "custom_fit", {**given, "max_steps": cut}, gradient_accumulation_steps=2)
    made = sorted((tmp_path / "kept").iterdir())
    passes.clear()
    plan = train(models.dense, "plan_fit", given, gradient_accumulation_steps=2)[1]
    assert sorted((tmp_path / "kept").iterdir()) == made
    assert plan.resumes_at == ((cut - 1) // 5, (cut - 1) % 5 + 1)  # the epoch of a limit stays open
    model, history = train(models.dense, "custom_fit", given, gradient_accumulation_steps=2)
    assert plan.steps == 23 - cut
    epoch, step = plan.resumes_at
    assert plan.updates == int(model.optimizer.iterations.numpy()) - (3 * epoch + step // 2)
    assert plan.validations == len(passes)
    if every.steps:  # else those of limits are not counted
        assert plan.checkpoints == len(sorted((tmp_path / "kept").iterdir())) - len(made)
    assert f"resumes at  epoch {plan.resumes_at[0]}, step {plan.resumes_at[1]}" in str(plan)


def test_a_plan_of_what_has_ended_is_empty_and_of_a_generator_says_what_it_took(tmp_path):
    given = {**ROWS, "epochs": 2, "checkpoint": tmp_path}
    train(models.dense, "custom_fit", given)
    plan = train(models.dense, "plan_fit", given)[1]
    assert (plan.epochs, plan.steps, plan.updates, plan.checkpoints) == (0, 0, 0, 0)
    assert train(models.dense, "plan_fit", {**given, "checkpoint": Checkpoints(tmp_path, resume=False)})[1].steps == 10
    often = {**given, "checkpoint": Checkpoints(tmp_path, every=Every(steps=4))}
    assert train(models.dense, "plan_fit", often)[1].checkpoints == 0
    batches = {"x": ((X[:16], Y[:16]) for _ in range(9)), "batch_size": None, "steps_per_epoch": 4, "epochs": 2}
    assert "! the generator has given its first batch" in str(train(models.dense, "plan_fit", batches)[1])


def test_a_plan_says_that_the_call_will_be_refused(tmp_path):
    kept = tmp_path / "kept"
    given = {**ROWS, "epochs": 2, "checkpoint": kept}
    planned = lambda **changes: str(train(models.dense, "plan_fit", {**given, **changes})[1])
    assert f"! there is no checkpoint to resume from in {kept}" in planned(checkpoint=Checkpoints(kept, resume=True))
    assert "!" not in planned()
    train(models.dense, "custom_fit", given)
    assert "!" not in planned(checkpoint=Checkpoints(kept, resume=True))
    assert "! the checkpoint is refused: batch_size=8, was 16" in planned(batch_size=8)
    for record in (tmp_path / "kept").glob("*/state.json"):
        record.write_text("{")
    assert "! there is no checkpoint to resume from" in planned()
    assert "!" not in planned(checkpoint=Checkpoints(kept, resume=False))


def test_a_plan_counts_the_gradients_that_are_accumulated():
    plans = [compiled(models.dense, **options).plan_fit(X, Y) for options in ({}, {"gradient_accumulation_steps": 4})]
    assert plans[1].gradient_bytes == 2 * plans[0].gradient_bytes


@pytest.mark.parametrize(
    ("arguments", "conflict"),
    [
        ({"max_steps": 100}, "max_steps=100 is never reached: there are 10 steps"),
        ({"validation_freq": Every(steps=11), **VALIDATION}, "validation_freq=Every(steps=11) is never reached"),
        ({"validation_freq": 3, **VALIDATION}, "validation_freq=3 is never reached: there are 2 epochs"),
        (
            {"epochs": 9, "max_steps": 8, "validation_freq": 3, **VALIDATION},
            "validation_freq=3 is never reached: there are 2 epochs",
        ),
        ({"early_stopping": 2}, "early_stopping has patience=2, and there are 2 epochs"),
        (
            {"checkpoint": Checkpoints("unused", every=Every(steps=50))},
            "Checkpoints(every=Every(steps=50)) is never reached: there are 10 steps",
        ),
        (
            {"checkpoint": Checkpoints("unused", every=Every(epochs=3))},
            "Checkpoints(every=Every(epochs=3)) is never reached: there are 2 epochs",
        ),
        (
            {"callbacks": [keras.callbacks.ReduceLROnPlateau(monitor="val_loss")]},
            "ReduceLROnPlateau monitors val_loss, and there is no validation data",
        ),
        ({"validation_freq": 3}, "validation_freq=3 has no effect: there is no validation data"),
        ({"initial_epoch": 2}, "nothing is trained: epochs=2, initial_epoch=2"),
        ({"epochs": 1, "early_stopping": 2}, "early_stopping has patience=2, and there is 1 epoch"),
    ],
)
def test_a_plan_names_options_that_conflict(arguments, conflict):
    plan = compiled(models.dense).plan_fit(X, Y, batch_size=16, **{"epochs": 2, **arguments})
    assert any(conflict in line for line in plan.conflicts)
    assert f"! {conflict}" in str(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dry_run": 0.5}, "`dry_run` must be True, False, a positive number of batches or a `DryRun`"),
        ({"dry_run": -1}, "`dry_run` must be"),
        (
            {"dry_run": DryRun(sanity_validation=1), "validation_data": iter([(X, Y)])},
            "`sanity_validation` needs data that can be read again from its start. .*generator as val_data",
        ),
        (
            {"dry_run": DryRun(overfit_batches=2), "checkpoint": "unused"},
            r"`DryRun\(overfit_batches=\)` must not be used with `checkpoint`",
        ),
    ],
)
def test_wrong_options(arguments, message):
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=message):
        model.custom_fit(X, Y, verbose=0, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": 0}, "`batches` must be a positive integer. Received: batches=0"),
        ({"overfit_batches": 0}, "`overfit_batches` must be a positive integer"),
        ({"sanity_validation": -1}, "`sanity_validation` must be an integer, 0 or more"),
        ({"batches": 1, "overfit_batches": 2}, "at most one of `batches` and `overfit_batches`"),
    ],
)
def test_a_dry_run_checks_its_values_when_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DryRun(**options)


def test_a_plan_has_the_arguments_of_custom_fit():
    plan, fit = (inspect.signature(getattr(CustomTrainModel, name)) for name in ("plan_fit", "custom_fit"))
    assert plan.parameters == fit.parameters
