"""Compiled steps: one step, a block of steps in a graph, an XLA program, on one device or on replicas.

`CompiledSteps` owns a model's traces and the states of its random ops; the model holds it and drops it when it is
compiled again. `TrainableModel` says what the engine needs of a model. `replicas` has what a step must do differently
where several replicas run it. `VariableSnapshot` holds values, and entries of tables,
to restore.

Design notes stand beside the code: BLOCKS.md, REPLICAS.md, RANDOMNESS.md.
"""

from customfit.execution import replicas
from customfit.execution.captures import CapturedVariable, Captures, captures_of, check_resources, handles_of
from customfit.execution.compiled_step import CompiledStep, CompiledSteps, compiled_steps
from customfit.execution.outputs import BlockOutputs, Piece, join
from customfit.execution.pace import FixedPace, Pace
from customfit.execution.prediction import CompiledPrediction, compiled_prediction
from customfit.execution.sharding import has_workers
from customfit.execution.snapshot import VariableSnapshot, mutable_tables, read_tables, write_tables
from customfit.execution.trainable import Logs, StepName, TrainableModel, is_trainable

__all__ = [
    "BlockOutputs",
    "CapturedVariable",
    "Captures",
    "CompiledPrediction",
    "CompiledStep",
    "CompiledSteps",
    "FixedPace",
    "Logs",
    "Pace",
    "Piece",
    "StepName",
    "TrainableModel",
    "VariableSnapshot",
    "captures_of",
    "check_resources",
    "compiled_prediction",
    "compiled_steps",
    "handles_of",
    "has_workers",
    "is_trainable",
    "join",
    "mutable_tables",
    "read_tables",
    "replicas",
    "write_tables",
]
