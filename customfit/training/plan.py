"""`Plan`: what a call of `custom_fit` would do, in numbers."""

from __future__ import annotations

import dataclasses
import datetime
import html
import math
import numbers
from typing import Any

import numpy as np

from customfit import compat
from customfit.checkpoint import Checkpoints
from customfit.compat import keras
from customfit.data import Source
from customfit.execution import compiled_steps
from customfit.training.checkpointing import SessionCheckpoints
from customfit.training.costs import step_costs
from customfit.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a call of `custom_fit` would do. It prints as a table.

    Attributes:
        resumes_at: The epoch and its step, counted from 0, at which a checkpoint would be resumed. `None`: the run
            starts. All that follows counts what is left.
        epochs: How many epochs.
        steps: How many steps in all, or `None` where the data does not tell.
        updates: How many updates of the weights, or `None`.
        validations: How many validation passes, or `None`.
        checkpoints: How many checkpoints, at least. `None` where that depends on time or on the data.
        parameter_bytes: The size of the weights.
        optimizer_bytes: The size of the optimizer's slots, or `None` where it does not tell.
        gradient_bytes: The size of a gradient for each trainable weight, twice that where they are accumulated.
        data_bytes: The size of arrays in memory, or `None`.
        parameters: How many weights there are.
        step_flops: Floating-point operations of a step's forward and backward pass, as far as TensorFlow counts them
            (not within loops, as of an LSTM on a CPU). `None` where the shapes of batches are not known, or the model
            has no weights yet.
        activation_bytes: The size of what the forward pass of a batch leaves for the backward pass, likewise.
        seconds: How long the steps take, by the last ones that this model has trained in this process. `None` if it has
            trained none.
        conflicts: What would have no effect, or never be reached, in words: a limit, validation, checkpoints, patience,
            a monitor; that no epoch is left, that the checkpoint is refused, that a generator has been read.
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
    parameters: int = 0
    step_flops: int | None = None
    activation_bytes: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        table = [f"{name:<12}{value}" for name, value in self._lines()]
        return "\n".join([*table, *map("! {}".format, self.conflicts)])

    def _repr_html_(self) -> str:
        """The table, as notebooks show it."""
        rows = [f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._lines()]
        conflicts = [f"<p>! {html.escape(conflict)}</p>" for conflict in self.conflicts]
        return "".join(["<table>", *rows, "</table>", *conflicts])

    def _lines(self) -> list[tuple[str, str]]:
        lines = [] if self.resumes_at is None else [("resumes at", "epoch {}, step {}".format(*self.resumes_at))]
        lines += [
            ("epochs", f"{self.epochs}"),
            ("steps", _count(self.steps)),
            ("updates", _count(self.updates)),
            ("validations", _count(self.validations)),
            ("checkpoints", _count(self.checkpoints)),
            ("parameters", _count(self.parameters)),
            ("weights", _size(self.parameter_bytes)),
            ("gradients", _size(self.gradient_bytes)),
            ("optimizer", _size(self.optimizer_bytes)),
            ("activations", _size(self.activation_bytes)),
            ("data", _size(self.data_bytes)),
            ("a step", "not known" if self.step_flops is None else f"{self.step_flops / 1e9:,.3g} GFLOP"),
            ("time", "not known" if self.seconds is None else str(datetime.timedelta(seconds=math.ceil(self.seconds)))),
        ]
        return lines


def make_plan(
    model: keras.Model,
    data: Source,
    validation: Validation,
    checkpoints: SessionCheckpoints,
    epochs: range,
    max_steps: int | None,
    early_stopping: keras.callbacks.Callback | None,
    callbacks: list[keras.callbacks.Callback],
) -> Plan:
    """Counts what a training run will take, without a step.

    Args:
        model: The model.
        data: The source that would be trained on.
        validation: When and on what the session validates.
        checkpoints: Whether it resumes, and when it saves.
        epochs: The epochs of a run that starts.
        max_steps: The limit, or `None`.
        early_stopping: The callback, or `None`.
        callbacks: All callbacks.
    """
    resumed, refused = checkpoints.peek(data)
    at = resumed or {"epoch": epochs.start, "step": 0, "total_steps": 0, "stopped": False}
    begin, done = at["step"], at["total_steps"]
    count = 0 if at["stopped"] else max(0, epochs.stop - at["epoch"])
    total = None if data.steps is None else done + max(0, count * data.steps - begin)
    if max_steps is not None:
        total = max(done, max_steps if total is None else min(total, max_steps))
    steps = None if total is None else total - done
    if steps is not None and data.steps:
        count = min(count, math.ceil((begin + steps) / data.steps))
    validations: int | None = sum(validation.due_after_epoch(at["epoch"] + epoch) for epoch in range(count))
    if validation.is_within_epochs:
        validations = None
        if total is not None and validation.steps is not None:
            validations = total // validation.steps - done // validation.steps
    accumulation = _accumulation(model)
    costs = step_costs(model, getattr(data, "element_spec", None), getattr(data, "batch_size", None))
    pace = compiled_steps(model).train.pace.seconds_a_step
    whole = len(epochs)  # what was done before a resume counts for whether a point is ever reached
    if total is not None and data.steps:
        whole = min(whole, math.ceil(total / data.steps))
    return Plan(
        resumes_at=None if resumed is None else (at["epoch"], begin),
        epochs=count,
        steps=steps,
        updates=None if steps is None else _updates(begin, begin + steps, data.steps, accumulation),
        validations=validations,
        checkpoints=_checkpoints(checkpoints.options, at["epoch"], count, done, total),
        parameter_bytes=_bytes(compat.variables_in(model.weights)),
        optimizer_bytes=_optimizer_bytes(model),
        gradient_bytes=_bytes(model.trainable_weights) * (2 if model.gradient_pipeline.accumulation_steps else 1),
        data_bytes=getattr(data, "nbytes", None),
        conflicts=(
            *_notes(data, refused),
            *_never_reached(whole, total, max_steps, validation, checkpoints.options),
            *_conflicts(whole, validation, early_stopping, callbacks),
        )
        if epochs
        else (f"nothing is trained: epochs={epochs.stop}, initial_epoch={epochs.start}",),
        parameters=sum(int(np.prod(variable.shape)) for variable in compat.variables_in(model.weights)),
        step_flops=None if costs is None else costs.flops,
        activation_bytes=None if costs is None else costs.activation_bytes,
        seconds=None if pace is None or steps is None else pace * steps,
    )


def _never_reached(
    epochs: int,
    steps: int | None,
    max_steps: int | None,
    validation: Validation,
    checkpoints: Checkpoints | None,
) -> list[str]:
    found = []
    if max_steps is not None and steps is not None and steps < max_steps:
        found.append(f"max_steps={max_steps} is never reached: there {_are(steps, 'step')}")
    if validation.steps is not None and steps is not None and validation.steps > steps:
        found.append(f"validation_freq={validation.freq} is never reached: there {_are(steps, 'step')}")
    if validation.data and not validation.is_within_epochs and not any(map(validation.due_after_epoch, range(epochs))):
        found.append(f"validation_freq={validation.freq} is never reached: there {_are(epochs, 'epoch')}")
    every = None if checkpoints is None else checkpoints.every
    if every is not None and every.steps is not None and steps and every.steps > steps:
        found.append(f"Checkpoints(every={every}) is never reached: there {_are(steps, 'step')}")
    if every is not None and every.epochs is not None and every.epochs > epochs > 0:
        found.append(f"Checkpoints(every={every}) is never reached: there {_are(epochs, 'epoch')}")
    return found


def _conflicts(
    epochs: int,
    validation: Validation,
    early_stopping: keras.callbacks.Callback | None,
    callbacks: list[keras.callbacks.Callback],
) -> list[str]:
    found = []
    patience = getattr(early_stopping, "patience", 0)
    if early_stopping is not None and not validation.is_within_epochs and patience >= epochs:
        found.append(f"early_stopping has patience={patience}, and there {_are(epochs, 'epoch')}")
    if not validation.data and not (isinstance(validation.freq, numbers.Integral) and validation.freq == 1):
        found.append(f"validation_freq={validation.freq} has no effect: there is no validation data")
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("val_") and not validation.data:
            found.append(f"{type(callback).__name__} monitors {monitor}, and there is no validation data")
    return found


def _are(count: int, what: str) -> str:
    return f"is 1 {what}" if count == 1 else f"are {count} {what}s"


def _notes(data: Source, refused: str | None) -> list[str]:
    read = [] if getattr(data, "restarts", True) else ["the generator has given its first batch to this plan"]
    return read if refused is None else [refused, *read]


def _checkpoints(checkpoints: Checkpoints | None, epoch: int, epochs: int, done: int, total: int | None) -> int | None:
    """How many checkpoints at least: the last of all is made when training ends."""
    if checkpoints is None:
        return 0
    every = checkpoints.every
    if every.epochs is not None:
        return math.ceil((epoch + epochs) / every.epochs) - epoch // every.epochs if epochs else 0
    if total is None or every.steps is None:
        return None
    return math.ceil(total / every.steps) - done // every.steps if total > done else 0


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
    slots = sum(tuple(variable.shape) == (7,) for variable in compat.optimizer_variables(twin))
    return slots * _bytes(model.trainable_weights)


def _count(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _size(number: int | None) -> str:
    if number is None:
        return "not known"
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"
