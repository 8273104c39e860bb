"""A block of steps in one graph call. BLOCKS.md says why it is written this way."""

from __future__ import annotations

import functools
from typing import Any, Callable, Protocol

from customfit.compat import tf
from customfit.data import (
    Batch,
    BatchSpec,
    Block,
    Feed,
    Fetch,
    SingleBatch,
    get_batch,
    inputs_left_out_as_none,
    map_leaves,
)
from customfit.execution.dispatch import DirectFunction, as_spec, pack
from customfit.execution.random_ops import keeps_random_state
from customfit.execution.trainable import Logs

# What a loop hands from step to step: the tensors of the logs, or `()` if they are computed after the last step; of
# predictions, the outputs so far.
Carried = Any


class LoopBody(Protocol):
    """A step as the body of a loop in a graph."""

    def initial(self, batch: Callable[[], Batch | BatchSpec]) -> tuple[Carried, Any]:
        """Returns what the loop carries into its first step, and the shape invariants of it.

        Args:
            batch: Returns a batch or its spec.
        """

    def __call__(self, batch: Batch, index: tf.Tensor, carried: Carried) -> Carried:
        """Runs the step, and returns what the loop carries to the next one.

        Args:
            batch: A batch.
            index: How many steps of the block come before.
            carried: What the loop carries into this step.
        """

    def finish(self, carried: Carried) -> Any:
        """Returns the result of the block.

        Args:
            carried: What its last step returned.
        """


class LoopStep:
    """A step of training or evaluation as the body of a loop: the loop returns the logs of the last step.

    Args:
        step: A graph function from a batch to a dict of logs.
        results: Returns the logs, if they are the results of the metrics and nothing else. Then they are computed once,
            at the end of a block. `None`: the logs are what the last step returned.
    """

    def __init__(self, step: tf.types.experimental.PolymorphicFunction, results: Callable[[], Logs] | None):
        self._step = step
        self._results = results
        self._structure: Logs = {}  # of the logs of the step that is being traced
        self._traced: tf.types.experimental.ConcreteFunction | None = None

    def __call__(self, batch: Batch, index: tf.Tensor, carried: Carried) -> Carried:
        """Runs the step: see `LoopBody`."""
        logs = self._step(batch)
        self._traced = self._step.get_concrete_function(map_leaves(as_spec, batch))  # it is there already
        return _tensors(logs) if self._results is None else ()

    def once(self, batch: Batch) -> Logs:
        """Runs the step outside of a loop, and returns its logs.

        Args:
            batch: A batch.
        """
        logs = self._step(batch)
        return logs if self._results is None else self._results()

    def can_be_copied(self, block: Block) -> bool:
        """Whether the step in a second graph does the same: no operation of it keeps random state of its own.

        Args:
            block: A block of its batches, of a kind that has been run in a loop, or of a batch that the caller holds.
        """
        if self._traced is None:
            self._traced = self._step.get_concrete_function(block.fetch.element_spec(block.feed))
        return not keeps_random_state(self._traced)

    def initial(self, batch: Callable[[], Batch | BatchSpec]) -> tuple[Carried, Any]:
        """Returns what the loop carries into its first step: see `LoopBody`.

        Args:
            batch: Returns a batch or its spec; not called if the loop carries nothing.
        """
        if self._results is not None:
            return (), ()
        self._structure = self._step.get_concrete_function(map_leaves(as_spec, batch())).structured_outputs
        tensors = _tensors(self._structure)
        return [_zeros(tensor) for tensor in tensors], [tensor.shape for tensor in tensors]

    def finish(self, carried: Carried) -> Logs:
        """Returns the logs of the block.

        Args:
            carried: What its last step returned.
        """
        if self._results is not None:
            return self._results()
        return pack(self._structure, carried)


def run_steps(step: LoopBody, fetch: Callable[..., Batch], feed: Feed, first: tf.Tensor, end: tf.Tensor) -> Any:
    """Runs a step on some batches of a feed that has them, in a graph.

    Args:
        step: The step.
        fetch: Gives a batch of the feed.
        feed: What `fetch` reads.
        first: The index of the first batch.
        end: The index after that of the last one.

    Returns:
        What `step.finish` returns.
    """
    carried, shapes = step.initial(
        lambda: tf.function(fetch, autograph=False).get_concrete_function(feed, first).structured_outputs
    )
    _, carried = tf.while_loop(
        lambda index, _: index < end,
        lambda index, carried: (index + 1, step(fetch(feed, index), index - first, carried)),
        (first, carried),
        shape_invariants=(first.shape, shapes),
        parallel_iterations=1,
    )
    return step.finish(carried)


class GraphBlocks:
    """Runs blocks of steps, each in one graph call, and traces once for each kind of data.

    Args:
        step: The step to loop over.
        singles: Runs blocks of one step where it can. Defaults to `None`: the loop does.
    """

    def __init__(self, step: LoopBody, singles: SingleSteps | None = None):
        self._step = step
        self._singles = singles
        self._functions: dict[tuple[str, Fetch], Callable] = {}

    def run(self, block: Block) -> Any:
        """Runs the steps of a block: see `BlockRunner`."""
        if self._singles is not None and self._singles.takes(block):
            return self._singles.run(block)
        if not block.may_end:
            block.done = block.count
            first, end = tf.constant(block.first), tf.constant(block.first + block.count)
            return self._function(self._steps, block.fetch)(block.feed, first, end)
        batch = block.get_next_as_optional()
        if not batch.has_value():
            return None
        run = self._function(self._steps_until_the_end, block.fetch)
        done, result = run(block.feed, batch, tf.constant(block.count))
        block.done = int(done)
        return result

    def runs_alone(self, block: Block) -> bool:
        """Whether a block of one step runs without the loop."""
        return self._singles is not None and self._singles.can_run(block)

    def _steps(self, fetch: Fetch, feed: Feed, first: tf.Tensor, end: tf.Tensor) -> Any:
        return run_steps(self._step, fetch, feed, first, end)

    def _steps_until_the_end(
        self, fetch: Fetch, feed: Feed, batch: tf.experimental.Optional, count: tf.Tensor
    ) -> tuple[tf.Tensor, Any]:
        """Fetches each batch before its step: a step without one would still move `iterations` and random seeds."""
        nothing = tf.experimental.Optional.empty(batch.element_spec)
        carried, shapes = self._step.initial(lambda: inputs_left_out_as_none(batch.element_spec))

        def one_step(done: tf.Tensor, batch: tf.experimental.Optional, carried: Carried) -> tuple:
            carried = self._step(get_batch(batch), done, carried)
            done += 1
            return done, tf.cond(done < count, lambda: fetch.get_next_as_optional(feed), lambda: nothing), carried

        done, _, carried = tf.while_loop(
            lambda done, batch, _: batch.has_value(),
            one_step,
            (tf.constant(0), batch, carried),
            shape_invariants=(tf.TensorShape([]), tf.type_spec_from_value(batch), shapes),
            parallel_iterations=1,
        )
        return done, self._step.finish(carried)

    def _function(self, steps: Callable, fetch: Fetch) -> Callable:
        key = steps.__name__, fetch
        if key not in self._functions:

            def fetch_and_step(*args):
                return steps(fetch, *args)

            self._functions[key] = tf.function(fetch_and_step, reduce_retracing=True, autograph=False)
        return self._functions[key]


class SingleSteps:
    """Runs blocks of one step, without a loop around it.

    Args:
        step: The step.
    """

    def __init__(self, step: LoopStep):
        self._step = step

        def once_of_optional(batch: tf.experimental.Optional) -> Logs:
            return step.once(get_batch(batch))

        self._of_batch, self._of_optional = DirectFunction(step.once), DirectFunction(once_of_optional)
        self._fetched: dict[Fetch, DirectFunction] = {}
        self._in_a_row = 0
        self._may_be_copied: bool | None = None

    def takes(self, block: Block) -> bool:
        """Whether this runs a block.

        It must have one step that may be copied. A `Source` must have given such blocks before: where callbacks look at
        each step, it goes on to, and else the loop is traced in any case.

        Args:
            block: The block.
        """
        self._in_a_row = self._in_a_row + 1 if block.planned == 1 else 0
        often = self._in_a_row > 2 or isinstance(block.fetch, SingleBatch)
        return block.count == 1 and often and self.can_run(block)

    def can_run(self, block: Block) -> bool:
        """Whether a block of one step can run here: the step may be in a graph of its own, beside that of the loop.

        Args:
            block: The block.
        """
        if self._may_be_copied is None:
            self._may_be_copied = self._step.can_be_copied(block)
        return self._may_be_copied

    def run(self, block: Block) -> Logs | None:
        """Runs the step of a block: see `BlockRunner`."""
        if block.may_end:
            batch = block.get_next_as_optional()
            if not batch.has_value():
                return None
            logs = self._of_optional(batch)
        elif isinstance(block.fetch, SingleBatch):
            logs = self._of_batch(block.feed)
        else:
            logs = self._fetching(block.fetch)(block.feed, _number(block.first))
        block.done = 1
        return logs

    def _fetching(self, fetch: Fetch) -> DirectFunction:
        if fetch not in self._fetched:

            def fetch_and_step(feed: Feed, index: tf.Tensor) -> Logs:
                return self._step.once(fetch(feed, index))

            self._fetched[fetch] = DirectFunction(fetch_and_step)
        return self._fetched[fetch]


@functools.lru_cache(maxsize=10_000)
def _number(number: int) -> tf.Tensor:
    """Returns a number as a tensor. To make one takes a tenth of the time of a small step."""
    return tf.constant(number)


def _tensors(logs: Logs) -> list[tf.Tensor]:
    """Returns the tensors in logs, of which one may be `None`, ragged or sparse."""
    return [leaf for leaf in tf.nest.flatten(logs, expand_composites=True) if leaf is not None]


def _zeros(log: tf.Tensor) -> tf.Tensor:
    """Returns zeros that stand for a log in a loop: of its dtype, and of its shape as far as it is known."""
    return tf.zeros([size or 0 for size in log.shape] if log.shape.rank is not None else [], log.dtype)
