"""From the tape to the optimizer: unscale, accumulate, all-reduce, check, transform, clip, apply.

`GradientPipeline` runs these stages and owns their state: accumulators, the history of norms, counters of bad steps,
gradient metrics. Each model has its own; `compile()` creates it. `AdaptiveClip` and `NonFinite` are options of
`compile()` as objects. `OptimizerGroups` is an optimizer that consists of several.
"""

from customfit.gradients.clipping import AdaptiveClip, Clip, Gradient, check_no_other_clip
from customfit.gradients.nonfinite import NonFinite, NonFiniteError
from customfit.gradients.optimizers import LayerRates, OptimizerGroups, as_optimizer
from customfit.gradients.pipeline import GradientPipeline, compile_options_from_config

__all__ = [
    "AdaptiveClip",
    "Clip",
    "Gradient",
    "GradientPipeline",
    "LayerRates",
    "NonFinite",
    "NonFiniteError",
    "OptimizerGroups",
    "as_optimizer",
    "check_no_other_clip",
    "compile_options_from_config",
]
