"""From the tape to the optimizer: unscale, accumulate, all-reduce, check, transform, clip, apply.

`GradientPipeline` owns the state of all stages: accumulators, clip history, counters of bad steps, gradient metrics. A
model has one; `compile()` makes it.
"""

from customfit.gradients.clipping import Clip, Gradient, check_no_other_clip
from customfit.gradients.nonfinite import NonFiniteError
from customfit.gradients.optimizers import OptimizerGroups, as_optimizer
from customfit.gradients.pipeline import GradientPipeline

__all__ = [
    "Clip",
    "Gradient",
    "GradientPipeline",
    "NonFiniteError",
    "OptimizerGroups",
    "as_optimizer",
    "check_no_other_clip",
]
