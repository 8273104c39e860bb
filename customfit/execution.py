"""`train_step` and `test_step`, compiled: one batch, or a block of steps in one graph call."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data import Block


class CompiledStep:
    """A step of a model as a graph function, traced once for each signature of a batch.

    Args:
        model: The model that the step belongs to.
        step: `model.train_step` or `model.test_step`, or any function from a batch to a dict of logs.
        training: Which of the model's counters counts it.
    """

    def __init__(self, model, step: Callable[[Any], dict], training: bool):
        self.eager = bool(model.run_eagerly)
        self._functions: dict = {}
        self._step: Any

        def counted_step(data):
            logs = model.distribute_strategy.run(step, args=(data,))
            if not isinstance(logs, dict):
                name = "train_step" if training else "test_step"
                raise TypeError(
                    f"`{name}` must return a dict of logs. Received: {logs!r} of type {type(logs).__name__}"
                )
            compat.count_step(model, training)
            return logs

        if self.eager:
            self._step = counted_step
        else:
            self._step = tf.function(
                counted_step, reduce_retracing=True, jit_compile=compat.jit_compile(model) or None, autograph=False
            )

    def on_batch(self, batch: Any) -> dict:
        """Runs the step on one batch that the caller holds, of arrays or tensors."""
        if self.eager:
            return self._step(batch)
        batch = _map(lambda leaf: leaf if tf.is_tensor(leaf) else tf.convert_to_tensor(leaf), batch)
        return self._one(_as_it_is)(batch, tf.constant(0, tf.int64))

    def on_block(self, block: Block) -> dict | None:
        """Runs the steps of a block and notes in `block.done` how many there were.

        Returns:
            The last step's logs, as tensors; `None` if there was no data for a single step.
        """
        if self.eager:
            return self._eagerly(block)
        if block.may_end:
            return self._while_there_is_data(block)
        block.done = block.count
        first, end = tf.constant(block.first, tf.int64), tf.constant(block.first + block.count, tf.int64)
        if block.planned == 1:
            return self._one(block.fetch)(block.feed, first)
        return self._many(block.fetch)(block.feed, first, end)

    def _eagerly(self, block: Block) -> dict | None:
        logs = None
        for index in range(block.first, block.first + block.count):
            try:
                batch = block.fetch(block.feed, index)
            except StopIteration:
                break
            logs = self._step(batch)
            block.done += 1
        return logs

    def _while_there_is_data(self, block: Block) -> dict | None:
        """Looks for each batch before its step: one that finds none would still move `iterations` and random seeds."""
        logs = None
        for _ in range(block.count):
            batch = block.feed.get_next_as_optional()
            if not batch.has_value():
                break
            logs = self._one(_value)(batch, tf.constant(0, tf.int64))
            block.done += 1
        return logs

    def _one(self, fetch: Callable) -> Callable:
        def one_step(feed, index):
            return self._step(fetch(feed, index))

        return self._compiled(("one", fetch), one_step)

    def _many(self, fetch: Callable) -> Callable:
        def many_steps(feed, first, end):
            # The step is in the graph once, within the loop: Keras 2's dropout keeps its random state in the op, so a
            # second copy of the step would draw the first one's numbers again.
            batch = tf.function(fetch).get_concrete_function(feed, first).structured_outputs
            logs = self._step.get_concrete_function(_map(tf.type_spec_from_value, batch)).structured_outputs
            _, logs = tf.while_loop(
                lambda index, _: index < end,
                lambda index, _: (index + 1, self._step(fetch(feed, index))),
                (first, tf.nest.map_structure(_zeros, logs)),
                shape_invariants=(first.shape, tf.nest.map_structure(lambda log: log.shape, logs)),
                parallel_iterations=1,
            )
            return logs

        return self._compiled(("many", fetch), many_steps)

    def _compiled(self, key: tuple, function: Callable) -> Callable:
        if key not in self._functions:
            self._functions[key] = tf.function(function, reduce_retracing=True, autograph=False)
        return self._functions[key]


@dataclasses.dataclass
class CompiledSteps:
    """What a model trains and validates with."""

    train: CompiledStep
    test: CompiledStep


def compiled_steps(model) -> CompiledSteps:
    """The model's compiled `train_step` and `test_step`, kept from call to call until `compile()` drops them."""
    kept = model._compiled_steps
    if kept is None or kept.train.eager != bool(model.run_eagerly):
        strategy = model.distribute_strategy
        if strategy.num_replicas_in_sync > 1:
            raise NotImplementedError(
                "`custom_fit` does not train on several replicas yet; `fit()` does, with the same model and clipping. "
                f"Received: a model under {type(strategy).__name__} with {strategy.num_replicas_in_sync} replicas."
            )
        kept = model._compiled_steps = CompiledSteps(
            train=CompiledStep(model, model.train_step, training=True),
            test=CompiledStep(model, model.test_step, training=False),
        )
    return kept


def _map(function: Callable, batch: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else function(leaf), batch)


def _as_it_is(batch: Any, index: Any) -> Any:
    del index  # there is one batch only
    return batch


def _value(optional: tf.experimental.Optional, index: Any) -> Any:
    del index
    return optional.get_value()


def _zeros(log: tf.Tensor) -> tf.Tensor:
    return tf.zeros([size or 0 for size in log.shape], log.dtype)
