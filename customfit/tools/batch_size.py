"""The batch-size finder: the largest batch that fits into memory, tried in a process of its own."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from customfit.arguments import as_count
from customfit.compat import keras, tf
from customfit.data import map_leaves
from customfit.tools.restoring import unread

Outcome = Literal["fits", "too large"]


@dataclasses.dataclass(frozen=True)
class BatchSizeSearch:
    """What `find_batch_size` has found. It prints as a table.

    Attributes:
        batch_size: The largest batch size that was tried and fits.
        tried: Whether each batch size that was tried "fits" or is "too large".
    """

    batch_size: int
    tried: dict[int, Outcome]

    def accumulation_steps(self, batch_size: int) -> int:
        """Returns the `gradient_accumulation_steps` that make updates by so many rows out of batches that fit.

        Args:
            batch_size: The rows that an update is wanted to have.
        """
        return math.ceil(as_count("batch_size", batch_size) / self.batch_size)

    def scaled_rate(self, rate: float, batch_size: int, rule: Literal["linear", "sqrt"] = "linear") -> float:
        """Returns the learning rate for batches of this size, given a good one for batches of another size.

        It is a rule of thumb: `find_learning_rate` measures.

        Args:
            rate: The learning rate that is good for the other size.
            batch_size: The other size.
            rule: "linear", for SGD (Goyal et al. 2017, https://arxiv.org/abs/1706.02677), or "sqrt", for Adam and its
                kin (Malladi et al. 2022, https://arxiv.org/abs/2205.10287). Defaults to "linear".
        """
        if rule not in ("linear", "sqrt"):
            raise ValueError(f'`rule` must be "linear" or "sqrt". Received: rule={rule!r}')
        ratio = self.batch_size / as_count("batch_size", batch_size)
        return rate * (ratio if rule == "linear" else math.sqrt(ratio))

    def __str__(self) -> str:
        return "\n".join(f"{size:>8,}  {outcome}" for size, outcome in self.tried.items())


def find_batch_size(
    build: Callable[[], keras.Model],
    x: Any,
    y: Any = None,
    *,
    smallest: int = 1,
    largest: int | None = None,
    steps: int = 3,
    memory: int | None = None,
) -> BatchSizeSearch:
    """Returns the largest batch size that fits into memory: it is doubled until it does not.

    Each size is tried by a few steps of training, in a process of its own: where memory runs out, the system may kill
    it, and this process continues. On a GPU, call it before this process has used the GPU, whose memory TensorFlow
    keeps.

    Args:
        build: Returns a new compiled `CustomTrainModel`. It must be a function of a module, which the process imports.
        x: Arrays or a `tf.data.Dataset` of batches; or a function that makes the data. Only the first rows are read,
            and repeated to make larger batches.
        y: Targets, if `x` is inputs only.
        smallest: The batch size to start with. Defaults to 1.
        largest: The batch size to end with. Defaults to the rows that there are, or to 65,536 for a dataset.
        steps: How many steps to train with each size. Defaults to 3.
        memory: The bytes that the process may take for itself beside the model, on Linux. Defaults to no limit: the
            system's own.

    Returns:
        A `BatchSizeSearch`, which also says what to change with the batch size: the learning rate, or accumulation.

    Raises:
        MemoryError: If not even the smallest size fits.
        RuntimeError: If a step fails for another reason.
        ValueError: If an argument is wrong, or reading the data would change it.

    Example:

    >>> search = customfit.find_batch_size(build, x, y)
    >>> model.compile(SGD(search.scaled_rate(0.1, batch_size=32)), "mse")
    >>> model.custom_fit(x, y, batch_size=search.batch_size, epochs=10)
    """
    x, y = unread(x, y)
    batch, rows = _first_rows(x, y)
    smallest, steps = as_count("smallest", smallest), as_count("steps", steps)
    largest = max(smallest, rows) if largest is None else as_count("largest", largest, smallest)
    if memory is not None and not Path("/proc/self/status").exists():
        raise ValueError(f"`memory` can be limited on Linux only. Received: memory={memory}")
    sizes = []
    while smallest <= largest:
        sizes.append(smallest)
        smallest *= 2
    tried = _try_in_a_process(build, batch, sizes, steps, memory)
    fitting = [size for size, outcome in tried.items() if outcome == "fits"]
    if not fitting:
        raise MemoryError(f"A batch of {sizes[0]} does not fit into memory. Try a smaller model, or half precision.")
    return BatchSizeSearch(max(fitting), tried)


def _first_rows(x: Any, y: Any) -> tuple[Any, int]:
    """Returns a few rows as a batch of NumPy arrays, and the most rows that a batch is tried with by default."""
    if isinstance(x, tf.data.Dataset):
        return map_leaves(lambda leaf: leaf.numpy(), next(iter(x))), 2**16
    if hasattr(x, "__next__") or not (hasattr(x, "shape") or isinstance(x, (dict, list, tuple))):
        return map_leaves(np.asarray, next(iter(x))), 2**16
    rows = len(tf.nest.flatten(x)[0])
    batch = x if y is None else (x, y)
    return map_leaves(lambda leaf: np.asarray(leaf[:64]), batch), rows


def _try_in_a_process(
    build: Callable[[], keras.Model], batch: Any, sizes: list[int], steps: int, memory: int | None
) -> dict[int, Outcome]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_try_sizes, args=(theirs, build, batch, sizes, steps, memory))
    process.start()
    theirs.close()
    tried: dict[int, Outcome] = {}
    problem = None
    try:
        while True:
            outcome, what = ours.recv()
            if outcome == "failed":
                problem = what
            else:
                tried[what] = outcome
    except EOFError:  # it has ended, or was ended
        process.join()
    if problem is not None or (process.exitcode or 0) > 0:
        raise RuntimeError(
            f"A step has failed, and not for want of memory:\n{problem or 'the process could not start'}"
        )
    if process.exitcode:
        tried[sizes[len(tried)]] = "too large"
    return tried


def _try_sizes(
    results: Connection,
    build: Callable[[], keras.Model],
    batch: Any,
    sizes: list[int],
    steps: int,
    memory: int | None,
) -> None:
    """What the process does: it trains with one size after the other, until memory runs out."""
    size = 0
    try:
        for device in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(device, True)
        model = build()
        for size in sizes:
            repeated = map_leaves(lambda leaf: leaf[np.arange(size) % len(leaf)], batch)  # noqa: B023
            data = tf.data.Dataset.from_tensors(repeated).repeat(steps)
            if size == sizes[0]:
                _limit_memory(memory)
            model.custom_fit(data, verbose=0)
            results.send(("fits", size))
    except (MemoryError, tf.errors.ResourceExhaustedError):
        results.send(("too large", size))
    except Exception:
        results.send(("failed", traceback.format_exc()))


def _limit_memory(memory: int | None) -> None:
    if memory is None:
        return
    import resource

    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = 1024 * int(status["VmData"].split()[0])
    resource.setrlimit(resource.RLIMIT_DATA, (used + memory, resource.RLIM_INFINITY))
