"""Random states that no public function returns, and the random ops that keep their state to themselves.

A resumed run must draw the numbers that an uninterrupted one would have drawn. Keras 3 has a global seed generator,
TensorFlow has a global generator and one for eager ops, and ops such as `tf.random.uniform` count their own calls. The
states are read and restored here. `execution/random_ops.py` decides what replaces such an op.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from customfit.compat.versions import IS_KERAS_3, keras, tf

if TYPE_CHECKING:
    from customfit.compat.models import Variable

# Random ops of TensorFlow 1 that hold their state, and the ops that draw the same numbers from a state that is passed.
RESUMABLE_RANDOM_OPS: dict[str, Callable[..., tf.Tensor]] = {
    "random_uniform": tf.raw_ops.StatelessRandomUniformV2,
    "random_standard_normal": tf.raw_ops.StatelessRandomNormalV2,
    "truncated_normal": tf.raw_ops.StatelessTruncatedNormalV2,
    "random_uniform_int": tf.raw_ops.StatelessRandomUniformIntV2,
}

# Random ops for which there is no such replacement, and the public functions that use them.
UNRESUMABLE_RANDOM_OPS = {
    "random_shuffle": "tf.random.shuffle",
    "multinomial": "tf.random.categorical",
    "random_gamma": "tf.random.gamma",
    "random_poisson_v2": "tf.random.poisson",
}


@contextlib.contextmanager
def replaced_random_ops(replacement: Callable[..., tf.Tensor]) -> Iterator[None]:
    """Within this context, calls `replacement(name, op, *args, **kwargs)` in place of each of the ops above."""
    module = importlib.import_module("tensorflow.python.ops.gen_random_ops")
    ops = {name: getattr(module, name) for name in (*RESUMABLE_RANDOM_OPS, *UNRESUMABLE_RANDOM_OPS)}
    for name, op in ops.items():
        setattr(module, name, functools.partial(replacement, name, op))
    try:
        yield
    finally:
        for name, op in ops.items():
            setattr(module, name, op)


def keras_seed_variables() -> list[Variable]:
    """Returns the state of Keras 3's global seed generator, which unseeded `keras.random` uses, if it exists yet."""
    if not IS_KERAS_3:
        return []
    state = importlib.import_module("keras.src.backend.common.global_state")
    generator = state.get_global_attribute("global_seed_generator")
    return [] if generator is None else [generator.state]


@contextlib.contextmanager
def layer_seeds_kept(model: keras.Model) -> Iterator[None]:
    """Within this context, layers of Keras 2 that have a seed may draw; afterwards their next seeds are as before."""
    layers = [] if IS_KERAS_3 else [layer for layer in model.submodules if hasattr(layer, "_random_generator")]
    generators = [layer._random_generator for layer in layers]
    seeds = [generator._seed for generator in generators]
    try:
        yield
    finally:
        for generator, seed in zip(generators, seeds):
            generator._seed = seed


def create_keras_seed_generator() -> None:
    """Makes Keras 3's global seed generator, if it does not exist yet."""
    if not keras_seed_variables():
        keras.random.uniform(())


def global_seed() -> int | None:
    """Returns the seed of `tf.random.set_seed`, or `None`. Only a graph tells it in public."""
    seeds: list[int | None] = []
    tf.function(lambda: seeds.append(tf.compat.v1.get_default_graph().seed)).get_concrete_function()
    return seeds[-1]


def global_random_generator() -> tf.random.Generator | None:
    """Returns TensorFlow's global generator, if it exists. `tf.random.get_global_generator()` would make one."""
    return importlib.import_module("tensorflow.python.ops.stateful_random_ops").global_generator


def eager_random_state() -> list[Any] | None:
    """Returns the state from which eager random ops draw their seeds under a global seed; `None` without one."""
    generator = getattr(_eager_context(), "_rng", None)
    return None if generator is None else list(generator.getstate())


def set_eager_random_state(state: list[Any]) -> None:
    """Restores what `eager_random_state` returned."""
    seed = global_seed()
    if seed is not None:
        tf.random.set_seed(seed)  # also resets how often each op has drawn
    version, internal, gauss = state
    _eager_context()._rng.setstate((version, tuple(internal), gauss))


def _eager_context() -> Any:
    return importlib.import_module("tensorflow.python.eager.context").context()
