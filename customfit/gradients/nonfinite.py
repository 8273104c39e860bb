"""What becomes of a step whose loss or gradients are not finite: `compile(nonfinite=)`.

Whether they are is found out in the graph, and nothing waits for it: a bad step changes nothing, and where training is
to end, neither do the steps after it, until Python looks once the block is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.execution import VariableSnapshot, replicas
from customfit.gradients import step_dump
from customfit.gradients.clipping import Gradient

POLICIES = ("skip", "raise", "stop")
LOSS = -1  # as `culprit`; others are the index of a variable


class NonFiniteError(FloatingPointError):
    """The loss or a gradient was not finite, under `compile(nonfinite="raise")`.

    Attributes:
        what: `"loss"`, or the name of the first variable whose gradient was not finite.
        epoch: The epoch, counted from 0.
        step: The step of the epoch, counted from 0.
        path: Where the step was saved for `customfit.debug.replay`, or `None`.
    """

    def __init__(self, what: str, epoch: int, step: int, path: str | None = None):
        self.what, self.epoch, self.step, self.path = what, epoch, step, path
        seen = "the loss" if what == "loss" else f"the gradient of {what}"
        saved = f" `customfit.debug.replay({path!r})` runs the step again." if path else ""
        super().__init__(f"In step {step} of epoch {epoch} {seen} is not finite; no weight has been changed.{saved}")


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


class Guard:
    """Has a step that is not finite change nothing: no weight, slot or metric, nor random state.

    Args:
        option: The policy and its options, or `None`.

    Attributes:
        policy: The policy, or `None`.
        dump: The folder in which the step is saved, or `None`.
        variables: What it counts in.
        ends: Whether a bad step is the last one.
    """

    def __init__(self, option: NonFinite | None):
        self.policy = None if option is None else option.policy
        self.dump: Any = None if option is None else option.dump
        self.ends = self.policy in ("raise", "stop")
        self.variables: list[tf.Variable] = []
        self._names: list[str] = []
        self._complete = False  # whether all metrics have their variables
        self._here = threading.local()  # replicas are traced in threads

    def build(self) -> None:
        """Makes its variables."""
        if not self.variables:
            self._steps = replicas.variable(tf.constant(0, tf.int64), "steps")
            self._skipped = replicas.variable(tf.constant(0, tf.int64), "skipped_steps")
            self._bad_step = replicas.variable(tf.constant(-1, tf.int64), "bad_step")
            self._culprit = replicas.variable(tf.constant(LOSS, tf.int64), "culprit")
            self.variables = [self._steps, self._skipped, self._bad_step, self._culprit]

    @property
    def steps(self) -> int:
        """How many steps have been looked at. It waits for the device."""
        return int(self._steps.numpy()) if self.variables else 0

    @property
    def skipped(self) -> int:
        """How many steps were skipped."""
        return int(self._skipped.numpy()) if self.variables else 0

    @contextlib.contextmanager
    def undo_if_bad(self, model: Any, data: Any) -> Iterator[None]:
        """What surrounds a step on a batch of data, so that a bad one is as if it had not been."""
        if self.policy is None:
            yield
            return
        if not self._complete and replicas.replica_count() == 1:  # on several, both Kerases have made them before
            # Traces a step of validation and throws it away: metrics whose variables came into being only now would
            # not be among those to undo.
            tf.function(model.test_step, autograph=False).get_concrete_function(data)
            self._complete = True
        kept = VariableSnapshot([variable for variable in compat.step_state(model) if replicas.can_assign(variable)])
        self._here.bad = None
        yield
        bad = self._here.bad
        if bad is None:
            return  # a step that has updated nothing

        kept.restore_where(bad)
        if self.dump is not None:
            step_dump.write_structure(self.dump, data)
            first = bad & tf.equal(self._bad_step, self._steps - 1)
            tf.cond(first, lambda: step_dump.write_batch(self.dump, data), lambda: tf.constant(0))

    def add_names(self, variables: Sequence[Any]) -> int:
        """Takes down the names of variables that may be to blame. Returns the index of the first."""
        first = len(self._names)
        self._names += [compat.variable_path(variable) for variable in variables]
        return first

    def check(
        self, gradients: Sequence[Gradient], loss: Any, scaled: bool, first_name: int = 0, begins_step: bool = True
    ) -> tf.Tensor:
        """Whether this step must change nothing, the same on all replicas.

        Args:
            gradients: The gradients.
            loss: The loss, or `None`.
            scaled: Whether a dynamic loss scale finds its value by gradients that overflow. They are its business then.
            first_name: What `know` returned for their variables.
            begins_step: Whether this is the first of the updates of a step.
        """
        if begins_step:
            self._steps.assign_add(1)
        seen = [tf.constant(True) if loss is None else _is_finite(loss)]
        seen += [tf.constant(True) if scaled or gradient is None else _is_finite(gradient) for gradient in gradients]
        infinite = tf.stack([tf.logical_not(finite) for finite in seen])
        bad = replicas.on_any_replica(tf.reduce_any(infinite))
        if self.ends:
            first = bad & (self._bad_step < 0)
            # The first replica speaks for all; what was bad on another one is then found by its gradients' sum.
            found = tf.argmax(tf.cast(infinite, tf.int32)) - 1
            index = tf.where(tf.reduce_any(infinite) & (found >= 0), found + first_name, LOSS)
            self._culprit.assign(tf.where(first, index, self._culprit))
            self._bad_step.assign(tf.where(first, self._steps - 1, self._bad_step))
            bad = bad | (self._bad_step >= 0)
        self._skipped.assign_add(tf.cast(bad, tf.int64))
        self._here.bad = bad
        return bad

    def count_skipped(self, skipped: tf.Tensor) -> None:
        """Counts a step that the optimizer skips by itself, because its loss scale was too large."""
        self._skipped.assign_add(tf.cast(skipped, tf.int64))

    def found(self) -> tuple[str, int] | None:
        """What was not finite in which of the steps that ended last, as `(what, steps ago)`, and forgets it.

        It waits for the device.
        """
        if not self.ends or not self.variables or int(self._bad_step.numpy()) < 0:
            return None
        culprit = int(self._culprit.numpy())
        ago = self.steps - int(self._bad_step.numpy())
        self._bad_step.assign(-1)
        return ("loss" if culprit == LOSS else self._names[culprit]), ago

    def save(self, model: Any) -> str | None:
        """Saves what the bad step began from, if asked to, beside its batch. Returns the folder.

        A batch is there only if the step was that of `CustomTrainMixin`.
        """
        if self.dump is None or not step_dump.has_batch(self.dump):
            return None
        step_dump.save_state(self.dump, model)
        return self.dump


def all_finite(gradients: Sequence[Gradient]) -> tf.Tensor:
    """Whether every element of every gradient is finite."""
    finite = [_is_finite(gradient) for gradient in gradients if gradient is not None]
    return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)


def _is_finite(tensor: Any) -> tf.Tensor:
    values = tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
    return tf.reduce_all(tf.math.is_finite(values))
