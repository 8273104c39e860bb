"""`train_step` and `test_step`, compiled: one batch, or a block of steps in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data import Block, SingleBatch, map_leaves
from customfit.execution.graph import GraphBlocks, LoopStep
from customfit.execution.pace import FixedPace, Pace
from customfit.execution.random_ops import ResumableRandomOps
from customfit.execution.sharding import check_strategy, has_workers, run_step, shard_spec
from customfit.execution.xla import XlaBlocks


class CompiledStep:
    """A step of a model, compiled as `compile()` asks for, and traced once for each signature of a batch.

    Args:
        model: The model that the step belongs to.
        name: "train_step" or "test_step".
        randomness: Where the step's random ops keep their state; `None`: in themselves.

    Attributes:
        pace: How many steps a block should have where nobody asks for a number.
    """

    def __init__(self, model, name: str, randomness: ResumableRandomOps | None = None):
        step = getattr(model, name)
        strategy = model.distribute_strategy

        def counted_step(data):
            with contextlib.nullcontext() if randomness is None else randomness.counted(name, data):
                logs = run_step(strategy, step, data)
            if not isinstance(logs, dict):
                raise TypeError(
                    f"`{name}` must return a dict of logs. Received: {logs!r} of type {type(logs).__name__}"
                )
            compat.count_step(model, training=name == "train_step")
            return logs

        self._model = model
        self._knows_replicas = strategy.num_replicas_in_sync == 1
        # Several replicas trace and run within their strategy's scope: what is read there is of all of them.
        self._scope = contextlib.nullcontext if self._knows_replicas else strategy.scope
        self._build = lambda batch: run_step(strategy, step, batch)
        self.pace = FixedPace(compat.steps_per_execution(model)) if has_workers(strategy) else Pace()
        self.eager = bool(model.run_eagerly)
        self._blocks: EagerBlocks | GraphBlocks | XlaBlocks
        if self.eager:
            self._blocks = EagerBlocks(counted_step)
            return
        graph_step = LoopStep(
            tf.function(counted_step, reduce_retracing=True, autograph=False),
            results=model.results_of(name),
        )
        self._blocks = GraphBlocks(graph_step)
        if compat.jit_compile(model):
            self._blocks = XlaBlocks(graph_step, otherwise=self._blocks if model.jit_compile_is_auto else None)

    def build(self, spec: Any) -> None:
        """Has the model, its optimizer and its metrics make their variables, as the first step would.

        The step is traced and not run; under `run_eagerly=True` it runs, on zeros.

        Args:
            spec: The spec of a batch.
        """
        self._prepare_replicas(spec)
        with self._scope():
            if self.eager:
                self._build(map_leaves(lambda leaf: tf.zeros([size or 1 for size in leaf.shape], leaf.dtype), spec))
            else:
                tf.function(self._build, autograph=False).get_concrete_function(spec)

    def block_of(self, batch: Any, begin: int) -> Block:
        """One batch that the caller holds, of arrays or tensors, as a block."""
        if not self.eager:
            batch = map_leaves(lambda leaf: leaf if tf.is_tensor(leaf) else tf.convert_to_tensor(leaf), batch)
        return Block(begin, 1, 1, SingleBatch(), batch)

    def run(self, block: Block) -> dict | None:
        """Runs the steps of a block and notes in `block.done` how many there were.

        Returns:
            The last step's logs, as tensors; `None` if there was no data for a single step.
        """
        begun = time.perf_counter()
        if not self._knows_replicas:
            self._prepare_replicas(block.fetch.element_spec(block.feed))
        with self._scope():
            logs = self._blocks.run(block)
        self.pace.record(block.done, time.perf_counter() - begun)
        return logs

    def _prepare_replicas(self, spec: Any) -> None:
        """Makes variables before the first step where a replica cannot: Keras 3, on several."""
        if not self._knows_replicas:
            self._knows_replicas = True
            compat.build_on_replicas(self._model, shard_spec(spec))
            self._model.gradient_pipeline.prepare(self._model)


class EagerBlocks:
    """Runs blocks step by step in Python, for `run_eagerly=True`."""

    def __init__(self, step: Callable[[Any], dict]):
        self._step = step

    def run(self, block: Block) -> dict | None:
        """Runs the steps of a block and notes in `block.done` how many there were."""
        logs = None
        while block.done < block.count and (batch := block.read()) is not None:
            logs = self._step(batch)
            block.done += 1
        return logs


@dataclasses.dataclass
class CompiledSteps:
    """What a model trains and validates with."""

    train: CompiledStep
    test: CompiledStep
    randomness: ResumableRandomOps | None


def compiled_steps(model, counts_randomness: bool = False) -> CompiledSteps:
    """The model's compiled `train_step` and `test_step`, kept from call to call until `compile()` drops them.

    Args:
        model: The model.
        counts_randomness: Whether the state of their random ops must be at hand, for checkpoints.
    """
    kept = model._compiled_steps
    if kept is None or kept.train.eager != bool(model.run_eagerly) or (counts_randomness and not kept.randomness):
        check_strategy(model.distribute_strategy, compat.jit_compile(model))
        randomness = ResumableRandomOps() if counts_randomness else None
        kept = model._compiled_steps = CompiledSteps(
            train=CompiledStep(model, "train_step", randomness),
            test=CompiledStep(model, "test_step", randomness),
            randomness=randomness,
        )
    return kept
