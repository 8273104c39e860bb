"""`set_seed`: the same numbers in every run."""

from __future__ import annotations

import sys

from customfit.arguments import as_count
from customfit.compat import keras, tf


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seeds Python, NumPy, TensorFlow and Keras (and torch, if it is imported), and makes operations deterministic.

    Call it before the model and the data are made. The same script on the same machine then ends with the same bits.

    What it cannot hold:

    - Another machine, another release of TensorFlow or another number of devices: they round differently.
    - The order of sets and of hashes of strings, unless `PYTHONHASHSEED` is set before Python starts.
    - What generators of your own draw without a seed (`np.random.default_rng()`), and what threads or processes of
      yours draw in an order that is not fixed.
    - An operation that has no deterministic implementation on your device: TensorFlow raises an error that names it.

    Args:
        seed: An integer from 0 to 2**32 - 1, as NumPy takes it.
        deterministic: Whether TensorFlow must use deterministic operations. They can be slower on a GPU, and
            `tf.data` maps with random operations run one after the other. It holds until the process ends: TensorFlow
            cannot take it back. Defaults to `True`.

    Raises:
        ValueError: If the seed is not such an integer.

    Example:

    >>> customfit.set_seed(42)
    >>> model = build_model()
    >>> history = model.custom_fit(x, y, epochs=5)
    """
    seed = as_count("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"`seed` must be an integer from 0 to 2**32 - 1. Received: seed={seed}")
    keras.utils.set_random_seed(seed)
    if "torch" in sys.modules:  # a `DataLoader` draws its order from there
        sys.modules["torch"].manual_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
