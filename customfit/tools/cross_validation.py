"""Cross-validation: a model trained once for each fold, and evaluated on the rows that it has not seen."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable, Union

import numpy as np

from customfit.arguments import as_count, is_count
from customfit.checkpoint import Checkpoints, Directory
from customfit.compat import keras, tf
from customfit.data import map_leaves

Arrays = Any  # an array, frame or tensor of shape `(rows, ...)`, or a nested structure of them
Splits = Union[int, Iterable[tuple[Any, Any]], Any]  # Any: a splitter of scikit-learn


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` has found. It prints as a table.

    Attributes:
        folds: For each fold, the loss and metrics on the rows that were held out.
        histories: For each fold, `history.history` of its training run.
        held_out: For each fold, the indices of the rows that were held out.
    """

    folds: list[dict[str, float]]
    histories: list[dict[str, list[float]]]
    held_out: list[np.ndarray]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each metric over the folds."""
        return {name: float(np.mean([fold[name] for fold in self.folds])) for name in self.folds[0]}

    @property
    def deviation(self) -> dict[str, float]:
        """The sample standard deviation of each metric over the folds."""
        return {name: float(np.std([fold[name] for fold in self.folds], ddof=1)) for name in self.folds[0]}

    def __str__(self) -> str:
        names = list(self.folds[0])
        widths = [max(10, len(name) + 2) for name in names]
        rows = [(str(number), fold) for number, fold in enumerate(self.folds, start=1)]
        rows.append(("mean", self.mean))
        if len(self.folds) > 1:
            rows.append(("deviation", self.deviation))
        lines = ["fold".ljust(10) + "".join(name.rjust(width) for name, width in zip(names, widths))]
        for label, values in rows:
            cells = (f"{values[name]:.4f}".rjust(width) for name, width in zip(names, widths))
            lines.append(label.ljust(10) + "".join(cells))
        return "\n".join(lines)


def cross_validate(
    build: Callable[[], keras.Model],
    x: Arrays,
    y: Arrays,
    cv: Splits = 5,
    *,
    groups: Sequence[object] | np.ndarray | None = None,
    sample_weight: Arrays = None,
    seed: int = 0,
    processes: int | None = None,
    checkpoint: Directory | Checkpoints | None = None,
    **arguments: Any,
) -> CrossValidation:
    """Trains a new model for each fold by `custom_fit`, and evaluates it on the rows that were held out.

    The held-out rows are the fold's `validation_data`, unless `arguments` say otherwise. If early stopping chooses the
    best epoch by them, the result is too good: pass `validation_split=0.1`, so that it chooses by other rows.

    Args:
        build: Returns a new compiled `CustomTrainModel`.
        x: Inputs: arrays, frames or tensors, or a nested structure of them.
        y: Targets.
        cv: How to split. A number of folds, shuffled by `seed`, and stratified where `y` are class labels; any splitter
            of scikit-learn, such as `GroupKFold(5)`; or pairs of the indices of rows to train on and to hold out.
            Defaults to 5.
        groups: The group of each row, for splitters that take groups.
        sample_weight: A weight for each row.
        seed: The global seed, which is set before each fold's model is built. Defaults to 0.
        processes: How many folds to train at once, each in a process of its own. `build` must then be a function of a
            module, and `arguments` must be picklable. Defaults to training one after the other in this process.
        checkpoint: As in `custom_fit`. Each fold has a directory of its own in it: `fold-1` and so on. The same call,
            made again after it was cut off, trains what is left.
        **arguments: Further arguments of `custom_fit`. `verbose` defaults to 0. `callbacks` may be a function that
            returns new ones for each fold.

    Returns:
        A `CrossValidation`: a table of folds with mean and deviation.

    Raises:
        ImportError: If scikit-learn is needed and not installed.
        ValueError: If an argument is wrong.

    Example:

    >>> print(customfit.cross_validate(build, x, y, cv=3, epochs=20))
    fold            loss  accuracy
    1             0.3411    0.8800
    2             0.3120    0.9000
    3             0.3688    0.8600
    mean          0.3406    0.8800
    deviation     0.0284    0.0200
    """
    x, y, sample_weight = (map_leaves(_as_rows, data) for data in (x, y, sample_weight))
    rows = len(next(iter(tf.nest.flatten(x))))
    splits = [(np.asarray(train), np.asarray(held)) for train, held in _splits(cv, rows, y, groups, seed)]
    if not splits:
        raise ValueError(f"`cv` must make at least one split. Received: cv={cv!r}")
    data = (x, y, sample_weight)
    folds = [
        _Fold(build, data, train, held, seed, _checkpoint_of(checkpoint, number), arguments)
        for number, (train, held) in enumerate(splits, start=1)
    ]
    results = list(map(_run, folds)) if processes is None else _in_processes(folds, as_count("processes", processes))
    return CrossValidation([metrics for metrics, _ in results], [h for _, h in results], [held for _, held in splits])


@dataclasses.dataclass(frozen=True)
class _Fold:
    """What a process needs to train one fold."""

    build: Callable[[], keras.Model]
    data: tuple[Any, Any, Any]
    train: np.ndarray
    held_out: np.ndarray
    seed: int
    checkpoint: Checkpoints | None
    arguments: dict[str, Any]


def _run(fold: _Fold) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Trains and evaluates one fold. Returns its metrics and its history."""
    keras.utils.set_random_seed(fold.seed)
    model = fold.build()
    x, y, weight = (_take(data, fold.train) for data in fold.data)
    held_out = tuple(_take(data, fold.held_out) for data in fold.data)
    arguments = {"verbose": 0, **fold.arguments}
    if callable(arguments.get("callbacks")):
        arguments["callbacks"] = arguments["callbacks"]()
    if not {"validation_data", "validation_split"} & set(arguments):
        arguments["validation_data"] = held_out if held_out[2] is not None else held_out[:2]
    history = model.custom_fit(x, y, sample_weight=weight, checkpoint=fold.checkpoint, **arguments)
    metrics = model.custom_evaluate(
        held_out[0],
        held_out[1],
        sample_weight=held_out[2],
        batch_size=arguments.get("validation_batch_size") or arguments.get("batch_size"),
        verbose=0,
        return_dict=True,
    )
    return metrics, history.history


def _in_processes(folds: list[_Fold], processes: int) -> list[Any]:
    """Runs folds in processes that start anew: TensorFlow does not survive a fork."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(processes, len(folds)), context) as pool:
        return list(pool.map(_run, folds))


def _splits(cv: Splits, rows: int, y: Any, groups: Any, seed: int) -> Iterable[tuple[Any, Any]]:
    if not is_count(cv, 2) and not hasattr(cv, "split"):
        if isinstance(cv, (int, float, str)) or not hasattr(cv, "__iter__"):
            raise ValueError(
                "`cv` must be a number of folds, 2 or more, a splitter of scikit-learn, or pairs of indices. "
                f"Received: cv={cv!r}"
            )
        return cv
    labels = None if isinstance(y, (dict, list, tuple)) else np.asarray(y)
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    splitter: Any = cv
    if is_count(cv, 2):
        try:
            from sklearn import model_selection
        except ImportError:
            raise ImportError(
                "`cross_validate` needs scikit-learn: `pip install scikit-learn`. Or pass `cv` as pairs of indices."
            ) from None
        are_classes = labels is not None and labels.ndim == 1 and labels.dtype.kind in "biuOSU"
        kind = model_selection.StratifiedKFold if are_classes else model_selection.KFold
        splitter = kind(as_count("cv", cv, 2), shuffle=True, random_state=seed)
    return splitter.split(np.zeros(rows), labels, groups)


def _checkpoint_of(checkpoint: Directory | Checkpoints | None, number: int) -> Checkpoints | None:
    if checkpoint is None:
        return None
    of_all = Checkpoints.of(checkpoint)
    return dataclasses.replace(of_all, directory=Path(os.fspath(of_all.directory)) / f"fold-{number}")


def _as_rows(leaf: Any) -> Any:
    if leaf is None or hasattr(leaf, "shape"):
        return leaf
    raise ValueError(
        f"`x`, `y` and `sample_weight` must be arrays, frames or tensors. Received: an object of type {type(leaf)}"
    )


def _take(data: Any, rows: np.ndarray) -> Any:
    """Returns these rows of arrays."""

    def take(leaf: Any) -> Any:
        if leaf is None:
            return None
        if hasattr(leaf, "iloc"):
            return leaf.iloc[rows]
        return tf.gather(leaf, rows) if tf.is_tensor(leaf) else leaf[rows]

    return map_leaves(take, data)
