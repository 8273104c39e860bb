"""From the tape to the optimizer: unscale, accumulate, all-reduce, check, transform, clip, apply.

`GradientPipeline` owns the state of all stages: accumulators, clip history, counters of bad steps, gradient metrics. A
model has one; `compile()` makes it.
"""

from customfit.gradients.clipping import AdaptiveClip, Clip, Gradient, check_no_other_clip
from customfit.gradients.nonfinite import NonFinite, NonFiniteError
from customfit.gradients.optimizers import OptimizerGroups, as_optimizer
from customfit.gradients.pipeline import GradientPipeline, compile_options_from_config

__all__ = [
    "AdaptiveClip",
    "Clip",
    "Gradient",
    "GradientPipeline",
    "NonFinite",
    "NonFiniteError",
    "OptimizerGroups",
    "as_optimizer",
    "check_no_other_clip",
    "compile_options_from_config",
]
