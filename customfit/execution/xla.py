"""Blocks of steps as XLA programs.

XLA needs static shapes and compiles again for each new one, which takes seconds. The full batches of arrays have one
shape, so a program fetches them itself, and one serves blocks of every size. Batches of datasets are concatenated
outside, and padded to one of few capacities. In both the number of steps is a tensor. BLOCKS.md says more.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any, Callable

from customfit.compat import tf
from customfit.data import BatchSpec, Block, Fetch, map_leaves
from customfit.execution.graph import GraphBlocks, LoopStep, run_steps
from customfit.execution.trainable import Logs

CAPACITIES = (4, 16, 64, 256)  # in steps
MAX_BYTES = 2**23  # of the batches of one program, padding included

Sizes = tuple[int, ...]  # the rows of each leaf of a batch


class XlaBlocks:
    """Runs blocks of steps as XLA programs.

    Args:
        step: The step to loop over.
        fallback: Runs the blocks if XLA cannot compile the step. `None`: that is an error.
    """

    def __init__(self, step: LoopStep, fallback: GraphBlocks | None = None):
        self._step = step
        self._fallback = fallback
        self._gave_up = False
        # By the fetch of full batches, by what stacks a fetch's batches, by sizes and capacity, or "one step".
        self._functions: dict[Any, Callable] = {}

    def run(self, block: Block) -> Logs | None:
        """Runs the steps of a block: see `BlockRunner`."""
        if self._gave_up and self._fallback is not None:
            return self._fallback.run(block)
        full = None if block.may_end else block.fetch.full_batches(block.feed)
        if full is not None:
            return self._run_full(block, *full)
        spec = block.fetch.element_spec(block.feed) if block.count > 1 else None
        if block.count > 1 and can_stack(spec):
            return self._run_stacked(block, spec)
        return self._run_one_by_one(block)

    def _run_full(self, block: Block, fetch: Fetch, full: int) -> Logs | None:
        """Runs the steps with full batches in one program, and one with a smaller batch, if there is any, after it."""
        logs, end = None, min(block.first + block.count, full)
        if end > block.first:
            program = functools.partial(run_steps, self._step, fetch)
            logs = self._call(fetch, program, block.feed, tf.constant(block.first), tf.constant(end))
            block.done = end - block.first
        last = self._run_one_by_one(block)
        return logs if last is None else last

    def _run_one_by_one(self, block: Block) -> Logs | None:
        logs = None
        while block.done < block.count and (batch := block.read()) is not None:
            logs = self._call("one step", self._step.once, batch)
            block.done += 1
        return logs

    def _run_stacked(self, block: Block, spec: BatchSpec) -> Logs | None:
        head = block.get_next_as_optional() if block.may_end else None
        if head is not None and not head.has_value():
            return None
        stack = self._functions.setdefault(("stack", block.fetch), tf.function(block.fetch.stack, autograph=False))
        rows, sizes = stack(block.feed, tf.constant(block.first), tf.constant(block.count), head)
        logs, begins = None, [0] * len(rows)
        for size, batches in itertools.groupby(map(tuple, sizes.numpy().tolist())):
            steps = len(list(batches))
            capacity = _capacity(steps, rows, size)
            program = self._program(size, spec)
            for begin in range(0, steps, capacity):
                count = min(capacity, steps - begin)
                parts = [
                    _padded(leaf[first + begin * each : first + (begin + count) * each], capacity * each)
                    for leaf, first, each in zip(rows, begins, size)
                ]
                logs = self._call((size, capacity), program, parts, tf.constant(count))
            begins = [first + steps * each for first, each in zip(begins, size)]
        block.done = len(sizes)
        return logs

    def _program(self, size: Sizes, spec: BatchSpec) -> Callable:
        """Returns the function of a block whose batches have `size[i]` rows in their leaf `i`."""

        def batch(rows, index):
            leaves = (
                tf.slice(leaf, [index * each] + [0] * (len(leaf.shape) - 1), [each, *leaf.shape[1:]])
                for leaf, each in zip(rows, size)
            )
            return map_leaves(lambda _: next(leaves), spec)

        return lambda rows, count: run_steps(self._step, batch, rows, tf.constant(0), count)

    def _call(self, key: Any, function: Callable, *args: Any) -> Logs:
        known = key in self._functions
        if not known:
            self._functions[key] = tf.function(function, jit_compile=None if self._gave_up else True, autograph=False)
        try:
            return self._functions[key](*args)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if known or self._gave_up or self._fallback is None:
                raise
            warnings.warn(
                f"XLA cannot compile the model's step; training continues without XLA: {error.message}", stacklevel=2
            )
            self._gave_up, self._functions = True, {}
            return self._call(key, function, *args)  # here, since the data of this block has been read


def can_stack(spec: BatchSpec) -> bool:
    """Whether batches of this spec can be concatenated: dense ones that differ in their first axis at most.

    Args:
        spec: The spec of a batch.
    """
    return all(
        leaf is None or (isinstance(leaf, tf.TensorSpec) and leaf.shape.rank and leaf.shape[1:].is_fully_defined())
        for leaf in tf.nest.flatten(spec)
    )


def _capacity(steps: int, rows: list[tf.Tensor], size: Sizes) -> int:
    """Returns the smallest capacity that holds so many steps, or the largest one that memory allows."""
    step_bytes = sum(each * max(1, leaf.shape[1:].num_elements()) * leaf.dtype.size for leaf, each in zip(rows, size))
    fitting = [capacity for capacity in CAPACITIES if capacity * step_bytes <= MAX_BYTES] or [1]
    return next((capacity for capacity in fitting if capacity >= steps), fitting[-1])


def _padded(leaf: tf.Tensor, rows: int) -> tf.Tensor:
    missing = rows - leaf.shape[0]
    return tf.pad(leaf, [[0, missing]] + [[0, 0]] * (len(leaf.shape) - 1)) if missing else leaf
