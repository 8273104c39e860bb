"""Every option of `compile()` has the same effect under both loops."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, assert_parity, compiled, train

X, Y = models.rows()
ROWS = {"x": X, "y": Y, "validation_split": 0.2}
optimizers = keras.optimizers
supports = pytest.mark.supports


@supports("compile()", '`jit_compile`: `True` to rounding (1e-5), `False` and `"auto"` to the bit')
@pytest.mark.parametrize("jit_compile", [True, False, "auto"])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_jit_compile(jit_compile, steps_per_execution):
    if not compat.IS_KERAS_3 and jit_compile == "auto":
        _, ours = train(models.dense, "custom_fit", ROWS, jit_compile="auto")
        _, plain = train(models.dense, "fit", ROWS, base=keras.Model)
        assert ours.history == plain.history
        return
    rows = {"x": X[:64], "y": Y[:64]}
    # XLA orders sums by what it fuses, and each loop gives it another program.
    assert_parity(
        models.batch_norm,
        rows,
        rtol=1e-5 if jit_compile is True else 0.0,
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )


@supports("compile()", "`steps_per_execution`, `run_eagerly`")
@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"run_eagerly": True}], ids=["blocks", "eager"])
def test_execution(options):
    assert_parity(models.dropout, {"x": X[:64], "y": Y[:64], "validation_data": (X[:32], Y[:32])}, **options)


@pytest.mark.parametrize(
    ("run_eagerly", "ours"),
    [(False, {}), (True, {}), (True, {"global_clipnorm": 1e6, "nonfinite": "skip"})],
    ids=["graph", "eager", "eager with options"],
)
def test_single_batches_of_numpy_arrays(run_eagerly, ours):
    """`train_on_batch` of Keras 3 hands the arrays themselves to a step that runs eagerly."""
    results = []
    for base, options in ((keras.Model, {}), (CustomTrainModel, ours)):
        keras.utils.set_random_seed(SEED)
        model = compiled(models.dropout, base, run_eagerly=run_eagerly, **options)
        logs = [model.train_on_batch(X[:16], Y[:16], sample_weight=np.ones(16, "float32"), return_dict=True)]
        logs += [model.train_on_batch(X[16:30], Y[16:30], return_dict=True)]
        logs += [model.test_on_batch(X[:16], Y[:16], return_dict=True)]
        results.append((logs, model.get_weights()))
    (their_logs, theirs), (our_logs, weights) = results
    assert our_logs == their_logs
    for mine, other in zip(weights, theirs):
        np.testing.assert_array_equal(mine, other)


def test_eager_under_steps_per_execution():
    theirs = train(models.dense, "fit", ROWS, base=keras.Model)
    assert_equal(train(models.dense, "custom_fit", ROWS, run_eagerly=True, steps_per_execution=3), theirs)


@supports("compile()", "`auto_scale_loss` and mixed precision", keras=3)
@pytest.mark.parametrize("auto_scale_loss", [True, False])
def test_auto_scale_loss(auto_scale_loss):
    if not compat.IS_KERAS_3:
        pytest.skip("Keras 2 has no auto_scale_loss")
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert_parity(models.dense, ROWS, auto_scale_loss=auto_scale_loss)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@supports("compile()", "optimizers with EMA, weight decay, schedules, clipping of their own, gradient accumulation")
@pytest.mark.parametrize("accumulation", [2, 3])
def test_gradient_accumulation_of_keras(accumulation):
    if not compat.IS_KERAS_3 or compat.KERAS_VERSION < (3, 2):
        pytest.skip("this Keras accumulates no gradients")
    assert_parity(models.dense, ROWS, optimizer=lambda: optimizers.Adam(0.01, gradient_accumulation_steps=accumulation))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Ftrl"])
def test_every_optimizer(name):
    assert_parity(models.embedding, {"x": (X * 10).astype("int32"), "y": Y}, optimizer=getattr(optimizers, name))


@supports("compile()", "`compile()` again between calls")
def test_compile_again():
    def run(how, base):
        model, _ = train(models.dropout, how, ROWS, base=base)
        model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
        return model, getattr(model, how)(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)

    assert_equal(run("custom_fit", CustomTrainModel), run("fit", keras.Model))


def test_no_loss_at_all_is_refused_before_the_first_update():
    keras.utils.set_random_seed(SEED)
    model = compiled(models.dense, loss=None)
    weights = model.get_weights()
    with pytest.raises(ValueError, match="There must be a loss|No loss"):
        model.custom_fit(X, Y, verbose=0)
    for now, before in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, before)
