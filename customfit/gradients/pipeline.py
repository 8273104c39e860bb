"""From the tape to new weights: unscale -> accumulate -> all-reduce -> finite? -> transform -> clip -> apply.

Each stage depends on those before it. Norms are those of true gradients, not of the gradients of a scaled loss. The
gradients of micro-batches and of replicas are summed first, so that later stages see what one large batch on one device
would give. A gradient that is not finite is found before it reaches a weight. `transform_gradients` comes before the
clip, so the clip has the last word.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from customfit import compat
from customfit.arguments import as_count
from customfit.compat import keras, tf
from customfit.data import Batch, count_batch_rows
from customfit.execution import Logs, TrainableModel, replicas
from customfit.gradients.clipping import AdaptiveClip, Clip, Gradient
from customfit.gradients.metrics import GradientMetrics
from customfit.gradients.nonfinite import NonFinite, NonFiniteError, NonFiniteGuard
from customfit.gradients.observers import StepObservers
from customfit.gradients.step_updates import StepUpdates, logs_undone_where
from customfit.gradients.undo import RunningStep
from customfit.gradients.update import Update


class GradientPipeline:
    """What a model's step does to gradients, as `compile()` asks for it.

    Args:
        clip: The clip, or `None`.
        accumulation_steps: How many micro-batches make one update. Defaults to one.
        nonfinite: How a step is handled whose loss or gradients are not finite.
        metrics: Names of gradient metrics for the logs.

    Attributes:
        guard: Finds and undoes steps that are not finite.
        observers: What callbacks have asked for in each step: see `StepObservers`.
    """

    def __init__(
        self,
        clip: Clip | None = None,
        accumulation_steps: int | None = None,
        nonfinite: str | NonFinite | None = None,
        metrics: str | Sequence[str] = (),
    ):
        steps = None if accumulation_steps is None else as_count("gradient_accumulation_steps", accumulation_steps)
        self.clip = clip
        self.accumulation_steps = None if steps == 1 else steps
        self._running = RunningStep()
        self.guard = NonFiniteGuard(NonFinite.from_option(nonfinite), self._running)
        self.metrics = GradientMetrics(metrics)
        self.observers = StepObservers()
        self._updates: dict[tuple[int, ...], Update] = {}  # by the ids of their optimizer and variables
        self._reached = False  # whether a step has handed its gradients over

    def get_config(self) -> dict[str, Any]:
        """Returns the options as plain numbers, names and lists: `compile_options_from_config` is the inverse.

        `save()` writes these, so their names must stay those of files that exist.
        """
        options = {
            **(self.clip.get_config() if self.clip is not None else {}),
            "gradient_accumulation_steps": self.accumulation_steps,
            "nonfinite": self.guard.policy,
            "nonfinite_dump": self.guard.dump,
            "gradient_metrics": list(self.metrics.names) or None,
        }
        return {name: value for name, value in options.items() if value is not None}

    def check_optimizer(self, optimizer: keras.optimizers.Optimizer | None) -> None:
        """Refuses an optimizer that accumulates gradients as well.

        Args:
            optimizer: The model's optimizer.

        Raises:
            ValueError: If both accumulate.
        """
        for each in compat.optimizers_in(optimizer):
            own = getattr(each, "gradient_accumulation_steps", None)
            if own and self.accumulation_steps:
                raise ValueError(
                    "`gradient_accumulation_steps` must be set in `compile()` or in the optimizer, not in both. "
                    f"Received: gradient_accumulation_steps={self.accumulation_steps} and an optimizer with "
                    f"gradient_accumulation_steps={own}"
                )

    @property
    def _asks_for_anything(self) -> bool:
        return bool(self.clip or self.accumulation_steps or self.guard.policy or self.metrics)

    def run(self, model: TrainableModel, step: Callable[[Batch], Logs], data: Batch) -> Logs:
        """Runs a `train_step`, so that the options of `compile()` hold in it, however it is written.

        What it hands to an optimizer passes through the pipeline. A step without options runs as it is.

        Args:
            model: The model.
            step: Its step, bound to the model.
            data: The batch.

        Returns:
            The logs of the step.

        Raises:
            ValueError: If an option would have no effect, because the step hands no gradients to any optimizer.
        """
        return self.observers.run(model, lambda: self._run(model, step, data))

    def _run(self, model: TrainableModel, step: Callable[[Batch], Logs], data: Batch) -> Logs:
        if self._running.is_running or not (self._asks_for_anything or model.changes_gradients):
            return step(data)  # `super().train_step(data)` is part of the step that has called it

        with self._running.running(), compat.handled_updates(self._handler(model, data)):
            if self.guard.policy is None:
                logs = step(data)
            else:
                with tf.init_scope():
                    self.guard.build()
                logs, bad = self.guard.run(model, step, data, kept=lambda: [*self.variables, *self.observers.variables])
                self.metrics.count_skipped(bad)
                logs = logs_undone_where(bad, logs, model)
        self._check_reached(model)
        return {**logs, **self.metrics.results()} if isinstance(logs, dict) else logs

    def _handler(self, model: TrainableModel, data: Batch) -> StepUpdates:
        count_rows = (lambda: 1) if self.accumulation_steps is None else functools.partial(count_batch_rows, data)
        return StepUpdates(functools.partial(self.apply, model), count_rows)

    def _check_reached(self, model: TrainableModel) -> None:
        if not self._reached and (self.get_config() or model.changes_gradients):
            named = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
            raise ValueError(
                f"The options of `compile()` have no effect in `{type(model).__name__}.train_step`, which hands no "
                "gradients to an optimizer. Let it update the weights by\n"
                "    gradients = self.compute_gradients(loss, tape)\n"
                "    self.apply_gradients(gradients, loss=loss)\n"
                f"or leave the options out. Received: {named or 'an override of `transform_gradients`'}"
            )

    @property
    def variables(self) -> list[tf.Variable]:
        """All state: of accumulators, clips, counters and metrics."""
        of_updates = [variable for update in self._updates.values() for variable in update.variables]
        return [*of_updates, *self.guard.variables, *self.metrics.variables]

    def build(
        self,
        model: TrainableModel,
        variables: Sequence[tf.Variable],
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> Update:
        """Creates the state that updates of these variables need, also from within a graph.

        Args:
            model: The model.
            variables: The variables.
            optimizer: Their optimizer. Defaults to that of the model.

        Returns:
            Their update. There is one for each optimizer and list of variables.
        """
        optimizer = model.optimizer if optimizer is None else optimizer
        key = (id(optimizer), *map(id, variables))
        if key not in self._updates:
            with tf.init_scope():
                if self.guard.policy or compat.has_dynamic_loss_scale(optimizer):
                    self.guard.build()
                clip = self.clip
                if clip is not None and self._updates:
                    clip = clip.copy()  # the history of norms is that of one list of variables
                self._updates[key] = Update(
                    model, variables, optimizer, clip, self.accumulation_steps, self.guard, self.metrics
                )
        with tf.init_scope():
            self.metrics.build(variables, optimizer)
        return self._updates[key]

    def apply(
        self,
        model: TrainableModel,
        gradients: Sequence[Gradient],
        variables: Sequence[tf.Variable],
        optimizer: keras.optimizers.Optimizer,
        loss: tf.Tensor | None,
        rows: tf.Tensor | int,
    ) -> None:
        """Updates variables with their true gradients.

        Args:
            model: The model.
            gradients: Unscaled gradients, one a variable.
            variables: The variables.
            optimizer: The optimizer.
            loss: The loss of the gradients, if it is to be checked as well.
            rows: How many rows the gradients are the mean over. Micro-batches are weighted by it.
        """
        self._reached = True
        if not variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
            return
        with compat.unhandled_updates(), self._running.updating():
            self._apply(self.build(model, variables, optimizer), gradients, loss, rows)

    def _apply(self, update: Update, gradients: Sequence[Gradient], loss: tf.Tensor | None, rows: Any) -> None:
        optimizer = update.optimizer
        if update.is_plain:
            compat.apply_gradients(optimizer, gradients, update.trained, reduced=False)
            return
        if update.accumulator is None:
            gradients = replicas.sum_over_replicas(gradients)  # before the check, so that all replicas find the same
        if self.guard.policy is None:
            update.add(gradients, rows)
            return
        bad = self.guard.check(
            gradients,
            loss,
            ignores_gradients=compat.has_dynamic_loss_scale(optimizer),
            first_name=update.first_name,
        )
        if not self._running.is_running:
            self.metrics.count_skipped(bad)
        update.add(gradients, rows, good=tf.logical_not(bad))

    def measure_layers(self, model: TrainableModel) -> None:
        """Measures the gradients of each variable from now on. The steps are traced again for that.

        Args:
            model: The model.
        """
        if not self.metrics.measures_layers:
            self.metrics.measures_layers = True
            for update in self._updates.values():
                update.forget_trace()
            model.forget_steps()

    def forget_updates(self) -> None:
        """Drops the state of updates, because other variables are trained from now on. Accumulated ones are applied."""
        self.flush()
        self._updates.clear()
        self.metrics.forget_layers()

    def prepare(self, model: TrainableModel) -> None:
        """Creates the state before the first step if it cannot be created within one: on several replicas.

        Args:
            model: The model.

        Raises:
            NotImplementedError: If this release of Keras cannot sum gradients over replicas.
        """
        strategy = model.distribute_strategy
        if strategy.num_replicas_in_sync == 1 or not model.built or model.optimizer is None:
            return
        with strategy.scope():
            update = self.build(model, model.trainable_variables)
        if not update.is_plain and not compat.divides_loss_by_replicas():
            raise NotImplementedError(
                "On several replicas, clipping and the other options for gradients need Keras 3.8 or newer: older "
                "releases of Keras 3 do not average gradients over replicas. Received: "
                f"{strategy.num_replicas_in_sync} replicas."
            )

    @property
    def needs_callback(self) -> bool:
        """Whether `fit` needs the callback `GradientEvents`, which ends training and flushes: a step cannot."""
        return self.accumulation_steps is not None or self.guard.ends_training

    def begin(self) -> None:
        """Forgets micro-batches that an interrupted run has left. Call it when training begins."""
        for update in self._updates.values():
            if update.accumulator is not None:
                update.accumulator.clear()

    def check_nonfinite(self, model: TrainableModel, epoch: int, steps: int) -> str | None:
        """Raises, or returns why training must stop, if a step was not finite and `nonfinite=` asks for it.

        Args:
            model: The model.
            epoch: The epoch, counted from 0.
            steps: How many of its steps have been run.

        Returns:
            Why training must stop, in words, or `None`.

        Raises:
            NonFiniteError: With `nonfinite="raise"`.
        """
        bad_step = self.guard.pop_bad_step()
        if bad_step is None:
            return None
        what, steps_ago = bad_step
        error = NonFiniteError(what, epoch, steps - steps_ago, self.guard.save_step(model))
        if self.guard.policy == "raise":
            raise error
        return str(error)

    def flush(self) -> None:
        """Applies accumulated micro-batches that are fewer than an update needs, as at the end of an epoch."""
        for update in self._updates.values():
            update.flush()


def compile_options_from_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `compile()` for options that were saved.

    Args:
        config: What `get_compile_config()` returned, deserialized. It holds the options of `GradientPipeline`, as its
            `get_config` returns them, beside those of Keras.

    Returns:
        The same, with `AdaptiveClip` and `NonFinite` objects for those that have options.
    """
    options = dict(config)
    exclude, dump = options.pop("adaptive_clip_exclude", None), options.pop("nonfinite_dump", None)
    if exclude is not None:
        options["adaptive_clip"] = AdaptiveClip(options["adaptive_clip"], exclude)
    if dump is not None:
        options["nonfinite"] = NonFinite(options["nonfinite"], dump)
    return options
