"""`train_on_batch` and `test_on_batch`: Keras's own, around the compiled step of `custom_fit`.

Keras's `train_function` finds its trace anew for each batch, and in some releases makes a new trace. The compiled step
is called directly (`execution/dispatch.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from customfit import compat
from customfit.compat import tf
from customfit.data import Batch
from customfit.execution import CompiledStep, compiled_steps
from customfit.models.overrides import is_overridden


@contextlib.contextmanager
def compiled_function(model: Any, name: Literal["train", "test"], ours: type) -> Iterator[None]:
    """Within this context, the `train_function` or `test_function` of a model calls its compiled step.

    A function that the model's class makes itself is left as it is. So is Keras's for a step that keeps random state in
    its graph, that runs eagerly, on several replicas or under XLA, or of which several make an execution.

    Args:
        model: The model.
        name: Which of the two.
        ours: Our class of `make_train_function` and `make_test_function`.
    """
    if not _can_replace(model) or is_overridden(model, f"make_{name}_function", ours):
        yield
        return
    attribute = f"{name}_function"
    getattr(model, f"make_{name}_function")()
    kept = getattr(model, attribute)

    def function(iterator: Iterator[Batch]) -> Any:
        batch = next(iterator)
        step: CompiledStep = getattr(compiled_steps(model), name)
        block = step.block_of(batch, 0)
        if not step.runs_alone(block):
            return kept(compat.single_batch_iterator(batch))
        return step.run(block)

    setattr(model, attribute, function)
    try:
        yield
    finally:
        if getattr(model, attribute) is function:  # a step may have compiled the model again
            setattr(model, attribute, kept)


def _can_replace(model: Any) -> bool:
    if not compat.is_compiled(model) or model.run_eagerly or tf.config.functions_run_eagerly():
        return False
    one_replica = model.distribute_strategy.num_replicas_in_sync == 1
    return one_replica and not compat.jit_compile(model) and compat.steps_per_execution(model) == 1
