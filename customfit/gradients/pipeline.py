"""From the tape to new weights: unscale -> accumulate -> all-reduce -> finite? -> transform -> clip -> apply.

The order is what makes each stage right. Norms are of true gradients, not of those of a scaled loss. Those of
micro-batches and of replicas are summed before anything looks at them, so that it sees what one large batch on one
device would have given. What is not finite is found before it reaches a weight. What you do to gradients comes before
the clip, so that the clip has the last word.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.execution import replicas
from customfit.gradients.accumulation import Accumulator
from customfit.gradients.clipping import AdaptiveClip, Clip, Gradient
from customfit.gradients.metrics import GradientMetrics
from customfit.gradients.nonfinite import Guard, NonFinite, NonFiniteError, all_finite


class GradientPipeline:
    """What a model's step does to gradients, as `compile()` asks for it.

    Args:
        clip: The clip, or `None`.
        accumulation_steps: How many micro-batches make one update; `None`: each batch is one.
        nonfinite: How a step that is not finite is handled.
        metrics: Names of gradient metrics for the logs.
    """

    def __init__(
        self,
        clip: Clip | None = None,
        accumulation_steps: int | None = None,
        nonfinite: str | NonFinite | None = None,
        metrics: Sequence[str] = (),
    ):
        self.clip = clip
        self.accumulation_steps = _checked_steps(accumulation_steps)
        self.guard = Guard(NonFinite.from_option(nonfinite))
        self.metrics = GradientMetrics(metrics)
        self._updates: dict[tuple, Update] = {}

    def get_config(self) -> dict:
        """Returns the options as plain numbers, names and lists: `compile_options_from_config` is the inverse.

        This is what `save()` writes, so the names are those of files that exist already.
        """
        options = {
            **(self.clip.get_config() if self.clip is not None else {}),
            "gradient_accumulation_steps": self.accumulation_steps,
            "nonfinite": self.guard.policy,
            "nonfinite_dump": self.guard.dump,
            "gradient_metrics": list(self.metrics.names) or None,
        }
        return {name: value for name, value in options.items() if value is not None}

    def check_optimizer(self, optimizer: Any) -> None:
        """Refuses an optimizer that accumulates gradients, too."""
        for each in compat.optimizers_in(optimizer):
            own = getattr(each, "gradient_accumulation_steps", None)
            if own and self.accumulation_steps:
                raise ValueError(
                    "`gradient_accumulation_steps` must be set in `compile()` or in the optimizer, not in both. "
                    f"Received: gradient_accumulation_steps={self.accumulation_steps} and an optimizer with {own}"
                )

    @property
    def updates(self) -> list[Update]:
        """One for each list of variables that gradients have come for."""
        return list(self._updates.values())

    @property
    def variables(self) -> list[tf.Variable]:
        """All state: of accumulators, clips, counters and metrics."""
        of_updates = [variable for update in self._updates.values() for variable in update.state]
        return [*of_updates, *self.guard.variables, *self.metrics.variables]

    def build(self, model: Any, variables: Sequence[Any], optimizer: Any = None) -> Update:
        """Makes the state that updates of these variables need. It may be called from within a graph."""
        optimizer = model.optimizer if optimizer is None else optimizer
        key = (id(optimizer), *map(id, variables))
        if key not in self._updates:
            with tf.init_scope():
                if self.guard.policy or compat.has_dynamic_loss_scale(optimizer):
                    self.guard.build()
                self._updates[key] = Update(self, model, list(variables), optimizer)
        with tf.init_scope():
            self.metrics.build(variables)
        return self._updates[key]

    def measure_layers(self, model: Any) -> None:
        """Has each variable's gradients measured from now on; steps that do not do so yet are traced again."""
        if not self.metrics.layers:
            self.metrics.layers = True
            for update in self._updates.values():
                update.forget_trace()
            model.forget_steps()

    def apply(
        self, model: Any, gradients: Sequence[Gradient], variables: Sequence[Any], optimizer: Any, loss: Any, rows: Any
    ) -> None:
        """Updates variables with their true gradients.

        Args:
            model: The model.
            gradients: Unscaled gradients, one a variable.
            variables: The variables.
            optimizer: The optimizer.
            loss: The loss that the gradients are of, if it is to be checked.
            rows: How many rows the gradients are the mean over, by which micro-batches are weighed.
        """
        if not variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            return
        update = self.build(model, variables, optimizer)
        if update.is_plain:
            compat.apply_gradients(optimizer, gradients, variables, reduced=False)
            return
        if update.accumulator is None:
            gradients = replicas.sum_over_replicas(gradients)  # before the check: what one finds, all find
        if self.guard.policy is None:
            update.add(gradients, rows)
            return
        bad = self.guard.check(
            gradients,
            loss,
            scaled=compat.has_dynamic_loss_scale(optimizer),
            first_name=update.first_name,
            begins_step=update is self.updates[0],
        )
        self.metrics.count_skipped(bad)
        update.add(gradients, rows, good=tf.logical_not(bad))

    def logs(self, model: Any, logs: dict) -> dict:
        """A step's logs, in which a step that was undone does not show, and the metrics of gradients."""
        if self.guard.policy is not None:
            results = model.get_metrics_result()
            logs = {name: results.get(name, value) for name, value in logs.items()}
        return {**logs, **self.metrics.results()}

    def prepare(self, model: Any) -> None:
        """Makes the state before the first step where it cannot be made within one: on several replicas."""
        strategy = model.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or not model.built or model.optimizer is None:
            return
        with strategy.scope():
            update = self.build(model, model.trainable_variables)
        if not update.is_plain and not compat.divides_loss_by_replicas():
            raise NotImplementedError(
                "On several replicas, clipping and the other options for gradients need Keras 3.8 or newer: older ones "
                "sum losses that are not divided by the number of replicas. Received: "
                f"{strategy.num_replicas_in_sync} replicas."
            )

    @property
    def has_events(self) -> bool:
        """Whether something is to be done around steps: `heed` after each, `flush` at the end of an epoch."""
        return bool(self.accumulation_steps) or self.guard.ends

    def begin(self) -> None:
        """At the begin of training: nothing is left of one that was cut off."""
        for update in self._updates.values():
            if update.accumulator is not None:
                update.accumulator.clear()

    def check_nonfinite(self, model: Any, epoch: int, steps: int) -> str | None:
        """Raises, or tells why training must stop, if a step was not finite and `nonfinite=` asks for it.

        Args:
            model: The model.
            epoch: The epoch, counted from 0.
            steps: How many steps of it have been run.

        Returns:
            Why training must stop, in words, or `None`.

        Raises:
            NonFiniteError: With `nonfinite="raise"`.
        """
        found = self.guard.found()
        if found is None:
            return None
        what, ago = found
        error = NonFiniteError(what, epoch, steps - ago, self.guard.save(model))
        if self.guard.policy == "raise":
            raise error
        return str(error)

    def flush(self) -> None:
        """Applies what is left of micro-batches that did not make a whole update, as at the end of an epoch."""
        for update in self._updates.values():
            update.flush()


def compile_options_from_config(config: dict) -> dict:
    """Returns the keyword arguments of `compile()` for options that were saved.

    Args:
        config: What `get_compile_config()` returned, deserialised. It holds the options of `GradientPipeline`, as its
            `get_config` returns them, beside those of Keras.

    Returns:
        The same with `AdaptiveClip` and `NonFinite` objects for those that have options.
    """
    options = dict(config)
    exclude, dump = options.pop("adaptive_clip_exclude", None), options.pop("nonfinite_dump", None)
    if exclude is not None:
        options["adaptive_clip"] = AdaptiveClip(options["adaptive_clip"], exclude)
    if dump is not None:
        options["nonfinite"] = NonFinite(options["nonfinite"], dump)
    return options


class Update:
    """The way of the gradients of some variables into them, and the state it needs.

    Args:
        pipeline: What it is part of.
        model: The model.
        variables: The variables.
        optimizer: Their optimizer.
    """

    def __init__(self, pipeline: GradientPipeline, model: Any, variables: list, optimizer: Any):
        self._model = model
        self._variables = variables
        self._optimizer = optimizer
        self._metrics = pipeline.metrics
        self._guard = pipeline.guard
        self._among: list = []
        self._flush: Any = None
        clip = pipeline.clip
        if clip is not None and pipeline.updates:  # its history is that of one list of variables alone
            clip = clip.copy()
        if clip is not None:
            clip.build(model)
        self._clip = clip
        steps = pipeline.accumulation_steps
        self.accumulator = None if steps is None else Accumulator(variables, steps)
        self.first_name = pipeline.guard.add_names(variables)

    def forget_trace(self) -> None:
        """Has `flush` traced again, because what it does has changed."""
        self._flush = None

    @property
    def is_plain(self) -> bool:
        """Whether the optimizer can be left to do all of it."""
        return not (
            self._model.changes_gradients
            or self.accumulator is not None
            or self._guard.policy
            or self._metrics
            or self._metrics.layers
            or compat.has_dynamic_loss_scale(self._optimizer)  # what it skips is counted
        )

    @property
    def state(self) -> list[tf.Variable]:
        """Its variables."""
        return [
            *(self._clip.variables if self._clip is not None else []),
            *(self.accumulator.variables if self.accumulator is not None else []),
        ]

    def add(self, gradients: Sequence[Gradient], rows: Any, good: tf.Tensor | None = None) -> None:
        """Adds gradients to those of other micro-batches, if any, and applies them if they are enough.

        Args:
            gradients: Gradients; already summed over replicas if there are no micro-batches.
            rows: Rows of the batch.
            good: Whether they may change anything.
        """
        accumulator = self.accumulator
        if accumulator is None:
            if good is None:
                self._apply(gradients)
            else:
                there = [gradient for gradient in gradients if gradient is not None]
                replicas.run_if(good, lambda present: self._apply(_in_places(present, gradients)), there)
            return
        self._among = [None if gradient is None else True for gradient in gradients]
        if good is None:
            accumulator.add(gradients, rows)
        else:
            # Where a bad step is the last one, those after it in the block change nothing, and are not counted either.
            skip = accumulator.count if self._guard.ends else accumulator.skip
            tf.cond(good, lambda: accumulator.add(gradients, rows), skip)
        self._apply_accumulated(accumulator, accumulator.is_full())

    def flush(self) -> None:
        """Applies what micro-batches there are."""
        if self.accumulator is None or not self._among:
            return
        if self._flush is None:
            strategy = self._model.distribute_strategy
            flush_replica = functools.partial(self._apply_accumulated, self.accumulator, tf.constant(True))
            self._flush = tf.function(lambda: strategy.run(flush_replica), autograph=False)
        self._flush()

    def _apply_accumulated(self, accumulator: Accumulator, due: tf.Tensor) -> None:
        """Where an update is due, applies what micro-batches there are, and begins anew even if none is good."""
        has_rows = accumulator.has_rows()
        replicas.run_if(due & has_rows, lambda _: self._apply(accumulator.pop(self._among)), [])
        tf.cond(due & tf.logical_not(has_rows), accumulator.clear, accumulator.count)

    def _apply(self, gradients: Sequence[Gradient]) -> None:
        """Transforms, clips and applies the gradients of an update, which are summed over replicas."""
        gradients = list(self._model.transform_gradients(list(gradients), self._variables))
        clipped = gradients if self._clip is None else self._clip(gradients, self._variables)
        optimizer = self._optimizer
        finite = None
        if compat.has_dynamic_loss_scale(optimizer):
            finite = all_finite(clipped)
            self._guard.count_skipped(tf.logical_not(finite))
            self._metrics.count_skipped(tf.logical_not(finite))
        with self._metrics.measuring(gradients, clipped, self._variables, compat.loss_scale(optimizer), finite):
            compat.apply_gradients(optimizer, clipped, self._variables, reduced=True)


def _checked_steps(steps: Any) -> int | None:
    if steps is None:
        return None
    if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 1:
        raise ValueError(
            f"`gradient_accumulation_steps` must be a positive integer. Received: gradient_accumulation_steps={steps!r}"
        )
    return int(steps) if steps > 1 else None


def _in_places(present: Sequence[Gradient], among: Sequence[Gradient]) -> list[Gradient]:
    """The gradients that there are, at the places that they have among those that there are not."""
    rest = iter(present)
    return [None if gradient is None else next(rest) for gradient in among]
