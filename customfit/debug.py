"""Tools for a training run that went wrong."""

from customfit.gradients.step_dump import replay

__all__ = ["replay"]
