"""The private names that `compat` needs are there, and `import customfit` asks for what it lacks in one sentence."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from customfit.compat.updates import built_for
from tests.parity import models

X, Y = models.rows()


# ---------------------------------------------------------------------------------------------------- private names


def dense(**options):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


def tensorboard():
    callback = keras.callbacks.TensorBoard(tempfile.mkdtemp())
    callback.set_model(dense())
    return callback


def evaluate_arguments_of_fit():
    """The names of the arguments that `fit` passes to `evaluate`."""
    passed = []

    class Recording(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            passed.extend(kwargs)
            return super().evaluate(*args, **kwargs)

    model = Recording([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0, validation_data=(X, Y))
    return passed


def beside_model(name):
    return importlib.import_module(f"{keras.Model.__module__.rpartition('.')[0]}.{name}")


def data_handler():
    return beside_model("data_adapter").get_data_handler(x=X, y=Y, model=None)


def is_module(name):
    return importlib.util.find_spec(name) is not None


WEIGHT = keras.Variable(1.0) if compat.IS_KERAS_3 else tf.Variable(1.0)


def masked():
    return keras.layers.Embedding(3, 4, mask_zero=True)(tf.constant([[1, 0]]))


def built_optimizer():
    optimizer = keras.optimizers.SGD()
    optimizer.build([WEIGHT])
    return optimizer


ALWAYS = True
KERAS_2 = not compat.IS_KERAS_3
KERAS_3 = compat.IS_KERAS_3
TF_VERSION = tuple(map(int, tf.__version__.split(".")[:2]))

# Every private name in `customfit/compat`: where it is used, and a check that fails when it has gone.
PRIVATE_NAMES = {
    # Modules.
    "functional": (ALWAYS, lambda: issubclass(beside_model("functional").Functional, keras.Model)),
    "training_utils": (KERAS_2, lambda: callable(beside_model("training_utils").RespectCompiledTrainableState)),
    "training": (KERAS_2, lambda: callable(beside_model("training").flatten_metrics_in_order)),
    "data_adapter": (KERAS_2, lambda: callable(beside_model("data_adapter").get_data_handler)),
    "keras.src.trainers.data_adapters": (KERAS_3, lambda: is_module("keras.src.trainers.data_adapters")),
    "keras.src.backend.common.global_state": (KERAS_3, lambda: is_module("keras.src.backend.common.global_state")),
    "keras.src.callbacks.": (
        KERAS_3,
        lambda: keras.callbacks.TensorBoard.on_train_batch_end.__module__.startswith("keras.src.callbacks."),
    ),
    "keras.saving.serialization_lib": (
        KERAS_2 and not hasattr(keras.saving, "deserialize_keras_object"),
        lambda: callable(importlib.import_module("keras.saving.serialization_lib").deserialize_keras_object),
    ),
    "tensorflow.python.client.device_lib": (
        ALWAYS,
        lambda: importlib.import_module("tensorflow.python.client.device_lib").list_local_devices()[0].memory_limit > 0,
    ),
    "tensorflow.python.ops.gen_random_ops": (
        ALWAYS,
        lambda: all(
            callable(getattr(importlib.import_module("tensorflow.python.ops.gen_random_ops"), name))
            for name in (*compat.RESUMABLE_RANDOM_OPS, *compat.UNRESUMABLE_RANDOM_OPS)
        ),
    ),
    "tensorflow.python.ops.stateful_random_ops": (
        ALWAYS,
        lambda: hasattr(importlib.import_module("tensorflow.python.ops.stateful_random_ops"), "global_generator"),
    ),
    "tensorflow.python.data.experimental.ops.distribute": (
        ALWAYS,
        lambda: all(
            callable(getattr(importlib.import_module("tensorflow.python.data.experimental.ops.distribute"), name))
            for name in ("compute_batch_size", "_AutoShardDataset")
        ),
    ),
    "tensorflow.python.eager.context": (
        ALWAYS,
        lambda: callable(importlib.import_module("tensorflow.python.eager.context").context),
    ),
    "tensorflow.python.autograph.core.ag_ctx": (
        KERAS_2,
        lambda: importlib.import_module("tensorflow.python.autograph.core.ag_ctx").Status.ENABLED is not None,
    ),
    "tensorflow.python.autograph.impl.conversion": (
        KERAS_2,
        lambda: importlib.import_module("tensorflow.python.autograph.impl.conversion").is_allowlisted(tf.ones),
    ),
    "tensorflow.python.eager.polymorphic_function.atomic_function": (TF_VERSION >= (2, 13), lambda: locates_errors()),
    "tensorflow.python.eager.polymorphic_function.monomorphic_function": (
        TF_VERSION < (2, 13),
        lambda: locates_errors(),
    ),
    "_inference_function": (ALWAYS, lambda: locates_errors()),
    "_message": (ALWAYS, lambda: locates_errors()),
    "__internal__": (
        ALWAYS,
        lambda: (
            isinstance(tf.ones(()), tf.__internal__.types.Tensor)
            and tf.__internal__.distribute.strategy_supports_no_merge_call()
            and callable(tf.__internal__.autograph.tf_convert)
        ),
    ),
    # Attributes of tensors, layers and models.
    "_keras_history": (ALWAYS, lambda: len(keras.Input((1,))._keras_history) == 3),
    "_keras_mask": (ALWAYS, lambda: masked()._keras_mask.shape == (1, 2)),
    "_inbound_nodes": (ALWAYS, lambda: len(dense().layers[-1]._inbound_nodes) == 1),
    "_is_compiled": (KERAS_2, lambda: dense()._is_compiled is True),
    "_steps_per_execution": (KERAS_2, lambda: int(dense()._steps_per_execution) == 1),
    "_train_counter": (KERAS_2, lambda: int(dense()._train_counter) == 0),
    "_test_counter": (KERAS_2, lambda: int(dense()._test_counter) == 0),
    "_predict_counter": (KERAS_2, lambda: int(dense()._predict_counter) == 0),
    "_maybe_load_initial_counters_from_ckpt": (
        KERAS_2,
        lambda: dense()._maybe_load_initial_counters_from_ckpt(None, 5)[0] == 5,
    ),
    "_initial_epoch": (KERAS_3 and compat.KERAS_VERSION >= (3, 1), lambda: hasattr(dense(), "_initial_epoch")),
    "_flatten_metrics_in_order": (KERAS_3, lambda: dense()._flatten_metrics_in_order({"loss": 1.0}) == 1.0),
    "_compile_metrics": (KERAS_3, lambda: dense(metrics=["mae"])._compile_metrics.built is False),
    "_symbolic_build": (KERAS_3, lambda: callable(dense()._symbolic_build)),
    "_use_cached_eval_dataset": (
        ALWAYS,
        lambda: "_use_cached_eval_dataset" in evaluate_arguments_of_fit(),
    ),
    # Attributes of callbacks.
    "_should_call_train_batch_hooks": (
        KERAS_2,
        lambda: keras.callbacks.CallbackList([])._should_call_train_batch_hooks is False,
    ),
    "_implements_train_batch_hooks": (
        KERAS_2,
        lambda: (
            not any(
                getattr(keras.callbacks.Callback(), f"_implements_{phase}_batch_hooks")()
                for phase in ("train", "test", "predict")
            )
        ),
    ),
    "_should_trace": (KERAS_3, lambda: tensorboard()._should_trace is False),
    "_global_train_batch": (ALWAYS, lambda: tensorboard()._global_train_batch == 0),
    "_global_test_batch": (
        KERAS_3 and compat.KERAS_VERSION >= (3, 15),
        lambda: tensorboard()._global_test_batch == 0,
    ),
    "_batches_seen_since_last_saving": (
        ALWAYS,
        lambda: keras.callbacks.ModelCheckpoint("unused.keras")._batches_seen_since_last_saving == 0,
    ),
    "_last_batch_seen": (
        ALWAYS,
        lambda: hasattr(keras.callbacks.ModelCheckpoint("unused.keras"), "_last_batch_seen"),
    ),
    "_set_monitor_op": (
        KERAS_3 and compat.KERAS_VERSION >= (3, 3),
        lambda: callable(keras.callbacks.EarlyStopping()._set_monitor_op),
    ),
    "_ema_weights_in_model": (
        hasattr(keras.callbacks, "SwapEMAWeights"),
        lambda: keras.callbacks.SwapEMAWeights()._ema_weights_in_model is False,
    ),
    # Attributes of data handlers and of TensorFlow's context.
    "_dataset": (KERAS_2, lambda: isinstance(data_handler()._dataset, tf.data.Dataset)),
    "_adapter": (KERAS_2, lambda: data_handler()._adapter.should_recreate_iterator() is False),
    "_handle_data": (ALWAYS, lambda: compat.variable_spec(tf.Variable([1, 2]).handle) == tf.TensorSpec([2], tf.int32)),
    "_trainable_variables": (KERAS_3, lambda: built_for(built_optimizer()) == [WEIGHT]),
    "_index_dict": (KERAS_2, lambda: len(built_optimizer()._index_dict) == 1),
    "_var_key": (KERAS_2, lambda: built_optimizer()._var_key(WEIGHT) in built_optimizer()._index_dict),
    "_learning_rate": (ALWAYS, lambda: round(float(tf.convert_to_tensor(built_optimizer()._learning_rate)), 6) == 0.01),
    "_random_generator": (KERAS_2, lambda: hasattr(keras.layers.Dropout(0.5), "_random_generator")),
    "_seed": (KERAS_2, lambda: keras.layers.Dropout(0.5, seed=3)._random_generator._seed == 3),
    "_rng": (ALWAYS, lambda: tf.random.set_seed(1) or compat.eager_random_state() is not None),
}


def locates_errors():
    def named(x):
        return tf.debugging.check_numerics(x, "")

    function = tf.function(named).get_concrete_function(tf.TensorSpec([]))
    try:
        arguments = {"args": [tf.constant(float("nan"))], "Tout": [tf.float32], "executor_type": "DEFAULT"}
        tf.raw_ops.StatefulPartitionedCall(f=function, **arguments)
    except tf.errors.OpError as error:
        compat.locate_error(error, function)
        return "test_compat.py" in error.message


PRIVATE = re.compile(r"_[a-z]\w*[a-z]|__internal__|(keras|tensorflow)(\.\w+)+\.?")


def private_names_of_compat():
    """The private attributes and modules that its code names, also as strings."""
    for path in sorted(Path(compat.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        patterns = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        parts = {part for pattern in patterns for part in pattern.values}
        for pattern in patterns:
            name = "".join(part.value if isinstance(part, ast.Constant) else "train" for part in pattern.values)
            if PRIVATE.fullmatch(name):
                yield name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
                yield node.attr
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "module_beside_model":
                yield node.args[0].value
            elif isinstance(node, ast.Constant) and node not in parts and PRIVATE.fullmatch(str(node.value)):
                yield node.value


def test_every_private_name_of_compat_is_in_the_table():
    assert set(private_names_of_compat()) == set(PRIVATE_NAMES)


@pytest.mark.parametrize("name", [name for name, (is_used, _) in PRIVATE_NAMES.items() if is_used])
def test_a_private_name_is_there(name):
    _, check = PRIVATE_NAMES[name]
    assert check()


# ------------------------------------------------------------------------------------------- models and callbacks


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
    layer, (other, first) = compat.producing_layer(keras.layers.Concatenate(name="both")([hidden, inputs]))
    assert layer.name == "both"
    assert first is inputs
    assert compat.producing_layer(other)[0].name == "hidden"
    assert compat.producing_layer(inputs)[1] == []


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
    assert compat.has_idle_batch_hooks(tensorboard, "train")
    assert not compat.has_idle_batch_hooks(
        keras.callbacks.TensorBoard(str(tmp_path), write_steps_per_second=True), "train"
    )
    assert compat.has_idle_batch_hooks(keras.callbacks.ModelCheckpoint("unused.keras"), "train")
    assert not compat.has_idle_batch_hooks(keras.callbacks.ModelCheckpoint("unused.keras", save_freq=3), "train")
    assert not compat.has_idle_batch_hooks(keras.callbacks.TerminateOnNaN(), "train")
    for callback, phases in {keras.callbacks.TerminateOnNaN(): ["train"], keras.callbacks.History(): []}.items():
        callbacks = keras.callbacks.CallbackList([callback])
        for phase in ("train", "test"):
            assert compat.calls_batch_hooks(callbacks, phase) == (compat.IS_KERAS_3 or phase in phases)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert compat.evaluation_result(model, {"loss": 1.0}, return_dict=False) == 1.0


def test_tensorflow_lists_the_memory_of_its_devices():
    from tensorflow.python.client import device_lib

    assert device_lib.list_local_devices()[0].memory_limit > 0


def test_tensorflow_shards_a_dataset_as_its_options_say():
    data = tf.data.Dataset.range(20).shard(tf.data.experimental.SHARD_HINT, 0).batch(4)
    assert compat.batch_size_of(data) == 4
    assert compat.batch_size_of(data.unbatch()) is None
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.HINT
    shares = [compat.auto_shard(data.with_options(options), 2, index, 2) for index in range(2)]
    assert [[row for batch in share for row in batch.numpy()] for share in shares] == [
        list(range(0, 20, 2)),
        list(range(1, 20, 2)),
    ]


def test_free_memory_is_a_number_of_bytes():
    assert compat.free_memory() > 0


def test_the_data_adapters_take_what_they_took():
    data = compat.keras_data(X, Y, batch_size=32, epochs=2, class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    assert data.count_batches() == 3
    x, y, weights = next(data.new_iterator())
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


@pytest.mark.slow
@pytest.mark.skipif(
    tuple(map(int, tf.__version__.split(".")[:2])) < (2, 15), reason="TF_USE_LEGACY_KERAS means nothing before TF 2.15"
)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_missing_tf_keras_is_reported_as_tensorflow_reports_it(backend):
    code = """
        import sys
        sys.modules["tf_keras"] = None  # as if it were not installed
        import {}
        """
    importing = {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": backend}
    ours = run_python(code.format("customfit"), **importing).stderr
    theirs = run_python(code.format("tensorflow as tf; tf.keras.Model"), **importing).stderr
    last = ours.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert last == theirs.strip().splitlines()[-1]
    assert "you do not have the tf_keras package installed" in ours
    assert "During handling" not in ours


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("random_shuffle", lambda: tf.random.shuffle(tf.range(9))),
        ("multinomial", lambda: tf.random.categorical(tf.zeros((1, 3)), 2)),
        ("random_gamma", lambda: tf.random.gamma((2,), 1.0)),
        ("random_poisson_v2", lambda: tf.random.poisson((2,), 1.0)),
    ],
)
def test_random_ops_without_a_stateless_twin_are_intercepted(name, draw):
    seen = []

    def replacement(op_name, op, *args, **kwargs):
        seen.append(op_name)
        return op(*args, **kwargs)

    with compat.replaced_random_ops(replacement):
        draw()
    draw()
    assert seen == [name]
    assert name in compat.UNRESUMABLE_RANDOM_OPS


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
        with randomness.replaced("step", rows):
            return draw([rows, 7])

    for rows in map(tf.constant, (3, 1000, 5)):
        assert (counted(rows).numpy() == plain(rows).numpy()).all()
    (state,) = randomness.states.values()
    assert int(state[2]) == 256 * 7 * (3 + 1000 + 5)
    assert name in compat.RESUMABLE_RANDOM_OPS


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


def test_fit_tells_evaluate_to_use_the_data_that_it_was_given():
    class Tells(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            told.update(kwargs)
            return super().evaluate(*args, **kwargs)

    told = {}
    model = Tells([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0, validation_data=(X, Y))
    assert compat.AS_FIT_EVALUATES.items() <= told.items()


# ---------------------------------------------------------------------------------- what a graph captures, and updates


def test_a_graph_tells_the_variables_that_it_captures():
    read, written, table = tf.Variable(1.0, name="read"), tf.Variable([1, 2]), tf.lookup.experimental.DenseHashTable

    @tf.function
    def step(x):
        written.assign(written * 2)
        return x + read

    function = step.get_concrete_function(tf.constant(1.0))
    handles = {id(handle): compat.variable_spec(handle) for handle, _ in compat.captured_handles(function)}
    assert handles[id(read.handle)] == tf.TensorSpec([], tf.float32)
    assert handles[id(written.handle)] == tf.TensorSpec([2], tf.int32)
    assert compat.variable_names(function)[id(read.handle)] == "read"
    keys = table(tf.int64, tf.int64, -1, empty_key=-1, deleted_key=-2)
    assert compat.variable_spec(keys.resource_handle) is None


class Noted:
    """Notes the updates that a step makes, and makes none."""

    def __init__(self):
        self.seen = []

    def update(self, optimizer, gradients, variables, summed):
        self.seen.append((optimizer, gradients, variables, summed))

    def scale(self, optimizer, loss):
        self.seen.append((optimizer, loss))


class Wrapping(keras.optimizers.SGD):
    """One of the user's, which does something of its own and calls that of Keras."""

    def apply_gradients(self, grads_and_vars, **kwargs):
        return super().apply_gradients([(2 * gradient, variable) for gradient, variable in grads_and_vars], **kwargs)


@pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.Adam, Wrapping])
def test_an_update_is_handled_once_and_only_within_the_context(make):
    optimizer, weight, handler = make(1.0), tf.Variable(1.0), Noted()
    optimizer.build([weight])
    methods = {cls: dict(vars(cls)) for cls in type(optimizer).__mro__}
    with compat.handled_updates(handler):
        optimizer.apply_gradients([(tf.constant(3.0), weight)])
        with compat.unhandled_updates():
            optimizer.apply_gradients([(tf.constant(0.0), weight)])
    (seen,) = handler.seen
    assert (seen[0], float(seen[1][0]), seen[2], seen[3]) == (optimizer, 3.0, [weight], False)
    assert float(weight) == 1.0
    assert {cls: dict(vars(cls)) for cls in type(optimizer).__mro__} == methods
    optimizer.apply_gradients([(tf.constant(3.0), weight)])
    assert float(weight) != 1.0
    assert len(handler.seen) == 1


def test_updates_of_other_threads_are_not_handled():
    optimizer, weight, handler = keras.optimizers.SGD(1.0), tf.Variable(1.0), Noted()
    optimizer.build([weight])
    with compat.handled_updates(handler):
        thread = threading.Thread(target=optimizer.apply_gradients, args=([(tf.constant(3.0), weight)],))
        thread.start()
        thread.join()
    assert not handler.seen
    assert float(weight) == -2.0
