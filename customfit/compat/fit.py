"""What `fit` and `evaluate` do around their steps: counters, logs as callbacks see them, and what is returned.

The epoch loop is the same in all generations. It calls these functions where `fit` of one generation does what another
does not, and where Keras's callbacks expect counters on the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from customfit.compat.steps import Tensors
from customfit.compat.versions import IS_KERAS_3, KERAS_VERSION, keras, module_beside_model, tf


def pythonify_logs(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns logs as Python numbers, in the form in which `fit` of this generation passes them to callbacks."""
    if not IS_KERAS_3:
        return tf.nest.map_structure(_keras_2_number, dict(logs or {}))
    numbers: dict[str, Any] = {}
    for name, value in sorted((logs or {}).items()):
        numbers.update(pythonify_logs(value) if isinstance(value, dict) else {name: _keras_3_number(value)})
    return numbers


def _keras_3_number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _keras_2_number(value: Any) -> Any:
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value


def log_names(logs: Mapping[str, Any]) -> set[str]:
    """Returns the names under which callbacks see logs: Keras 3 takes dicts in them apart."""
    names = set()
    for name, log in logs.items():
        names |= log_names(log) if IS_KERAS_3 and isinstance(log, Mapping) else {name}
    return names


def batch_logs(logs: dict[str, Any]) -> dict[str, Any]:
    """Returns a step's logs for `CallbackList.on_train_batch_end`. Only in Keras 3.0 to 3.5 must they be numbers."""
    return pythonify_logs(logs) if IS_KERAS_3 and KERAS_VERSION < (3, 6) else logs


def epoch_logs(logs: dict[str, Any]) -> dict[str, Any]:
    """Returns an epoch's logs for `CallbackList.on_epoch_end`, as numbers.

    From Keras 3.7 on, a dict among them is taken apart by the list, which sorts the logs by their names before it does.
    """
    if not IS_KERAS_3 or KERAS_VERSION < (3, 7):
        return pythonify_logs(logs)
    return {name: epoch_logs(log) if isinstance(log, dict) else _keras_3_number(log) for name, log in logs.items()}


def resolve_verbose(verbose: int | str) -> int | str:
    """Resolves `verbose="auto"` where `fit` does so. In Keras 3 the callbacks do."""
    if verbose == "auto" and not IS_KERAS_3:
        return 1 if keras.utils.is_interactive_logging_enabled() else 2
    return verbose


def batch_end_step(begin: int, planned: int, done: int) -> int:
    """Returns the step that `fit` passes to `on_train_batch_end` after an execution of several steps.

    Args:
        begin: The execution's first step.
        planned: How many steps it was to have.
        done: How many of them there was data for.
    """
    if not IS_KERAS_3:
        return begin + done - 1
    return begin + planned - 1 if KERAS_VERSION >= (3, 11) else begin


def start_training(model: keras.Model) -> None:
    """Resets the model's counter of training steps, where it has one, and `model.stop_training`."""
    model.stop_training = False
    if not IS_KERAS_3:
        model._train_counter.assign(0)


def first_epoch(model: keras.Model, initial_epoch: int, steps_per_epoch: int | None) -> int:
    """Returns the first epoch to run, once `on_train_begin` was called.

    It is `initial_epoch`, or a later one if Keras's `BackupAndRestore` has just restored a backup.
    """
    if IS_KERAS_3:
        return getattr(model, "_initial_epoch", None) or initial_epoch
    return model._maybe_load_initial_counters_from_ckpt(steps_per_epoch, initial_epoch)[0]


def compiled_trainable_state(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which layers are trainable as they were at `compile()`. `fit` of Keras 2 runs in one."""
    if IS_KERAS_3:
        return contextlib.nullcontext()
    return module_beside_model("training_utils").RespectCompiledTrainableState(model)


# What `fit` adds when it calls `evaluate`, of which all generations then use the data that `fit` was given.
AS_FIT_EVALUATES = {"_use_cached_eval_dataset": True}


def fit_patched_by() -> str | None:
    """Returns the package that has replaced `keras.Model.fit`, as tools do that log automatically, or `None`."""
    fit = keras.Model.fit
    package = str(getattr(fit, "__globals__", {}).get("__name__", "keras")).partition(".")[0]
    return None if package in ("keras", "tf_keras") else package


def show_train_graph(model: keras.Model, function: Any) -> None:
    """Sets the graph function that Keras 2's TensorBoard writes the training graph of."""
    if not IS_KERAS_3:
        model.train_tf_function = function


def reset_test_counter(model: keras.Model) -> None:
    """Resets the model's counter of test steps, where it has one."""
    if not IS_KERAS_3:
        model._test_counter.assign(0)


def count_step(model: keras.Model, training: bool) -> None:
    """Adds a step to the model's own counter, where it has one. Keras 2's TensorBoard reads it."""
    if not IS_KERAS_3:
        (model._train_counter if training else model._test_counter).assign_add(1)


def step_counters(model: keras.Model) -> list[tf.Variable]:
    """Returns the model's own counters of steps, where it has such: Keras 2 tracks them nowhere."""
    counters = [getattr(model, name, None) for name in ("_train_counter", "_test_counter")]
    return [counter for counter in counters if isinstance(counter, tf.Variable)]


def start_prediction(model: keras.Model) -> None:
    """Resets the model's counter of prediction steps, where it has one, and `model.stop_predicting`."""
    if IS_KERAS_3:
        model.stop_predicting = False
    else:
        model._predict_counter.assign(0)


def stops_predicting(model: keras.Model) -> bool:
    """Whether a callback has ended the prediction by `model.stop_predicting`, which Keras 3 heeds."""
    return IS_KERAS_3 and bool(model.stop_predicting)


def count_prediction_step(model: keras.Model) -> None:
    """Adds a step to the model's counter of prediction steps, where it has one. Keras 2's progress bar reads it."""
    if not IS_KERAS_3:
        model._predict_counter.assign_add(1)


def scalar_output(value: Any) -> Any:
    """Returns a scalar of a NumPy array as `predict` of this generation does. In Keras 2 it is a Python number."""
    return value if IS_KERAS_3 or not isinstance(value, np.generic) else value.item()


def evaluation_result(model: keras.Model, logs: dict[str, Any], return_dict: bool) -> Any:
    """Returns the logs of an evaluation as `evaluate` does: in a dict, in a list, or the only value as it is."""
    if return_dict:
        return logs
    if hasattr(keras.Model, "_flatten_metrics_in_order"):
        return model._flatten_metrics_in_order(logs)
    return module_beside_model("training").flatten_metrics_in_order(logs, model.metrics_names)


def single_batch_iterator(batch: Tensors) -> Iterator[Tensors]:
    """Returns an iterator of one batch, as `train_on_batch` gives it to `train_function`."""
    return iter([batch]) if IS_KERAS_3 else iter(tf.data.Dataset.from_tensors(batch))


def finalize_weights(model: keras.Model) -> None:
    """Overwrites the weights with their moving average if the optimizer has `use_ema`."""
    finalize = getattr(model.optimizer, "finalize_variable_values", None)
    if finalize is not None:
        finalize(model.trainable_variables)
