"""Several optimizers in one model, each for its own part of the weights."""

from customfit.gradients.optimizers.groups import OptimizerGroups, as_optimizer
from customfit.gradients.optimizers.layer_rates import LayerRates
from customfit.gradients.optimizers.rates import has_schedule, number

__all__ = ["LayerRates", "OptimizerGroups", "as_optimizer", "has_schedule", "number"]
