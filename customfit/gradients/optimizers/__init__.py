"""Several optimizers in one model."""

from customfit.gradients.optimizers.groups import OptimizerGroups, as_optimizer

__all__ = ["OptimizerGroups", "as_optimizer"]
