"""Compiled steps: one step, a block of them in a graph, an XLA program, on one device or on replicas.

`CompiledSteps` owns a model's traces and the states of its random ops. `replicas` has what a step must mind where
several run at once; `VariableSnapshot` keeps values to be restored.
"""

from customfit.execution import replicas
from customfit.execution.compiled_step import CompiledSteps, compiled_steps
from customfit.execution.pace import Pace
from customfit.execution.sharding import has_workers
from customfit.execution.snapshot import VariableSnapshot

__all__ = ["CompiledSteps", "Pace", "VariableSnapshot", "compiled_steps", "has_workers", "replicas"]
