"""From the tape's gradients to new weights: unscale -> transform -> clip -> apply."""

from __future__ import annotations

import warnings

from customfit import compat
from customfit.compat import tf


def apply_gradients(model, gradients: list, variables: list) -> None:
    """Updates `variables` with what `transform_gradients` and the clip of `compile()` make of their gradients.

    Args:
        model: The model, whose optimizer is used.
        gradients: Gradients of the scaled loss (`compat.scale_loss`), one a variable.
        variables: The variables, in the same order.
    """
    if not variables:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return
    optimizer = model.optimizer
    if not model.changes_gradients and compat.unscales_in_apply(optimizer):
        optimizer.apply_gradients(zip(gradients, variables))
        return
    gradients = compat.unscale_gradients(optimizer, gradients)
    gradients = model.transform_gradients(gradients, variables)
    if model.gradient_clip is not None:
        with tf.init_scope():
            model.gradient_clip.build(model)
        gradients = model.gradient_clip(gradients, variables)
    optimizer.apply_gradients(zip(compat.rescale_gradients(optimizer, gradients), variables))
