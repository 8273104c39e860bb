"""The private names that `compat` needs are there, and `import customfit` asks for what it lacks in one sentence."""

import os
import subprocess
import sys
import textwrap

import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models

X, Y = models.rows()


def test_keras_is_the_one_that_tensorflow_uses():
    assert keras.Model is tf.keras.Model
    assert keras.layers.Layer is tf.keras.layers.Layer


def test_the_functional_class_is_what_keras_makes():
    assert type(models.dense(keras.Model)) is compat.functional_class()


@pytest.mark.parametrize(
    ("arguments", "functional"),
    [(("i", "o"), {}), (("i",), {"outputs": "o"}), ((), {"inputs": "i", "outputs": "o"}), ((), {}), (("i",), {})],
)
def test_a_functional_call_is_known_as_keras_knows_it(arguments, functional):
    args, kwargs = arguments, functional
    module = sys.modules[keras.Model.__module__]
    theirs = getattr(module, "functional_init_arguments", None) or module.is_functional_model_init_params
    assert compat.is_functional_call(args, kwargs) == bool(theirs(args, kwargs))


def test_a_functional_model_s_tensors_know_where_they_come_from():
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3, name="hidden")(inputs)
    layer, (other, first) = compat.origin(keras.layers.Concatenate(name="both")([hidden, inputs]))
    assert layer.name == "both"
    assert first is inputs
    assert compat.origin(other)[0].name == "hidden"
    assert compat.origin(inputs)[1] == []


def test_private_names_of_models_are_there():
    model = models.dense(CustomTrainModel)
    assert not compat.is_compiled(model)
    model.compile("adam", "mse", steps_per_execution=3, jit_compile=False)
    assert compat.is_compiled(model)
    assert compat.steps_per_execution(model) == 3
    assert compat.jit_compile(model) is False
    if compat.IS_KERAS_3:
        assert hasattr(model, "_initial_epoch") or compat.KERAS_VERSION < (3, 1)
    else:
        assert model._train_counter is not None
        assert model._test_counter is not None
        assert callable(model._maybe_load_initial_counters_from_ckpt)


def test_private_names_of_callbacks_and_evaluation_are_there(tmp_path):
    tensorboard = keras.callbacks.TensorBoard(str(tmp_path))
    tensorboard.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    assert compat.ignores_batches(tensorboard, "train")
    assert not compat.ignores_batches(keras.callbacks.TensorBoard(str(tmp_path), write_steps_per_second=True), "train")
    assert compat.ignores_batches(keras.callbacks.ModelCheckpoint("unused.keras"), "train")
    assert not compat.ignores_batches(keras.callbacks.ModelCheckpoint("unused.keras", save_freq=3), "train")
    assert not compat.ignores_batches(keras.callbacks.TerminateOnNaN(), "train")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert compat.finish_evaluation(model, {"loss": 1.0}, return_dict=False) == 1.0


def test_tensorflow_lists_the_memory_of_its_devices():
    from tensorflow.python.client import device_lib

    assert device_lib.list_local_devices()[0].memory_limit > 0


def test_the_data_adapters_take_what_they_took():
    data = compat.keras_data(X, Y, batch_size=32, epochs=2, class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    assert data.num_batches == 3
    x, y, weights = next(next(data.iterators))
    assert x.shape == (32, 8)
    assert weights.shape[0] == 32


def test_losses_are_tracked_as_keras_does_it():
    model = models.dense(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.custom_fit(X, Y, verbose=0)
    assert "loss" in [metric.name for metric in model.metrics]


def run_python(code, **environment):
    keep = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**keep, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_import_without_tensorflow_fails_with_one_sentence():
    result = run_python(
        """
        import sys
        sys.modules["tensorflow"] = None  # as if it were not installed
        import customfit
        """
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: customfit needs TensorFlow")
    assert "pip install tensorflow" in last
    assert "During handling" not in result.stderr


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="only Keras 3 has backends")
@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_fails_with_one_sentence(backend):
    last = run_python("import customfit", KERAS_BACKEND=backend).stderr.strip().splitlines()[-1]
    assert last.startswith(
        "ImportError: customfit needs Keras 3 on its TensorFlow backend. Set KERAS_BACKEND=tensorflow"
    )
    assert "Received: backend=" in last
    assert backend in last or backend == "numpy"  # which itself needs jax


def test_import_needs_nothing_but_tensorflow_keras_and_numpy():
    result = run_python(
        """
        import sys
        import tensorflow as tf
        tf.keras.Model
        before = {name.partition(".")[0] for name in sys.modules}
        import customfit
        print(sorted({name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)))
        """
        if sys.version_info >= (3, 10)
        else "print(['customfit'])"
    )
    assert result.stdout.strip().splitlines()[-1] == "['customfit']", result.stderr


# ------------------------------------------------------------------------------------------------- state to resume


def test_the_global_seed_is_told_and_asking_draws_nothing():
    tf.random.set_seed(11)
    first = tf.random.uniform(()).numpy()
    tf.random.set_seed(11)
    assert compat.global_seed() == 11
    assert tf.random.uniform(()).numpy() == first
    tf.random.set_seed(None)
    assert compat.global_seed() is None


def test_eager_random_ops_go_on_from_a_state():
    tf.random.set_seed(11)
    tf.random.uniform(())
    state = compat.eager_random_state()
    drawn = [tf.random.uniform(()).numpy() for _ in range(3)]
    compat.set_eager_random_state(state)
    assert [tf.random.uniform(()).numpy() for _ in range(3)] == drawn


def test_the_global_generator_is_seen_where_there_is_one():
    generator = tf.random.Generator.from_seed(1)
    tf.random.set_global_generator(generator)
    assert compat.global_random_generator() is generator


def test_the_global_seed_generator_of_keras_3_is_seen_where_it_was_used():
    if compat.IS_KERAS_3:
        keras.utils.set_random_seed(1)
        keras.random.normal((1,))
        assert len(compat.keras_seed_variables()) == 1
    else:
        assert compat.keras_seed_variables() == []


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("random_uniform", lambda shape: tf.random.uniform(shape)),
        ("random_standard_normal", lambda shape: tf.random.normal(shape, dtype=tf.float64)),
        ("truncated_normal", lambda shape: tf.random.truncated_normal(shape, seed=4)),
        ("random_uniform_int", lambda shape: tf.random.uniform(shape, 3, 90, tf.int32)),
    ],
)
def test_counted_random_ops_draw_what_the_ops_themselves_draw(name, draw):
    """In each run of a function: so a run with checkpoints has the numbers of one without."""
    from customfit.execution.random_ops import ResumableRandomOps

    randomness = ResumableRandomOps()
    tf.random.set_seed(5)
    plain = tf.function(lambda rows: draw([rows, 7]))

    @tf.function
    def counted(rows):
        with randomness.counted("step", rows):
            return draw([rows, 7])

    for rows in map(tf.constant, (3, 1000, 5)):
        assert (counted(rows).numpy() == plain(rows).numpy()).all()
    (state,) = randomness.states.values()
    assert int(state[2]) == 256 * 7 * (3 + 1000 + 5)
    assert name in compat.COUNTED_RANDOM_OPS


def test_what_callbacks_of_keras_remember_has_the_names_that_it_had():
    model = models.dense(keras.Model)
    stopping = keras.callbacks.EarlyStopping(restore_best_weights=True)
    stopping.set_model(model)
    stopping.on_train_begin()
    stopping.on_epoch_end(0, {"val_loss": 0.5})
    state = compat.callback_state(stopping)
    assert {"wait", "stopped_epoch", "best", "best_weights", "best_epoch"} == set(state)
    fresh = keras.callbacks.EarlyStopping(restore_best_weights=True)
    fresh.set_model(model)
    fresh.on_train_begin()
    compat.set_callback_state(fresh, state)
    fresh.on_epoch_end(1, {"val_loss": 0.7})
    assert (fresh.best, fresh.best_epoch) == (0.5, 0)
    plateau = keras.callbacks.ReduceLROnPlateau()
    plateau.on_train_begin()
    assert {"wait", "best", "cooldown_counter"} == set(compat.callback_state(plateau))
    checkpoint = compat.callback_state(keras.callbacks.ModelCheckpoint("unused.keras"))
    assert {"best", "_batches_seen_since_last_saving", "_last_batch_seen"} <= set(checkpoint)
    assert compat.callback_state(keras.callbacks.History()) is None
