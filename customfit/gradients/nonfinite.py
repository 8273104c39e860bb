"""Steps whose loss or gradients are not finite: `compile(nonfinite=)`.

The check is in the graph, and no step waits for it. A bad step changes nothing. If it is to end training, neither do
the steps that follow it in its block, until Python reads the result after the block.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Callable

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch
from customfit.execution import Logs, TrainableModel, replicas
from customfit.gradients import step_dump
from customfit.gradients.clipping import Gradient
from customfit.gradients.undo import RunningStep, check_undoable, run_undoably

POLICIES = ("skip", "raise", "stop")
LOSS = -1  # as the culprit; others are the index of a variable


class NonFiniteError(FloatingPointError):
    """Raised under `compile(nonfinite="raise")` if the loss or a gradient is not finite.

    Args:
        what: `"loss"`, or the name of the first variable whose gradient is not finite.
        epoch: The epoch, counted from 0.
        step: The step of the epoch, counted from 0.
        path: The folder in which the step was saved for `customfit.debug.replay`, or `None`.

    Attributes:
        what: As the argument.
        epoch: As the argument.
        step: As the argument.
        path: As the argument.
    """

    def __init__(self, what: str, epoch: int, step: int, path: str | None = None):
        self.what, self.epoch, self.step, self.path = what, epoch, step, path
        culprit = "The loss" if what == "loss" else f"The gradient of {what}"
        advice = f" To run the step again with checks, call `customfit.debug.replay({path!r})`." if path else ""
        super().__init__(
            f"{culprit} is not finite in step {step + 1} of epoch {epoch + 1} (both counted from 1). No weight was "
            f"changed by it.{advice}"
        )


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """How a step is handled whose loss or gradients are not finite: `compile(nonfinite=NonFinite("raise"))`.

    Under every policy such a step changes nothing: no weight, optimizer slot, metric or random state. A plain string,
    `compile(nonfinite="skip")`, is the same without options.

    Args:
        policy: `"skip"` continues with the next step. `"raise"` raises a `NonFiniteError` that names the variable or
            the loss, the step and the epoch. `"stop"` ends the training run.
        dump: With `"raise"`, a folder in which the step is saved, for `customfit.debug.replay(folder)`. Kept as a
            string.

    Raises:
        ValueError: If there is no such policy, or `dump` is set with another one than `"raise"`.

    Example:

    >>> model.compile("adam", "mse", nonfinite=NonFinite("raise", dump="runs/bad_step"))
    """

    policy: str
    dump: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(
                f'`NonFinite(policy=)` must be "skip", "raise" or "stop". Received: policy={self.policy!r}'
            )
        if self.dump is None:
            return
        if not isinstance(self.dump, (str, os.PathLike)):
            raise ValueError(f"`NonFinite(dump=)` must be the path of a folder. Received: dump={self.dump!r}")
        if self.policy != "raise":
            raise ValueError(
                f'`NonFinite(dump=)` must go with the policy "raise". Received: policy={self.policy!r}, '
                f"dump={os.fspath(self.dump)!r}"
            )
        object.__setattr__(self, "dump", os.fspath(self.dump))

    @staticmethod
    def from_option(nonfinite: str | NonFinite | None) -> NonFinite | None:
        """Returns what `compile(nonfinite=)` asks for.

        Args:
            nonfinite: A policy, a `NonFinite`, or `None`.

        Raises:
            ValueError: If it is anything else.
        """
        if nonfinite is None or isinstance(nonfinite, NonFinite):
            return nonfinite
        if nonfinite not in POLICIES:
            raise ValueError(
                f'`nonfinite` must be None, "skip", "raise", "stop" or a `NonFinite`. Received: nonfinite={nonfinite!r}'
            )
        return NonFinite(nonfinite)


class NonFiniteGuard:
    """Finds steps that are not finite, and undoes what they have changed.

    Args:
        option: The policy and its options, or `None`.
        running: The step that is running, if one is.

    Attributes:
        policy: The policy, or `None`.
        dump: The folder in which a bad step is saved, or `None`.
        ends_training: Whether the first bad step is the last step.
        variables: The counters.
    """

    def __init__(self, option: NonFinite | None, running: RunningStep):
        self.policy = None if option is None else option.policy
        self.dump = None if option is None or option.dump is None else os.fspath(option.dump)
        self.ends_training = self.policy in ("raise", "stop")
        self.variables: list[tf.Variable] = []
        self._names: list[str] = []
        self._running = running

    def build(self) -> None:
        """Creates the counters."""
        if not self.variables:
            self._steps = replicas.variable(tf.constant(0, tf.int64), "steps")
            self._skipped = replicas.variable(tf.constant(0, tf.int64), "skipped_steps")
            self._bad = replicas.variable(tf.constant(False), "bad")  # whether the current step is
            self._bad_step = replicas.variable(tf.constant(-1, tf.int64), "bad_step")
            self._culprit = replicas.variable(tf.constant(LOSS, tf.int64), "culprit")
            self.variables = [self._steps, self._skipped, self._bad, self._bad_step, self._culprit]

    @property
    def steps(self) -> int:
        """How many steps have been checked. It waits for the device."""
        return int(self._steps.numpy()) if self.variables else 0

    @property
    def skipped(self) -> int:
        """How many steps were skipped. It waits for the device."""
        return int(self._skipped.numpy()) if self.variables else 0

    def run(
        self,
        model: TrainableModel,
        step: Callable[[Batch], Logs],
        data: Batch,
        kept: Callable[[], Sequence[tf.Variable]],
    ) -> tuple[Logs, tf.Tensor]:
        """Runs a step, and undoes what it has changed if it is bad: weights, metrics, random states, tables, all.

        Args:
            model: The model.
            step: The step.
            data: Its batch.
            kept: Returns variables that are not to be undone: those of the pipeline.

        Returns:
            The logs of the step, and whether it was bad.
        """
        self._steps.assign_add(1)
        self._bad.assign(False)
        logs, undo_where = run_undoably(step, model, data, self._running, kept)
        bad = self._bad.read_value()
        undo_where(bad)
        self._skipped.assign_add(tf.cast(bad, tf.int64))
        dump = self.dump
        if dump is not None:
            step_dump.write_structure(dump, data)
            first = bad & tf.equal(self._bad_step, self._steps - 1)
            tf.cond(first, lambda: step_dump.write_batch(dump, data), lambda: tf.constant(0))
        return logs, bad

    def add_names(self, variables: Sequence[tf.Variable]) -> int:
        """Adds variables whose gradients will be checked, for the error to name. Returns the index of the first.

        Args:
            variables: The variables.
        """
        first = len(self._names)
        self._names += [compat.variable_path(variable) for variable in variables]
        return first

    def check(
        self,
        gradients: Sequence[Gradient],
        loss: tf.Tensor | None,
        ignores_gradients: bool = False,
        first_name: int = 0,
    ) -> tf.Tensor:
        """Checks the gradients of an update.

        Args:
            gradients: The gradients.
            loss: The loss, or `None`.
            ignores_gradients: Whether only the loss is checked. A dynamic loss scale finds its value by gradients that
                overflow.
            first_name: What `add_names` returned for the variables.

        Returns:
            Whether the step must change nothing: a scalar, the same on all replicas.

        Raises:
            ValueError: If gradients are ignored and there is no loss: nothing would be checked.
        """
        check_undoable(self._running)
        if ignores_gradients and loss is None:
            raise ValueError(
                "With a dynamic loss scale, `nonfinite` needs the loss: by gradients that overflow the scale finds its "
                "value. Let `train_step` pass it:\n"
                "    gradients = self.compute_gradients(loss, tape)\n"
                "    self.apply_gradients(gradients, loss=loss)\n"
                "Received: an update without a loss."
            )
        if not self._running.is_running:  # an update in a loop of the user's is a step of its own
            self._steps.assign_add(1)
            self._bad.assign(False)
        checked: list[Gradient] = [loss, *([None] * len(gradients) if ignores_gradients else gradients)]
        infinite = replicas.on_any_replica(tf.stack([_is_infinite(tensor) for tensor in checked]))
        bad = self._bad.read_value() | tf.reduce_any(infinite)
        if self.ends_training:
            first = bad & (self._bad_step < 0)
            places = tf.range(len(checked), dtype=tf.int64)  # not `argmax`: under XLA it need not find the first
            found = tf.reduce_min(tf.where(infinite, places, len(checked))) - 1
            index = tf.where(found >= 0, found + first_name, LOSS)
            self._culprit.assign(tf.where(first, index, self._culprit))
            self._bad_step.assign(tf.where(first, self._steps - 1, self._bad_step))
            bad = bad | (self._bad_step >= 0)
        self._bad.assign(bad)
        if not self._running.is_running:
            self._skipped.assign_add(tf.cast(bad, tf.int64))
        return bad

    def count_skipped(self, skipped: tf.Tensor) -> None:
        """Counts a step that the optimizer skips by itself, because its loss scale was too large.

        Args:
            skipped: Whether it does.
        """
        self._skipped.assign_add(tf.cast(skipped, tf.int64))

    def pop_bad_step(self) -> tuple[str, int] | None:
        """Returns the bad step that ends training, if there was one, and forgets it. It waits for the device.

        Returns:
            What was not finite ("loss" or the name of a variable), and how many steps ago; or `None`.
        """
        if not self.ends_training or not self.variables or int(self._bad_step.numpy()) < 0:
            return None
        culprit = int(self._culprit.numpy())
        steps_ago = self.steps - int(self._bad_step.numpy())
        self._bad_step.assign(-1)
        return ("loss" if culprit == LOSS else self._names[culprit]), steps_ago

    def save_step(self, model: TrainableModel) -> str | None:
        """Saves the state before the bad step beside its batch, if `NonFinite(dump=)` asks for it.

        There is a batch only if the step was that of `CustomTrainMixin`.

        Args:
            model: The model.

        Returns:
            The folder, or `None` if nothing was saved.
        """
        if self.dump is None or not step_dump.has_batch(self.dump):
            return None
        step_dump.save_state(self.dump, model)
        return self.dump


def all_finite(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Whether every element of every gradient is finite, as a tensor.

    Args:
        gradients: The gradients.
    """
    infinite = [_is_infinite(gradient) for gradient in gradients if gradient is not None]
    return tf.logical_not(tf.reduce_any(tf.stack(infinite))) if infinite else tf.constant(True)


def _is_infinite(tensor: Gradient) -> tf.Tensor:
    """Whether any element is infinite or NaN; not if there is no tensor."""
    if tensor is None:
        return tf.constant(False)
    values = tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
    return tf.logical_not(tf.reduce_all(tf.math.is_finite(values)))
