"""`predict_step`, compiled: a block of steps in one call, or one batch of any number of rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable
from typing import Callable

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch, Block, map_leaves
from customfit.execution.graph import GraphBlocks
from customfit.execution.outputs import BlockOutputs, OutputCollector, Outputs
from customfit.execution.pace import Pace
from customfit.execution.random_ops import ResumableRandomOps
from customfit.execution.sharding import check_synchronous, concatenated, has_workers, run_step
from customfit.execution.trainable import PredictingModel


class CompiledPrediction:
    """The `predict_step` of a model, compiled as `predict` compiles it.

    Args:
        model: The model. It need not be compiled.

    Attributes:
        pace: How many steps a block should have where no callback asks for a number.
    """

    def __init__(self, model: PredictingModel):
        strategy = model.distribute_strategy
        check_synchronous(strategy, "custom_predict")
        self.pace = Pace()
        self.options = options_of(model)
        self._eager, jit_compile = self.options
        # Several replicas are traced and run within their strategy's scope, where a variable is that of all of them.
        self._scope = contextlib.nullcontext if strategy.num_replicas_in_sync == 1 else strategy.scope
        step: Callable[[Batch], Outputs] = model.predict_step
        if not self._eager:
            step = compat.autographed(step, jit_compile=jit_compile)
            if jit_compile:
                step = tf.function(step, reduce_retracing=True, jit_compile=True, autograph=False)

        # Each kind of data has a trace of its own. They share the states of random ops: `predict` has one trace.
        randomness = None if jit_compile else ResumableRandomOps(warns=False)

        def counted_step(batch: Batch) -> Outputs:
            with contextlib.nullcontext() if randomness is None else randomness.replaced("predict_step", batch):
                outputs = run_step(strategy, step, batch, concatenated)
            compat.count_prediction_step(model)
            return outputs

        self._function = tf.function(counted_step, reduce_retracing=True, autograph=False)
        self._step = counted_step if self._eager else self._function
        # Workers exchange outputs in each step, and within one graph call all must have the same number of rows.
        self._one_by_one = self._eager or has_workers(strategy)
        self._collector = OutputCollector(self._function)
        self._blocks = GraphBlocks(self._collector)
        self._of_any_size: dict[Hashable, Callable[[Batch], Outputs]] = {}

    # ------------------------------------------------------------------------------------------------------- blocks

    def run(self, block: Block) -> BlockOutputs | None:
        """Runs the steps of a block, and sets `block.done` to how many there were.

        Returns:
            Their outputs; `None` if there was no data for a single step.
        """
        begin = time.perf_counter()
        with self._scope():
            outputs = self._run_one_by_one(block) if self._one_by_one else self._run_graph(block)
        if block.done > 1 or self.pace.steps == 1:  # a pass begins with a single step, which says little
            self.pace.record(block.done, time.perf_counter() - begin)
        return outputs

    def _run_graph(self, block: Block) -> BlockOutputs | None:
        result = self._blocks.run(block)
        return None if result is None else self._collector.take_apart(result)

    def _run_one_by_one(self, block: Block) -> BlockOutputs | None:
        steps = []
        while block.done < block.count and (batch := block.read()) is not None:
            steps.append(self._step(batch))
            block.done += 1
        return BlockOutputs.of_steps(steps) if steps else None

    # ---------------------------------------------------------------------------------------------------- one batch

    def of_batch(self, batch: Batch) -> Outputs:
        """Returns the outputs for a batch. One trace serves any number of rows.

        It is for one replica: several share a batch, which is done for blocks.

        Args:
            batch: A tensor of rows, or a nested structure of them.
        """
        if self._eager:
            return self._step(batch)
        key = str(map_leaves(_signature, batch)) if tf.nest.is_nested(batch) else _signature(batch)
        function = self._of_any_size.get(key)
        return (self._trace(batch, key) if function is None else function)(batch)

    def _trace(self, batch: Batch, key: Hashable) -> Callable[[Batch], Outputs]:
        spec = map_leaves(lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), batch)
        try:
            function = self._function.get_concrete_function(spec)
        except Exception:  # a step that asks how many rows there are: it is traced for each number
            function = self._function
        self._of_any_size[key] = function
        return function


def _signature(leaf: tf.Tensor) -> Hashable:
    return leaf.dtype, tuple(leaf.shape[1:])


def compiled_prediction(model: PredictingModel) -> CompiledPrediction:
    """Returns the model's compiled `predict_step`, which it keeps from call to call.

    `compile()`, `forget_steps()` and `make_predict_function(force=True)` drop it. It is made again when the model has
    another `run_eagerly` or `jit_compile`.

    Args:
        model: The model.
    """
    prediction: CompiledPrediction | None = model._compiled_prediction
    if prediction is None or prediction.options != options_of(model):
        prediction = model._compiled_prediction = CompiledPrediction(model)
    return prediction


def options_of(model: PredictingModel) -> tuple[bool, bool]:
    """Returns whether a model's steps run eagerly, and whether XLA compiles them.

    Args:
        model: The model.
    """
    return bool(model.run_eagerly) or tf.config.functions_run_eagerly(), compat.jit_compile(model)
