"""The global random generators of Python, NumPy and TensorFlow."""

from __future__ import annotations

import random

import numpy as np

from customfit import compat
from customfit.compat import tf


def random_states() -> dict:
    """Returns the states of the random generators of Python, NumPy and TensorFlow."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    generator = compat.global_random_generator()
    return {
        "python": list(random.getstate()),
        "numpy": [kind, keys, position, has_gauss, gauss],
        "eager": compat.eager_random_state(),
        "generator": None if generator is None else generator.state.numpy(),
    }


def set_random_states(states: dict, of_python: bool = True) -> None:
    """Restores what `random_states` returned, for Python and NumPy only if asked to."""
    if of_python:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(states["numpy"]))
    if states["eager"] is not None:
        compat.set_eager_random_state(states["eager"])
    if states["generator"] is not None:
        tf.random.get_global_generator().state.assign(states["generator"])
