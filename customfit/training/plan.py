"""What a call of `custom_fit` would do, in numbers, before it does it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training will take. It prints as a table.

    Attributes:
        resumes_at: The epoch and the step of it, counted from 0, at which it takes up what a checkpoint holds; `None`:
            it begins. All that follows is of what is left to do.
        epochs: How many epochs.
        steps: How many steps in all, or `None` where the data does not tell.
        updates: How many updates of the weights, or `None`.
        validations: How many passes of validation, or `None`.
        checkpoints: How many checkpoints, at least; `None` where that depends on time or on the data.
        parameter_bytes: What the weights take.
        optimizer_bytes: What the optimizer's slots take, or `None` where it does not tell.
        gradient_bytes: What a gradient of each trainable weight takes, and another one where they are accumulated.
        data_bytes: What arrays in memory take, or `None`.
        conflicts: Options that do not go together, or do nothing, in words.
    """

    resumes_at: tuple[int, int] | None
    epochs: int
    steps: int | None
    updates: int | None
    validations: int | None
    checkpoints: int | None
    parameter_bytes: int
    optimizer_bytes: int | None
    gradient_bytes: int
    data_bytes: int | None
    conflicts: tuple

    def __str__(self) -> str:
        lines = [] if self.resumes_at is None else [("goes on at", "epoch {}, step {}".format(*self.resumes_at))]
        lines += [
            ("epochs", f"{self.epochs}"),
            ("steps", _count(self.steps)),
            ("updates", _count(self.updates)),
            ("validations", _count(self.validations)),
            ("checkpoints", _count(self.checkpoints)),
            ("weights", _megabytes(self.parameter_bytes)),
            ("gradients", _megabytes(self.gradient_bytes)),
            ("optimizer", _megabytes(self.optimizer_bytes)),
            ("data", _megabytes(self.data_bytes)),
        ]
        table = [f"{name:<12}{value}" for name, value in lines]
        return "\n".join([*table, "activations of the forward pass come on top", *map("! {}".format, self.conflicts)])


def make_plan(
    model: keras.Model,
    data: Any,
    validation: Any,
    *,
    epochs: int,
    initial_epoch: int,
    max_steps: int | None,
    resumed: dict | None,
    refused: str | None,
    checkpoint_dir: Any,
    checkpoint_interval: Any,
    early_stopping: Any,
    callbacks: list,
) -> Plan:
    """Counts what a training will take, without a step.

    Args:
        model: The model.
        data: The source that would be trained on.
        validation: The session's `Validation`.
        epochs: As in `custom_fit`, like all that follow.
        initial_epoch: The epoch at which training would begin.
        max_steps: The limit.
        resumed: How far the training is that would be taken up, as `Checkpointer.look` says.
        refused: And why it would not, in words, or `None`.
        checkpoint_dir: Where checkpoints would go.
        checkpoint_interval: And when.
        early_stopping: The callback, or `None`.
        callbacks: All callbacks.
    """
    at = resumed or {"epoch": initial_epoch, "step": 0, "total_steps": 0, "stopped": False}
    begin, done = at["step"], at["total_steps"]
    count = 0 if at["stopped"] else max(0, epochs - at["epoch"])
    total = None if data.steps is None else done + max(0, count * data.steps - begin)
    if max_steps is not None:
        total = max(done, max_steps if total is None else min(total, max_steps))
    steps = None if total is None else total - done
    if steps is not None and data.steps:
        count = min(count, math.ceil((begin + steps) / data.steps))
    validations: int | None = sum(validation.due_after_epoch(at["epoch"] + epoch) for epoch in range(count))
    if validation.interval is not None:
        validations = None if total is None else total // validation.interval - done // validation.interval
    accumulation = _accumulation(model)
    whole = max(0, epochs - initial_epoch)  # what was done before a resume counts for whether a point is ever reached
    if total is not None and data.steps:
        whole = min(whole, math.ceil(total / data.steps))
    options = (max_steps, validation, checkpoint_dir, checkpoint_interval, early_stopping, callbacks)
    return Plan(
        resumes_at=None if resumed is None else (at["epoch"], begin),
        epochs=count,
        steps=steps,
        updates=None if steps is None else _updates(begin, begin + steps, data.steps, accumulation),
        validations=validations,
        checkpoints=_checkpoints(checkpoint_dir, checkpoint_interval, count, done, total),
        parameter_bytes=_bytes(model.weights),
        optimizer_bytes=_optimizer_bytes(model),
        gradient_bytes=_bytes(model.trainable_weights) * (2 if model.gradient_pipeline.accumulation_steps else 1),
        data_bytes=getattr(data, "nbytes", None),
        conflicts=(*_notes(data, refused), *_conflicts(whole, total, *options)),
    )


def _conflicts(
    epochs: int,
    steps: int | None,
    max_steps: int | None,
    validation: Any,
    checkpoint_dir: Any,
    checkpoint_interval: Any,
    early_stopping: Any,
    callbacks: list,
) -> list[str]:
    found = []
    if max_steps is not None and steps is not None and steps < max_steps:
        found.append(f"max_steps={max_steps} is never reached: there are {steps} steps")
    if validation.interval is not None and steps is not None and validation.interval > steps:
        found.append(f"validation_interval={validation.interval} is never reached: there are {steps} steps")
    if validation.data and validation.interval is None and not any(map(validation.due_after_epoch, range(epochs))):
        found.append(f"validation_freq={validation.freq} is never reached: there are {epochs} epochs")
    patience = getattr(early_stopping, "patience", 0)
    if early_stopping is not None and validation.interval is None and patience >= epochs:
        found.append(f"early_stopping waits for {patience} epochs, and there are {epochs}")
    if checkpoint_dir is None and checkpoint_interval != "epoch":
        found.append(f"checkpoint_interval={checkpoint_interval} does nothing without checkpoint_dir")
    if checkpoint_dir is not None and isinstance(checkpoint_interval, int) and steps and checkpoint_interval > steps:
        found.append(f"checkpoint_interval={checkpoint_interval} is never reached: there are {steps} steps")
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val_") and not validation.data:
            found.append(f"{type(callback).__name__} monitors {monitor}, and there is no validation data")
    return found


def _notes(data: Any, refused: str | None) -> list[str]:
    read = [] if getattr(data, "restarts", True) else ["the generator has given its first batch to this plan"]
    return read if refused is None else [refused, *read]


def _checkpoints(directory: Any, interval: Any, epochs: int, done: int, total: int | None) -> int | None:
    if directory is None:
        return 0
    if interval == "epoch":
        return epochs
    if total is None or not isinstance(interval, int):
        return None
    return math.ceil(total / interval) - done // interval if total > done else 0


def _updates(begin: int, end: int, epoch_steps: int | None, accumulation: int) -> int:
    """Of steps counted from the begin of the first epoch. Each epoch ends with an update by what is left."""
    epochs, rest = divmod(end, epoch_steps or max(end, 1))
    in_epoch = math.ceil((epoch_steps or end) / accumulation)
    return epochs * in_epoch + math.ceil(rest / accumulation) - begin // accumulation


def _accumulation(model: keras.Model) -> int:
    return int(
        model.gradient_pipeline.accumulation_steps or getattr(model.optimizer, "gradient_accumulation_steps", None) or 1
    )


def _bytes(variables: list) -> int:
    return sum(int(np.prod(variable.shape)) * np.dtype(_dtype(variable)).itemsize for variable in variables)


def _dtype(variable: Any) -> str:
    return getattr(variable.dtype, "name", variable.dtype)


def _optimizer_bytes(model: keras.Model) -> int | None:
    """The slots of an optimizer like the model's, seen on a variable of one odd shape, times the trainable weights."""
    twin = type(model.optimizer).from_config(model.optimizer.get_config())
    if not hasattr(twin, "build"):
        return None  # a legacy optimizer
    make = getattr(keras, "Variable", compat.tf.Variable)
    twin.build([make(np.zeros(7, "float32"))])
    slots = sum(tuple(variable.shape) == (7,) for variable in compat.variables_of_optimizer(twin))
    return slots * _bytes(model.trainable_weights)


def _count(number: int | None) -> str:
    return "not known before" if number is None else f"{number:,}"


def _megabytes(number: int | None) -> str:
    return "not known before" if number is None else f"{number / 1e6:,.1f} MB"
