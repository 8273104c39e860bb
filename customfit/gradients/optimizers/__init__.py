"""Several optimizers in one model, each for its own part of the weights."""

from customfit.gradients.optimizers.groups import OptimizerGroups, as_optimizer

__all__ = ["OptimizerGroups", "as_optimizer"]
