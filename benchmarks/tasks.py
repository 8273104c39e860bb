"""A task: a workload, the form in which its data come, and how many steps an epoch has."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    import tensorflow as tf

LOSS = "sparse_categorical_crossentropy"


@dataclasses.dataclass(frozen=True)
class Task:
    """What every contender is asked to train.

    Attributes:
        workload: A name in `WORKLOADS`.
        data: One of `DATA`.
        steps: Steps in an epoch.
        batch_size: Rows in a step.
        validation_steps: Steps of validation after each epoch, on the first rows.
    """

    workload: str
    data: str
    steps: int
    batch_size: int = 32
    validation_steps: int = 0

    @functools.cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`x` and `y`: as many rows as make full batches, so that no contender sees a ragged last one."""
        return WORKLOADS[self.workload].load(self.steps * self.batch_size)

    def model(self, keras: Any, model_class: Any, **compile_options: Any) -> Any:
        """The workload's model, new and compiled. XLA is off unless asked for: on a GPU Keras 3 would turn it on."""
        keras.utils.set_random_seed(0)
        model = model_class(*WORKLOADS[self.workload].build(keras))
        model.compile("adam", LOSS, metrics=["accuracy"], **{"jit_compile": False, **compile_options})
        return model

    def fit_arguments(self) -> dict:
        """The data as arguments of `fit` and `custom_fit`, for one epoch."""
        rows = self.validation_steps * self.batch_size
        validation = {"validation_data": tuple(part[:rows] for part in self.arrays)} if rows else {}
        if self.data == "arrays":
            x, y = self.arrays
            return {"x": x, "y": y, "batch_size": self.batch_size, "shuffle": True, **validation}
        if self.data == "tfdata":
            return {"x": self.dataset, "shuffle": False, **validation}  # it shuffles itself
        return {"x": self.generator(), "steps_per_epoch": self.steps, "shuffle": False, **validation}

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """One epoch of batches, by the pipeline of the tutorials. Endless where the task's data are a generator."""
        import tensorflow as tf  # not at the top: Keras on JAX with arrays does without

        if self.data == "generator":
            specs = tuple(tf.TensorSpec((self.batch_size, *part.shape[1:]), part.dtype) for part in self.arrays)
            batches = tf.data.Dataset.from_generator(self.generator, output_signature=specs)
        else:
            batches = tf.data.Dataset.from_tensor_slices(self.arrays).shuffle(1024).batch(self.batch_size)
        return batches.prefetch(tf.data.AUTOTUNE)

    def generator(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches without end, each epoch in a new order."""
        x, y = self.arrays
        random = np.random.default_rng(0)
        while True:
            for rows in np.split(random.permutation(len(x)), self.steps):
                yield x[rows], y[rows]
