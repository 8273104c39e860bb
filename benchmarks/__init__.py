"""How fast `custom_fit` is beside `fit` and other ways to train the same Keras model, measured side by side in one run.

`python -m benchmarks` in the root of the repository prints Markdown tables and saves them with all numbers as JSON and
with a plot; `python -m benchmarks --help` lists its options. It needs scikit-learn and matplotlib; Keras on JAX takes
part where jax is installed: `pip install scikit-learn matplotlib jax`.

What to read first: `workloads.py` has the models and their data, `contenders.py` the ways to train them, `measure.py`
how they are timed. Each part of the report, as `--parts` names them, is a module: `speed.py`, `bounds.py` and so on.
"""

import os

# Here, because these must be set before TensorFlow or JAX is imported, in this process and in those that it starts.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# On a GPU several processes share its memory: none may take all of it at once, as both do by default.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
