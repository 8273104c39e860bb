"""Which Keras this is, and every difference between its generations.

Three are supported: the ``tf.keras`` of TensorFlow 2.12-2.15 and the separate ``tf_keras`` package, both called "Keras
2" here, and Keras 3 on its TensorFlow backend. This is the only module that looks at a version or reaches for anything
private; ``tests/test_compat.py`` fails on the day one of those private names goes away.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import math
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import numpy as np

try:
    import tensorflow as tf
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(
        "customfit needs TensorFlow and leaves its choice to you: `pip install tensorflow` (2.12 or newer), or "
        "`pip install tensorflow-cpu` for a smaller one without GPU support."
    ) from None


def _find_keras():
    """The Keras that this TensorFlow uses: its own, `keras` 3, or `tf_keras` under `TF_USE_LEGACY_KERAS=1`."""
    try:
        found = tf.keras
        found.Model  # noqa: B018 (`tf.keras` is loaded lazily: ask for something in it)
        backend = found.config.backend() if hasattr(found, "ops") else "tensorflow"
    except ImportError:
        backend = _backend_of_keras_3()
        if backend == "tensorflow":
            raise  # it is something else that is missing
    if backend != "tensorflow":
        raise ImportError(
            "customfit needs Keras 3 on its TensorFlow backend. Set KERAS_BACKEND=tensorflow in the environment, or "
            f'"backend": "tensorflow" in ~/.keras/keras.json. Received: backend={backend!r}'
        )
    # From TensorFlow 2.16 on `tf.keras` is a view of Keras 3 that lacks `__version__` and, on some releases, `saving`.
    return importlib.import_module("keras") if hasattr(found, "ops") else found


def _backend_of_keras_3() -> str:
    try:
        return importlib.import_module("keras").config.backend()
    except ImportError as error:  # a backend that is asked for and not installed
        return error.name if error.name in ("jax", "torch", "openvino") else "tensorflow"


keras = _find_keras()

IS_KERAS_3 = hasattr(keras, "ops")
GENERATION = 3 if IS_KERAS_3 else 2
KERAS_VERSION = tuple(map(int, keras.__version__.split(".")[:2])) if IS_KERAS_3 else (2,)


# ---------------------------------------------------------------------------------------------- models and saving


def functional_class() -> type:
    """The class of `keras.Model(inputs, outputs)`. Keras exports it under no public name."""
    package = keras.Model.__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.functional").Functional


def origin(tensor) -> tuple[Any, list]:
    """The layer that made a symbolic tensor of a functional model, and the symbolic tensors that it was called on."""
    layer, node_index, _ = tensor._keras_history
    node = layer._inbound_nodes[node_index]
    return layer, list(node.input_tensors if IS_KERAS_3 else node.keras_inputs)


def is_functional_call(args: tuple, kwargs: dict) -> bool:
    """Whether `keras.Model(*args, **kwargs)` asks for a functional model, by the rule that Keras documents."""
    return len(args) == 2 or ("outputs" in kwargs and (len(args) == 1 or "inputs" in kwargs))


def register_keras_serializable(cls: type) -> type:
    """Registers a class of ours so that `load_model` finds it without `custom_objects`."""
    register = getattr(keras, "saving", keras.utils).register_keras_serializable
    return register(package="customfit")(cls)


def save_model(model, path: str) -> None:
    """Saves a model as a `.keras` file, which TensorFlow 2.12 does only if told so."""
    takes_format = "save_format" in inspect.signature(keras.models.save_model).parameters
    model.save(path, **({"save_format": "keras_v3"} if takes_format and not IS_KERAS_3 else {}))


def deserialize_keras_object(config: dict) -> Any:
    """`keras.saving.deserialize_keras_object`, which TensorFlow 2.12 does not export."""
    public = getattr(keras.saving, "deserialize_keras_object", None)
    return (
        public(config)
        if public
        else importlib.import_module("keras.saving.serialization_lib").deserialize_keras_object(config)
    )


def compile_options(options: dict) -> dict:
    """`Model.compile`'s keyword arguments as this generation understands them."""
    if not IS_KERAS_3 and options.get("jit_compile") == "auto":
        # Keras 2 would take the string for true and compile with XLA.
        return {**options, "jit_compile": None}
    return options


def is_compiled(model) -> bool:
    """Whether `compile()` was called on the model."""
    return bool(model.compiled if IS_KERAS_3 else model._is_compiled)


def steps_per_execution(model) -> int:
    """The model's `steps_per_execution`, which Keras 2 shows as a property only since 2.15."""
    if IS_KERAS_3:
        return int(model.steps_per_execution or 1)
    variable = model._steps_per_execution
    return 1 if variable is None else int(variable.numpy())


def jit_compile(model) -> bool:
    """Whether the model's steps are to be compiled with XLA; "auto" is already resolved by Keras."""
    return bool(model.jit_compile if hasattr(model, "jit_compile") else model._jit_compile)


def optimizer_variables(model) -> list:
    """The variables of the model's optimizer: the iterations, the slots, the loss scale."""
    return variables_of_optimizer(model.optimizer)


def variables_of_optimizer(optimizer) -> list:
    """The variables of an optimizer; with a moving average in Keras 3, that of the weights as well."""
    variables = getattr(optimizer, "variables", [])
    return list(variables() if callable(variables) else variables)


def optimizers_in(optimizer) -> Iterator:
    """An optimizer and those within it: of a loss scale, of groups of ours, of Keras's `MultiOptimizer`."""
    if optimizer is not None:
        yield optimizer
        groups = [*getattr(optimizer, "groups", {}).values(), *getattr(optimizer, "optimizers", [])]
        for inner in [getattr(optimizer, "inner_optimizer", None), *groups]:
            yield from optimizers_in(inner)


def optimizer_arguments(name: str) -> dict:
    """What `keras.optimizers.Optimizer.__init__` of this generation must be given by a subclass without a rate."""
    return {"name": name, "learning_rate": 0.0} if IS_KERAS_3 else {"name": name}


# What `tf.is_tensor` goes by, and with it Keras 2 when it reads a learning rate. TensorFlow exports it to Keras alone.
TensorType = tf.__internal__.types.Tensor


def build_optimizer(model) -> None:
    """Makes the optimizer's variables, as `fit` of Keras 3 does: a step whose first trace makes some is traced twice.

    Only where all weights are known to be there, which they are in a model made of layers that it has called already.
    """
    optimizer: Any = getattr(model, "optimizer", None)
    made_of_layers: Any = (functional_class(), keras.Sequential)
    all_there = isinstance(model, made_of_layers) and model.built
    if all_there and not getattr(optimizer, "built", True):
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)


def free_memory() -> float:
    """Bytes that are free on the device on which tensors live: infinite where that cannot be known."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        devices = importlib.import_module("tensorflow.python.client.device_lib").list_local_devices()
        limit = next(device.memory_limit for device in devices if device.device_type == "GPU")
        return limit - tf.config.experimental.get_memory_info("GPU:0")["current"]
    try:
        with open("/proc/meminfo") as lines:
            return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


# ---------------------------------------------------------------------------------------- inside a training step


def compute_loss(model, x, y, y_pred, sample_weight, training: bool):
    """`model.compute_loss`, told of `training` where the model's own method takes it (Keras 3.4 and newer)."""
    arguments = dict(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = training
    loss = model.compute_loss(**arguments)
    if loss is None and training:
        raise ValueError(
            "There must be a loss to minimise: pass `loss=` to `compile()`, call `add_loss()`, or override "
            "`compute_loss()`. Received: no loss."
        )
    return loss


def track_loss(model, loss, x) -> None:
    """Adds the batch's loss to the metric "loss", as a step must in Keras 3; Keras 2 does so in `compute_loss`."""
    tracker = next((metric for metric in model.metrics if metric.name == "loss"), None) if IS_KERAS_3 else None
    if tracker is None:
        return
    if KERAS_VERSION >= (3, 8):  # since 3.8 the loss comes divided by the number of replicas
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        loss = loss * replicas if replicas > 1 else loss
    if KERAS_VERSION < (3, 2):
        tracker.update_state(loss)
    else:
        first = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
        tracker.update_state(loss, sample_weight=tf.shape(first)[0])


def gradient_of_loss(optimizer, loss):
    """What the backward pass begins with: ones, times the loss scale by which small gradients survive in float16.

    The gradients then are those of the scaled loss to the bit, without another tensor in the tape.
    """
    ones = tf.ones_like(loss)
    scale = getattr(optimizer, "scale_loss" if IS_KERAS_3 else "get_scaled_loss", None)
    return scale(ones) if scale else ones


def unscale_gradients(optimizer, gradients: list) -> list:
    """The true gradients, out of those of a scaled loss."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    scale = _keras3_loss_scale(optimizer)
    return list(gradients) if scale is None else [_times(gradient, 1.0 / scale) for gradient in gradients]


def apply_gradients(optimizer, gradients, variables, reduced: bool) -> None:
    """`optimizer.apply_gradients` of true gradients.

    Args:
        optimizer: The optimizer. Keras 3's divides by its loss scale itself, Keras 2's does not.
        gradients: The gradients, one a variable.
        variables: The variables.
        reduced: Whether the gradients are summed over all replicas already. Keras 2 can be told so; Keras 3 sums them
            again, and gets its share.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    options = {}
    if reduced and replicas > 1 and IS_KERAS_3:
        gradients = [_times(gradient, 1.0 / replicas) for gradient in gradients]
    elif reduced and replicas > 1:
        options["experimental_aggregate_gradients"] = False
    scale = _keras3_loss_scale(optimizer)
    if scale is not None:
        gradients = [_times(gradient, scale) for gradient in gradients]
    optimizer.apply_gradients(zip(gradients, variables), **options)


def has_dynamic_scale(optimizer) -> bool:
    """Whether the optimizer skips updates that are not finite, in search of the largest loss scale that makes none."""
    found_in = keras.optimizers if IS_KERAS_3 else keras.mixed_precision
    return isinstance(optimizer, found_in.LossScaleOptimizer) and bool(getattr(optimizer, "dynamic", True))


def loss_scale(optimizer):
    """The loss scale as a tensor, or `None`."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return tf.convert_to_tensor(optimizer.loss_scale)
    return _keras3_loss_scale(optimizer)


def _keras3_loss_scale(optimizer):
    if not hasattr(optimizer, "scale_loss"):
        return None
    one = tf.ones(())
    scale = optimizer.scale_loss(one)
    return None if scale is one else scale


def _times(gradient, factor):
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(factor, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def has_tensorboard() -> bool:
    """Whether the package is installed that `tf.summary` needs; TensorFlow 2.21 does not bring it."""
    return importlib.util.find_spec("tensorboard") is not None


def variable_path(variable) -> str:
    """The name of a variable and of what it is part of: "dense/kernel"."""
    return getattr(variable, "path", None) or variable.name.partition(":")[0]


def step_state(model) -> list:
    """The `tf.Variable`s that a step changes beside the optimizer's work: moving averages, metrics, random seeds."""
    trainable = {id(variable) for variable in model.trainable_variables}
    variables = [variable for variable in model.variables if id(variable) not in trainable]
    variables += [variable for metric in model.metrics for variable in metric.variables]
    native = [tf_variable(variable) for variable in variables]
    return list({id(variable): variable for variable in native}.values())


def divides_loss_by_replicas() -> bool:
    """Whether a replica's loss is its share of the batch's, so that gradients can be summed. Not before Keras 3.8."""
    return not IS_KERAS_3 or KERAS_VERSION >= (3, 8)


def build_on_replicas(model, spec) -> None:
    """Makes all variables that a step on several replicas needs, as `fit` of Keras 3 does before the first one."""
    if IS_KERAS_3:
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=spec)


def log_reduction() -> tf.distribute.ReduceOp:
    """How `fit` makes one log of those of several replicas."""
    return tf.distribute.ReduceOp.MEAN if IS_KERAS_3 else tf.distribute.ReduceOp.SUM


def branches_in_replicas() -> bool:
    """Whether an update of the current strategy may stand in a branch within a replica: it may where none is merged."""
    return tf.__internal__.distribute.strategy_supports_no_merge_call()


# ------------------------------------------------------------------------------------------- around the epoch loop


def to_host(logs: dict | None) -> dict:
    """Logs as Python numbers, in the form in which `fit` of this generation hands them to callbacks."""
    numbers = {}
    for name, value in (logs or {}).items():
        if IS_KERAS_3 and isinstance(value, dict):
            numbers.update(to_host(value))
        elif IS_KERAS_3:
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                numbers[name] = value
        else:
            numbers[name] = tf.nest.map_structure(_keras2_number, value)
    return numbers


def _keras2_number(value):
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value


def batch_logs(logs: dict) -> dict:
    """Logs for `CallbackList.on_train_batch_end`: Keras 2's converts them itself, and only if a callback asks."""
    return to_host(logs) if IS_KERAS_3 else logs


def ignores_batches(callback, phase: str) -> bool:
    """Whether a callback of Keras's has a batch hook that, as the callback is set, does nothing after a single step."""
    if not IS_KERAS_3:
        return not getattr(callback, f"_implements_{phase}_batch_hooks")()
    hooks = [getattr(type(callback), f"on_{phase}_batch_{when}") for when in ("begin", "end")]
    if not all(hook.__module__.startswith("keras.src.callbacks.") for hook in hooks):
        return False
    if isinstance(callback, keras.callbacks.TensorBoard):
        return callback.update_freq == "epoch" and not (callback.write_steps_per_second or callback._should_trace)
    return getattr(callback, "save_freq", None) == "epoch"


def verbosity(verbose):
    """`verbose` as `fit` of this generation hands it to callbacks: Keras 3's resolve "auto" themselves."""
    if verbose == "auto" and not IS_KERAS_3:
        return 1 if keras.utils.is_interactive_logging_enabled() else 2
    return verbose


def execution_end(begin: int, planned: int, done: int) -> int:
    """The step that `on_train_batch_end` names after an execution of `planned` steps of which `done` existed."""
    if not IS_KERAS_3:
        return begin + done - 1
    return begin + planned - 1 if KERAS_VERSION >= (3, 11) else begin


def start_training(model, initial_epoch: int, steps_per_epoch: int | None) -> Callable[[], int]:
    """Prepares the model's counters. Call the answer after `on_train_begin`: the epoch at which to begin.

    That is `initial_epoch`, or a later one where Keras's `BackupAndRestore` has just restored a backup.
    """
    model.stop_training = False
    if IS_KERAS_3:
        return lambda: getattr(model, "_initial_epoch", None) or initial_epoch
    model._train_counter.assign(0)
    return lambda: model._maybe_load_initial_counters_from_ckpt(steps_per_epoch, initial_epoch)[0]


def compiled_trainable_state(model) -> contextlib.AbstractContextManager:
    """Has layers be trainable as they were at `compile()`, which is what `fit` of Keras 2 goes by."""
    if IS_KERAS_3:
        return contextlib.nullcontext()
    package = keras.Model.__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.training_utils").RespectCompiledTrainableState(model)


def start_validation(model) -> None:
    """Prepares the model's counters for a validation pass."""
    if not IS_KERAS_3:
        model._test_counter.assign(0)


def count_step(model, training: bool) -> None:
    """Counts a step for callbacks that read the model's own counter: Keras 2's TensorBoard does."""
    if not IS_KERAS_3:
        (model._train_counter if training else model._test_counter).assign_add(1)


def finish_evaluation(model, logs: dict, return_dict: bool):
    """The logs of an evaluation as `evaluate` of this generation returns them."""
    if return_dict:
        return logs
    if IS_KERAS_3:
        return model._flatten_metrics_in_order(logs)
    package = keras.Model.__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.training").flatten_metrics_in_order(logs, model.metrics_names)


def finish_training(model) -> None:
    """Overwrites the weights with their moving average, for optimizers with `use_ema`."""
    finalize = getattr(model.optimizer, "finalize_variable_values", None)
    if finalize is not None:
        finalize(model.trainable_variables)


# ------------------------------------------------------------------------------------------------- state to resume


def tf_variable(variable) -> tf.Variable:
    """The `tf.Variable` of a variable, which Keras 3 wraps in its own."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def keras_seed_variables() -> list:
    """The state of Keras 3's global seed generator, where it has been used: what unseeded `keras.random` draws from."""
    if not IS_KERAS_3:
        return []
    state = importlib.import_module("keras.src.backend.common.global_state")
    generator = state.get_global_attribute("global_seed_generator")
    return [] if generator is None else [generator.state]


def make_keras_seed() -> None:
    """Makes Keras 3's global seed generator, if it has not been used yet."""
    if not keras_seed_variables():
        keras.random.uniform(())


def global_seed() -> int | None:
    """The seed of `tf.random.set_seed`, or `None`. It can be asked for in public only where it is used: in a graph."""
    seeds: list = []
    tf.function(lambda: seeds.append(tf.compat.v1.get_default_graph().seed)).get_concrete_function()
    return seeds[-1]


def global_random_generator():
    """TensorFlow's `tf.random.get_global_generator()` where there is one. To ask for it by that name makes one."""
    return importlib.import_module("tensorflow.python.ops.stateful_random_ops").global_generator


def eager_random_state() -> list | None:
    """Where the seeds of eager random ops come from under a global seed; `None` without one."""
    generator = getattr(_eager_context(), "_rng", None)
    return None if generator is None else list(generator.getstate())


def set_eager_random_state(state: list) -> None:
    """Has eager random ops go on from what `eager_random_state` gave."""
    seed = global_seed()
    if seed is not None:
        tf.random.set_seed(seed)  # which also forgets the ops that have drawn by these seeds already
    version, internal, gauss = state
    _eager_context()._rng.setstate((version, tuple(internal), gauss))


def _eager_context():
    return importlib.import_module("tensorflow.python.eager.context").context()


# Random ops of TensorFlow 1 whose state is in the running op, and those of the same numbers that are given it.
COUNTED_RANDOM_OPS = {
    "random_uniform": tf.raw_ops.StatelessRandomUniformV2,
    "random_standard_normal": tf.raw_ops.StatelessRandomNormalV2,
    "truncated_normal": tf.raw_ops.StatelessTruncatedNormalV2,
    "random_uniform_int": tf.raw_ops.StatelessRandomUniformIntV2,
}

# And those that have no such twin.
UNCOUNTED_RANDOM_OPS = {
    "random_shuffle": "tf.random.shuffle",
    "multinomial": "tf.random.categorical",
    "random_gamma": "tf.random.gamma",
    "random_poisson_v2": "tf.random.poisson",
}


@contextlib.contextmanager
def replaced_random_ops(replacement: Callable[..., Any]) -> Iterator[None]:
    """Has `replacement(name, op, *args, **kwargs)` be called for each of these random ops meanwhile."""
    module = importlib.import_module("tensorflow.python.ops.gen_random_ops")
    ops = {name: getattr(module, name) for name in (*COUNTED_RANDOM_OPS, *UNCOUNTED_RANDOM_OPS)}
    for name, op in ops.items():
        setattr(module, name, functools.partial(replacement, name, op))
    try:
        yield
    finally:
        for name, op in ops.items():
            setattr(module, name, op)


# What Keras's own callbacks remember from epoch to epoch, under the names of all generations.
_CALLBACK_STATE = {
    "EarlyStopping": ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    "ReduceLROnPlateau": ("wait", "best", "cooldown_counter"),
    "ModelCheckpoint": ("best", "epochs_since_last_save", "_batches_seen_since_last_saving", "_last_batch_seen"),
    "TensorBoard": ("_global_train_batch", "_global_test_batch"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
}


def callback_state(callback) -> dict | None:
    """What one of Keras's own callbacks remembers, or `None` where that is nothing."""
    for kind, names in _CALLBACK_STATE.items():
        if isinstance(callback, getattr(keras.callbacks, kind, ())):
            return {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    return None


def set_callback_state(callback, state: dict) -> None:
    """Has one of Keras's own callbacks remember what `callback_state` gave."""
    if state.get("best") is not None and getattr(callback, "monitor_op", True) is None:
        # Keras 3 finds out in the first epoch which way is better, and older releases then forget the best value.
        find_out = getattr(callback, "_set_monitor_op", None)
        if find_out is not None:
            find_out()
    for name, value in state.items():
        setattr(callback, name, value)


# ------------------------------------------------------------------------------------------------------------ data


def casts_tensors() -> bool:
    """Whether `fit` casts float tensors to `floatx`, as Keras 3 does; every generation casts NumPy arrays."""
    return IS_KERAS_3


def gathers_composite_tensors() -> bool:
    """Whether `fit` takes ragged and sparse tensors in the order of other arrays. Keras 2 shuffles them otherwise."""
    return IS_KERAS_3


def streams_epochs() -> bool:
    """Whether `fit` takes its epochs from one stream and stops training where that ends, as Keras 2 does.

    Keras 3 ends the epoch there, and begins with the data anew in the next one.
    """
    return not IS_KERAS_3


def is_torch_loader(data) -> bool:
    """Whether Keras 3 reads the data as a torch `DataLoader`; to Keras 2 it is an iterable like others."""
    names = [(cls.__name__, cls.__module__) for cls in type(data).__mro__]
    return IS_KERAS_3 and any(name == "DataLoader" and "torch.utils.data" in module for name, module in names)


def cardinality(dataset) -> int:
    """The batches of a dataset, which a distributed one has as a property."""
    count = dataset.cardinality
    return int(count() if callable(count) else count)


class KerasData(NamedTuple):
    """A dataset of batches made by Keras's own data adapters, and what `fit` would do with it each epoch."""

    dataset: tf.data.Dataset
    iterators: Iterator  # a fresh iterator of the dataset, each time one is asked for
    num_batches: int | None
    spans_epochs: bool  # one iterator for all epochs, each going on where the last one stopped
    on_epoch_begin: Callable[[], None]
    on_epoch_end: Callable[[], None]
    on_restart: Callable[[], None]  # before the first epoch, and before each pass over validation data


def keras_data(
    x,
    y=None,
    sample_weight=None,
    *,
    batch_size=None,
    steps_per_epoch=None,
    epochs=1,
    shuffle=False,
    class_weight=None,
    model=None,
    **workers,
) -> KerasData:
    """Anything that `fit` takes, through the adapters that `fit` itself uses.

    They are private in both generations, but their signatures have not changed since Keras 3.0 and 2.4.
    """
    if IS_KERAS_3:
        if workers:
            raise ValueError(
                "`workers`, `use_multiprocessing` and `max_queue_size` must be given to the `keras.utils.PyDataset`, "
                f"not to `custom_fit`, in Keras 3. Received: {workers}"
            )
        adapters = importlib.import_module("keras.src.trainers.data_adapters")
        with _some_data():
            adapter = adapters.get_data_adapter(
                x=x,
                y=y,
                sample_weight=sample_weight,
                batch_size=batch_size,
                steps_per_epoch=steps_per_epoch,
                shuffle=shuffle,
                class_weight=class_weight,
            )
        dataset, num_batches = adapter.get_tf_dataset(), _finite(adapter.num_batches)
        return KerasData(
            dataset=dataset,
            iterators=_iterators(dataset, unused_after=KERAS_VERSION >= (3, 7) and num_batches is not None),
            num_batches=num_batches,
            spans_epochs=steps_per_epoch is not None,
            on_epoch_begin=getattr(adapter, "on_epoch_begin", _nothing),
            on_epoch_end=adapter.on_epoch_end,
            on_restart=adapter.on_epoch_end if KERAS_VERSION >= (3, 7) else _nothing,
        )
    package = keras.Model.__module__.rpartition(".")[0]
    with _some_data():
        handler = importlib.import_module(f"{package}.data_adapter").get_data_handler(
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            shuffle=shuffle,
            class_weight=class_weight,
            model=model,
            **workers,
        )
    return KerasData(
        dataset=handler._dataset,
        iterators=_iterators(handler._dataset, unused_before=handler._adapter.should_recreate_iterator()),
        num_batches=handler.inferred_steps,
        spans_epochs=not handler._adapter.should_recreate_iterator(),
        on_epoch_begin=_nothing,
        on_epoch_end=handler._adapter.on_epoch_end,
        on_restart=_nothing,
    )


@contextlib.contextmanager
def _some_data():
    """The adapters ask a generator for its first batches, and differ in what they raise where there are none."""
    try:
        yield
    except (StopIteration, IndexError) as error:
        raise ValueError(f"The data must give at least one batch. Received: none ({error!r})") from error


def _nothing() -> None:
    pass


def _iterators(dataset: tf.data.Dataset, unused_before: bool = False, unused_after: bool = False) -> Iterator:
    """Iterators as `fit` makes them: some it never reads, and each moves the seed of a `shuffle(seed=)`."""
    if unused_before:
        iter(dataset)
    while True:
        yield iter(dataset)
        if unused_after:
            iter(dataset)


def _finite(count) -> int | None:
    return None if count is None or math.isinf(count) or count < 0 else int(count)
