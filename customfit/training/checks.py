"""What would fail in the first step, in evaluation or after an epoch: refused before the first step, in one sentence.

Only what `fit` cannot train on either is refused, and only where Keras computes the loss. A `train_step`, `test_step`,
`compute_loss` or loss of the user's own may do with a batch what it likes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from customfit import compat
from customfit.callbacks import AveragedWeights, EarlyStopping, History, LogEvery, unknown_monitor
from customfit.compat import keras, tf
from customfit.data import Source
from customfit.execution import StepName, compiled_steps

ONE_HOT_LOSSES = ("categorical_crossentropy", "categorical_focal_crossentropy")
# These compare targets and outputs element by element.
ELEMENTWISE_LOSSES = (
    *("mean_squared_error", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_logarithmic_error"),
    *("huber", "log_cosh", "logcosh", "binary_crossentropy", "binary_focal_crossentropy", "poisson", "kl_divergence"),
)

ADD_LOGS = ("LambdaCallback", "LearningRateScheduler", "ReduceLROnPlateau")  # of Keras's callbacks


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuses what is no callback.

    Args:
        callbacks: What was given as callbacks; a list may hold further lists.

    Raises:
        TypeError: If one is a class or a function.
    """
    for callback in callbacks:
        if isinstance(callback, (list, tuple)):
            check_callbacks(callback)
        elif isinstance(callback, type):
            raise TypeError(
                f"`callbacks` must hold objects, not classes: write `{callback.__name__}(...)`. Received: {callback}"
            )
        elif not hasattr(callback, "set_model"):
            raise TypeError(
                "`callbacks` must hold `keras.callbacks.Callback`s; `keras.callbacks.LambdaCallback` calls functions. "
                f"Received: {callback!r}"
            )


def check_targets(model: keras.Model, source: Source, step: StepName, name: str) -> None:
    """Refuses batches without targets, or with targets that the losses of `compile()` cannot take.

    Args:
        model: The model.
        source: The batches.
        step: The step that they are for.
        name: The argument that they were given as: "y" or "validation_data".

    Raises:
        ValueError: If there are no targets, or they are strings or of another shape than the losses need.
    """
    spec = getattr(source, "element_spec", None)
    if spec is None or not _keras_computes_loss(model, step):
        return
    _, targets, _ = keras.utils.unpack_x_y_sample_weight(spec)
    how = (
        "be given, or be part of the batches" if name == "y" else "hold targets, as `(x, y)` or in each of its batches"
    )
    if targets is None:
        raise ValueError(f"`{name}` must {how}: the loss of `compile()` needs targets. Received: no targets")
    losses = [_keras_name(loss) for loss in tf.nest.flatten(model.loss) if loss is not None]
    specs = [leaf for leaf in tf.nest.flatten(targets) if isinstance(leaf, tf.TensorSpec)]
    if None not in losses and any(leaf.dtype == tf.string for leaf in specs):
        raise ValueError(
            f"`{name}` must have numbers as targets, for the loss {losses[0]!r}. Turn labels into integers, as "
            "`np.unique(y, return_inverse=True)` and `keras.layers.StringLookup` do. Received: strings"
        )
    shape = _only_output_shape(model)
    if shape is not None and len(losses) == len(specs) == 1 and losses[0] is not None and specs[0].shape.rank:
        _check_shape(losses[0], specs[0].shape.as_list(), shape, name)


def check_labels(model: keras.Model, targets: Any, name: str) -> None:
    """Refuses integer labels that are no class of the output. On a GPU and under XLA, Keras would train on to NaN.

    Args:
        model: The model.
        targets: The targets of all rows, if they are an array or tensor. Anything else passes.
        name: The argument that they were given as.

    Raises:
        ValueError: If a label is negative, or not below the number of classes.
    """
    shape = _only_output_shape(model)
    is_array = isinstance(targets, (np.ndarray, tf.Tensor)) and np.size(targets) > 0
    if shape is None or not is_array or not _keras_computes_loss(model, "train_step"):
        return
    losses = [loss for loss in tf.nest.flatten(model.loss) if loss is not None]
    if len(losses) != 1 or _keras_name(losses[0]) != "sparse_categorical_crossentropy":
        return
    config = losses[0].get_config() if isinstance(losses[0], keras.losses.Loss) else {}
    targets, classes = np.asarray(targets), shape[-1]
    if classes is None or config.get("ignore_class") is not None or not np.issubdtype(targets.dtype, np.number):
        return
    least, most = targets.min(), targets.max()
    if not (least >= 0 and most < classes):
        raise ValueError(
            f"`{name}` must hold labels from 0 to {classes - 1}, since the output has {classes} classes. Received: "
            f"labels from {least} to {most}"
        )


def check_monitor(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    data: Source,
    validation: Mapping[str, Source],
) -> None:
    """Refuses an `EarlyStopping` that monitors what no step logs.

    The steps are traced for that, as their first blocks would trace them. Where another callback may add to the logs,
    it shows after the first epoch.

    Args:
        model: The model, compiled.
        callbacks: All callbacks of the run.
        data: The training data.
        validation: The validation data, by the prefix of its logs.

    Raises:
        ValueError: If there is no such log.
    """
    stopping = next((callback for callback in callbacks if type(callback) is EarlyStopping), None)
    if stopping is None or stopping.monitor is None or any(map(_may_add_logs, callbacks)):
        return
    prefix = max((prefix for prefix in validation if stopping.monitor.startswith(prefix)), key=len, default="")
    steps = compiled_steps(model)
    names = steps.train.log_names(getattr(data, "element_spec", None))
    if names is not None and prefix:
        names = steps.test.log_names(getattr(validation[prefix], "element_spec", None))
    if names is not None and stopping.monitor[len(prefix) :] not in names:
        raise unknown_monitor(stopping.monitor, [prefix + name for name in names])


def check_averaging(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Refuses an `AveragedWeights` beside early stopping that would put the weights of the best epoch in its place.

    Args:
        callbacks: All callbacks of the run.

    Raises:
        ValueError: If there are both.
    """
    restoring = [callback for callback in callbacks if getattr(callback, "restore_best_weights", False)]
    if restoring and any(isinstance(callback, AveragedWeights) for callback in callbacks):
        raise ValueError(
            "`AveragedWeights` must be used with early stopping that has `restore_best_weights=False`: the weights of "
            f"the best epoch would replace the averaged ones. Received: a {type(restoring[0]).__name__} that restores"
        )


def _keras_computes_loss(model: keras.Model, step: StepName) -> bool:
    is_given = any(loss is not None for loss in tf.nest.flatten(getattr(model, "loss", None)))
    return is_given and type(model).compute_loss is keras.Model.compute_loss and model.results_of(step) is not None


def _keras_name(loss: Any) -> str | None:
    """Returns the name of a loss of Keras, as its function is called, or `None` for any other."""
    with contextlib.suppress(ValueError):  # part of what Keras will refuse itself
        loss = keras.losses.get(loss)
    found = type(loss) if isinstance(loss, keras.losses.Loss) else loss
    name = getattr(found, "__name__", "")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() if getattr(keras.losses, name, None) is found else None


def _only_output_shape(model: keras.Model) -> tuple[int | None, ...] | None:
    """Returns the shape of the output of a functional or Sequential model that has one, or `None`."""
    outputs = compat.known_outputs(model)
    return tuple(outputs[0].shape) if len(outputs) == 1 and len(outputs[0].shape) > 1 else None


def _check_shape(loss: str, targets: list[int | None], output: tuple[int | None, ...], name: str) -> None:
    """Refuses targets whose shape no Keras takes for the loss. Shapes begin with the batch."""
    classes, depth = output[-1], targets[-1] if len(targets) == len(output) else None
    received = f"Received: targets of shape {tuple(targets)}, an output of shape {output}"
    if classes is None or classes == 1:
        return
    if loss == "sparse_categorical_crossentropy" and depth not in (None, 1):
        raise ValueError(
            f"`{name}` must hold an integer label for each row, for the loss {loss!r}. With one-hot targets, compile "
            f"with 'categorical_crossentropy', or pass `y.argmax(-1)`. {received}"
        )
    if loss in ONE_HOT_LOSSES and (depth == 1 or len(targets) == len(output) - 1):
        raise ValueError(
            f"`{name}` must hold one-hot targets, for the loss {loss!r}. With integer labels, compile with "
            f"'sparse_categorical_crossentropy', or pass `keras.utils.to_categorical(y, {classes})`. {received}"
        )
    known = [pair for pair in zip(targets[1:], output[1:]) if None not in pair and 1 not in pair]
    if loss in ELEMENTWISE_LOSSES and len(targets) == len(output) and any(ours != theirs for ours, theirs in known):
        raise ValueError(f"`{name}` must hold targets of the shape of the output, for the loss {loss!r}. {received}")


def _may_add_logs(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback may add to an epoch's logs: of Keras's, `ADD_LOGS` and those with a hook bound to them."""
    name = type(callback).__name__
    is_known = type(callback) in (EarlyStopping, History, LogEvery) or getattr(keras.callbacks, name, None) is type(
        callback
    )
    return not is_known or name in ADD_LOGS or "on_epoch_end" in vars(callback)
