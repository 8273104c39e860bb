"""`train_step` and `test_step`, compiled: one batch, or a block of steps in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import warnings
from typing import Any, Callable, Protocol

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch, BatchSpec, Block, SingleBatch, map_leaves
from customfit.execution.captures import Captures, captures_of
from customfit.execution.dispatch import as_tensors
from customfit.execution.graph import GraphBlocks, LoopStep, SingleSteps
from customfit.execution.pace import FixedPace, Pace
from customfit.execution.random_ops import ResumableRandomOps
from customfit.execution.sharding import check_strategy, has_workers, run_step, shard_spec
from customfit.execution.trainable import Logs, StepName, TrainableModel
from customfit.execution.xla import XlaBlocks


class BlockRunner(Protocol):
    """Runs blocks of steps: step by step, as one graph, or as XLA programs."""

    def run(self, block: Block) -> Logs | None:
        """Runs the steps of a block, and sets `block.done` to how many there were.

        Returns:
            The logs of the last step, as tensors; `None` if there was no data for a single step.
        """


class CompiledStep:
    """A step of a model, compiled as `compile()` asks for, and traced once for each signature of a batch.

    Args:
        model: The model that the step belongs to.
        name: Which of its steps.
        randomness: Where the step's random ops keep their state; `None`: in themselves.

    Attributes:
        pace: How many steps a block should have where no callback asks for a number.
        eager: Whether the step runs under `run_eagerly=True`.
        captures: What the step uses, wherever it is kept; `None` until `trace` has found it, or where it cannot.
        needs_trace: Whether `trace` has not been called yet.
    """

    def __init__(self, model: TrainableModel, name: StepName, randomness: ResumableRandomOps | None = None):
        # AutoGraph is off in all of our functions, and on in the model's own step where it is under `fit`.
        autographed = functools.partial(compat.autographed, jit_compile=compat.jit_compile(model))
        self.eager = bool(model.run_eagerly)
        step = getattr(model, name) if self.eager else autographed(getattr(model, name))
        strategy = model.distribute_strategy

        def counted_step(data: Batch) -> Logs:
            with contextlib.nullcontext() if randomness is None else randomness.replaced(name, data):
                logs = run_step(strategy, step, data)
            if not isinstance(logs, dict):
                raise TypeError(
                    f"`{name}` must return a dict of logs. Received: {logs!r} of type {type(logs).__name__}"
                )
            compat.count_step(model, training=name == "train_step")
            return logs

        self._model = model
        self._name = name
        self.captures: Captures | None = None
        self.needs_trace = True
        self._has_replicas = strategy.num_replicas_in_sync > 1
        # Several replicas are traced and run within their strategy's scope, where a variable is that of all of them.
        self._scope = strategy.scope if self._has_replicas else contextlib.nullcontext
        self._results = model.results_of(name)
        self._is_prepared = self.eager and not self._has_replicas
        self._build: Callable[[Batch], Any] = lambda batch: run_step(strategy, step, batch)
        self.pace = FixedPace(compat.steps_per_execution(model)) if has_workers(strategy) else Pace()
        self._function: tf.types.experimental.PolymorphicFunction | None = None
        self._blocks: BlockRunner
        if self.eager:
            self._blocks = EagerBlocks(counted_step)
            return
        function = self._function = tf.function(counted_step, reduce_retracing=True, autograph=False)
        if name == "train_step":
            compat.show_train_graph(model, function)
        graph_step = LoopStep(function, results=None if self._results is None else autographed(self._results))
        self._blocks = GraphBlocks(graph_step, None if self._has_replicas else SingleSteps(graph_step))
        if compat.jit_compile(model):
            self._blocks = XlaBlocks(graph_step, fallback=self._blocks if model.jit_compile_is_auto else None)

    def build(self, spec: BatchSpec) -> None:
        """Creates the variables of the model, its optimizer and its metrics, as the first step would.

        The step is traced and not run; under `run_eagerly=True` it runs, on zeros.

        Args:
            spec: The spec of a batch.
        """
        self._prepare(spec)
        with self._scope():
            if self.eager:
                self._build(map_leaves(lambda leaf: tf.zeros([size or 1 for size in leaf.shape], leaf.dtype), spec))
            self._trace_apart(spec)

    def trace(self, spec: BatchSpec) -> None:
        """Traces the step, as the first block of such batches would, and notes in `captures` what it uses.

        Under `run_eagerly=True` it is traced for that alone. Where it cannot be, `captures` stays `None`.

        Args:
            spec: The spec of a batch.
        """
        self._prepare(spec)
        with self._scope():
            if self._function is None:
                self._trace_apart(spec)
            else:
                self.captures = captures_of(self._function.get_concrete_function(spec))
                self.needs_trace = False

    def _trace_apart(self, spec: BatchSpec) -> None:
        """Traces the step for what it creates and uses; it runs in other traces."""
        self.needs_trace = False
        try:
            self.captures = captures_of(tf.function(self._build, autograph=False).get_concrete_function(spec))
        except Exception as error:
            if not self.eager:
                raise
            warnings.warn(  # an eager step may read values
                f"`{self._name}` cannot be traced ({type(error).__name__}), so state that the model does not track is "
                "not known. Assign what the step changes to attributes of the model.",
                stacklevel=2,
            )

    def log_names(self, spec: BatchSpec | None) -> set[str] | None:
        """Returns the names of what the step logs, or `None` if only running it would tell.

        The step is traced for that, and need not be traced again for batches of this spec.

        Args:
            spec: The spec of a batch, or `None` if it is not known.
        """
        if self._function is None or spec is None or (self._has_replicas and not self._is_prepared):
            return None
        self._prepare(spec)
        return compat.log_names(self._function.get_concrete_function(spec).structured_outputs)

    def block_of(self, batch: Batch, begin: int) -> Block:
        """Returns a block of one batch that the caller holds.

        Args:
            batch: Arrays or tensors.
            begin: Which step of the epoch it is.
        """
        if not self.eager:
            batch = as_tensors(batch)
        return Block(begin, 1, 1, SingleBatch(), batch)

    def runs_alone(self, block: Block) -> bool:
        """Whether a block of one step runs as the step alone, so that it draws the same random numbers as elsewhere.

        Args:
            block: A block of a batch that the caller holds.
        """
        return isinstance(self._blocks, GraphBlocks) and self._blocks.runs_alone(block)

    def run(self, block: Block) -> Logs | None:
        """Runs the steps of a block, and sets `block.done` to how many there were.

        Returns:
            The logs of the last step, as tensors; `None` if there was no data for a single step.
        """
        begin = time.perf_counter()
        if not self._is_prepared:
            self._prepare(block.fetch.element_spec(block.feed))
        with self._scope():
            logs = self._blocks.run(block)
        self.pace.record(block.done, time.perf_counter() - begin)
        return logs

    def _prepare(self, spec: BatchSpec) -> None:
        """Creates variables before the first step: replicas cannot create them within one; others trace it twice."""
        if self._is_prepared:
            return
        self._is_prepared = True
        if self._has_replicas:
            compat.build_on_replicas(self._model, shard_spec(spec))
            self._model.gradient_pipeline.prepare(self._model)
        elif self._results is not None:
            compat.build_metrics(self._model, spec)


class EagerBlocks:
    """Runs blocks step by step in Python, for `run_eagerly=True`.

    Args:
        step: The step.
    """

    def __init__(self, step: Callable[[Batch], Logs]):
        self._step = step

    def run(self, block: Block) -> Logs | None:
        """Runs the steps of a block: see `BlockRunner`."""
        logs = None
        while block.done < block.count and (batch := block.read()) is not None:
            logs = self._step(batch)
            block.done += 1
        return logs


@dataclasses.dataclass
class CompiledSteps:
    """The compiled steps of a model.

    Attributes:
        train: Its `train_step`.
        test: Its `test_step`.
        randomness: The states of their random ops, where they are kept for checkpoints.
        optimizer: The optimizer that they were made with.
        loss: The loss that they were made with.
    """

    train: CompiledStep
    test: CompiledStep
    randomness: ResumableRandomOps | None
    optimizer: Any
    loss: Any


def compiled_steps(model: TrainableModel, keep_random_state: bool = False) -> CompiledSteps:
    """Returns the model's compiled steps, which it keeps from call to call until something they depend on changes.

    `compile()` and `forget_steps()` drop them. They are made again when the model has another optimizer or
    `run_eagerly`.

    Args:
        model: The model.
        keep_random_state: Whether the states of their random ops must be kept, for checkpoints.

    Raises:
        ValueError: If `model.loss` was replaced, which has no effect in Keras.
    """
    steps: CompiledSteps | None = model._compiled_steps
    if steps is not None and steps.loss is not model.loss:
        raise ValueError(
            "`model.loss` must not be replaced: Keras's `compute_loss` does not read it. Call `model.compile()` with "
            f"the new loss. Received: model.loss={model.loss!r}"
        )
    if (
        steps is None
        or steps.train.eager != bool(model.run_eagerly)
        or steps.optimizer is not model.optimizer
        or (keep_random_state and steps.randomness is None)
    ):
        check_strategy(model.distribute_strategy, compat.jit_compile(model))
        randomness = ResumableRandomOps() if keep_random_state else None
        steps = model._compiled_steps = CompiledSteps(
            train=CompiledStep(model, "train_step", randomness),
            test=CompiledStep(model, "test_step", randomness),
            randomness=randomness,
            optimizer=model.optimizer,
            loss=model.loss,
        )
    return steps
