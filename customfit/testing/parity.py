"""`check_parity`: a model ends with the same numbers under `fit()` and `custom_fit()`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.arguments import listed
from customfit.compat import keras, tf
from customfit.testing.resume import ResumeReport, check_resume

__all__ = ["ParityReport", "ResumeReport", "check_parity", "check_resume"]


@dataclasses.dataclass(frozen=True)
class ParityReport:
    """What `check_parity` found. It is true if everything is equal, and prints as a sentence.

    Attributes:
        equal: Whether weights, optimizer and History are equal.
        message: What differs, where first, and by how much.
        epoch: The epoch of the first step after which a variable differs, or `None`.
        step: That step of the epoch, counted from 0, or `None`.
        variable: The first variable that differs, or `None`.
        difference: The largest absolute difference in it, or `None`.
    """

    equal: bool
    message: str
    epoch: int | None = None
    step: int | None = None
    variable: str | None = None
    difference: float | None = None

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:  # what pytest shows of `assert check_parity(...)`
        return f"ParityReport({self.message})"


def check_parity(
    model_fn: Callable[[], keras.Model],
    data: Any,
    *,
    reference_fn: Callable[[], keras.Model] | None = None,
    seed: int = 0,
    rtol: float = 0.0,
    **fit_arguments: Any,
) -> ParityReport:
    """Trains the same model under `fit()` and under `custom_fit()` and compares weights, optimizer and History.

    Args:
        model_fn: Returns the model, newly built and compiled: a `CustomTrainModel`, or one with `CustomTrainMixin`.
        data: What to train on: `x`, `(x, y)`, `(x, y, sample_weight)`, a dataset or other batches. Or a function that
            creates it for each run, as a generator needs; it may also return a dict of arguments of `fit`.
        reference_fn: Returns the model that `fit` trains, such as the same layers in a plain `keras.Model`. That of
            `model_fn` is then trained under `fit` as well, to compare the steps. Defaults to `model_fn`.
        seed: The global seed that is set before each run. Defaults to 0.
        rtol: The relative difference that counts as equal, such as for `jit_compile=True`. Defaults to 0: to the bit.
        **fit_arguments: Arguments of `fit`. `epochs` defaults to 2, `verbose` to 0, and `shuffle` to `False`, because
            with `True` Keras 3 repeats the first epoch's order and `custom_fit` does not.

    Returns:
        A `ParityReport`, which is true if all is equal. If not, the models are trained again, watched step by step, to
        find the first step and variable that differ. `fit` is compared with itself, to recognize a model or data that
        are not reproducible, and with `fit` run eagerly, to recognize a rounding of its graph.

    Example:

    ```python
    def test_my_model():
        assert check_parity(build_my_model, (x, y), epochs=3, validation_split=0.2)
    ```
    """
    arguments = {"epochs": 2, "verbose": 0, "shuffle": False, **fit_arguments}

    def train(model_fn, how, *watchers, eagerly=False):
        keras.utils.set_random_seed(seed)
        model = model_fn()
        if eagerly:
            model.run_eagerly = True
        callbacks = [*listed(arguments.get("callbacks")), *watchers]
        history = getattr(model, how)(**{**arguments, **_as_arguments(data), "callbacks": callbacks})
        return _State.of(model, history)

    ways = ("custom_fit",) if reference_fn is None else ("custom_fit", "fit")
    reference_fn = reference_fn or model_fn
    theirs = train(reference_fn, "fit")
    for how in ways:
        ours = train(model_fn, how)
        difference = theirs.difference(ours, rtol)
        if difference is None:
            continue
        if theirs.difference(train(reference_fn, "fit"), rtol) is not None:
            return ParityReport(
                False, "fit() differs from itself under the same seed: model or data are not reproducible"
            )
        watched = _Watch()
        train(reference_fn, "fit", watched)
        watch = _Watch(watched.seen, rtol)
        train(model_fn, how, watch)
        if watch.first is None:
            return ParityReport(
                False, f"under {how}() {difference}; while a callback watches each step, all steps are equal"
            )
        epoch, step, variable, largest = watch.first
        message = (
            f"under {how}() {variable} differs by up to {largest:.3g} after step {step} of epoch {epoch}; at the end "
            f"{difference}"
        )
        if train(reference_fn, "fit", eagerly=True).difference(ours, rtol) is None:
            message += (
                f". fit() agrees with {how}() if it runs eagerly: in the graph of its single step TensorFlow rounds "
                "differently, as where oneDNN fuses an activation into its layer. Pass `rtol`, or set "
                "TF_ENABLE_ONEDNN_OPTS=0 in the environment"
            )
        return ParityReport(False, message, *watch.first)
    return ParityReport(True, "fit() and custom_fit() agree")


class _Watch(keras.callbacks.Callback):
    """Records every variable after each step, or compares it with what another watch has recorded."""

    def __init__(self, other: list | None = None, rtol: float = 0.0):
        super().__init__()
        self.seen: list = []
        self.first: tuple | None = None
        self._other, self._rtol = other, rtol
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        now = _variables(self.model)
        if self._other is None:
            self.seen.append(now)
        elif self.first is None and self._other:
            for (name, mine), (_, other) in zip(now, self._other.pop(0)):
                if not _same(mine, other, self._rtol):
                    self.first = self._epoch, batch, name, _largest(mine, other)
                    break


@dataclasses.dataclass
class _State:
    """The result of a run."""

    variables: list
    history: dict

    @classmethod
    def of(cls, model: keras.Model, history: keras.callbacks.History) -> _State:
        # Without the number that Keras adds to the name of a second metric "auc" in one process.
        short = {re.sub(r"_\d+$", "", name): values for name, values in history.history.items()}
        logs = short if len(short) == len(history.history) else history.history
        return cls(_variables(model), {**logs, "epochs": history.epoch})

    def difference(self, other: _State, rtol: float) -> str | None:
        """The first thing that differs, in words."""
        if len(self.variables) != len(other.variables):
            return (
                f"there are {len(self.variables)} variables under fit() and {len(other.variables)} under custom_fit()"
            )
        for (name, theirs), (_, ours) in zip(self.variables, other.variables):
            if not _same(ours, theirs, rtol):
                return f"{name} differs by up to {_largest(ours, theirs):.3g}"
        if self.history.keys() != other.history.keys():
            return f"History has {sorted(other.history)}, not {sorted(self.history)}"
        for name, theirs in self.history.items():
            if not _same(other.history[name], theirs, rtol):
                return f"History has {name!r} as {other.history[name]}, not {theirs}"
        return None


def _variables(model: keras.Model) -> list[tuple[str, np.ndarray]]:
    """The model's and its optimizer's variables by name, on the host."""
    variables = [*compat.variables_in(model.weights), *compat.optimizer_variables(model.optimizer)]
    return [(getattr(variable, "path", variable.name), np.asarray(variable)) for variable in variables]


def _same(ours: Any, theirs: Any, rtol: float) -> bool:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return False
    if rtol and np.issubdtype(ours.dtype, np.floating):
        return np.allclose(ours, theirs, rtol=rtol, atol=rtol, equal_nan=True)
    return np.array_equal(ours, theirs, equal_nan=np.issubdtype(ours.dtype, np.floating))


def _largest(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.max(np.abs(ours.astype("float64") - theirs.astype("float64")), initial=0.0))


def _as_arguments(data: Any) -> dict:
    data = data() if callable(data) and not isinstance(data, tf.data.Dataset) else data
    if isinstance(data, dict) and "x" in data:
        return data
    return dict(zip(("x", "y", "sample_weight"), data)) if isinstance(data, tuple) else {"x": data}
