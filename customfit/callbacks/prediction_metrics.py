"""Metrics that need all predictions of a validation pass at once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf


class PredictionMetrics(keras.callbacks.Callback):
    """Computes metrics from all predictions of a validation pass: F1, AUC per class, a confusion matrix.

    A Keras metric sees one batch after the other. This one sees the whole set, once, from the pass that runs anyway.
    Any function of `(y_true, y_pred)` will do, scikit-learn's included. Numbers are in the logs, as `val_<name>`: in
    History, for early stopping and other callbacks. Under `custom_fit()` that holds for several named sets and for
    `validation_freq=Every(steps=...)` too, and `custom_evaluate(callbacks=[...], return_dict=True)` returns them.

    The predictions of a pass are held in memory until it ends. With `transform` only what it returns is held.

    A `test_step` of your own must call `self.collect_predictions(y, y_pred, sample_weight)`.

    Args:
        functions: Functions by name. Each is called with NumPy arrays: `function(y_true, y_pred)`, and with
            `sample_weight=` if there are weights and it takes them. It returns a number; or several, as a dict or a
            list, which are called `<name>_<key>`; or anything else, which is only in `results`.
        output: The name or index of one of several outputs. The logs are then called `val_<output>_<name>`. Defaults to
            passing all outputs, in their structure.
        transform: Returns what is collected of the tensors `(y_true, y_pred)` of a batch, such as
            `lambda y, p: (y, tf.argmax(p, -1))`. It runs in the graph.

    Attributes:
        results: What each function returned in the last pass, by name.

    Raises:
        NotImplementedError: If several processes evaluate the model, each a share of the data.
        RuntimeError: After a pass that has collected no predictions.
        TypeError: If the model is not a `CustomTrainModel`.
        ValueError: If the model is compiled by XLA, which calls no Python, or there is no such output.

    Example:

    >>> from sklearn.metrics import confusion_matrix, f1_score
    >>> metrics = customfit.callbacks.PredictionMetrics(
    ...     {"f1": lambda y, p: f1_score(y, p, average="macro"), "confusion": confusion_matrix},
    ...     transform=lambda y, p: (y, tf.argmax(p, -1)),
    ... )
    >>> model.custom_fit(x, y, validation_split=0.2, callbacks=[metrics], early_stopping=EarlyStopping("val_f1"))
    >>> axes = customfit.callbacks.plot_confusion_matrix(metrics.results["confusion"])
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        *,
        output: str | int | None = None,
        transform: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ):
        super().__init__()
        if not functions or not all(callable(function) for function in functions.values()):
            raise ValueError(f"`functions` must hold functions by name. Received: functions={functions!r}")
        self.functions = dict(functions)
        self.output = output
        self.transform = transform
        self.results: dict[str, Any] = {}
        self._logs: dict[str, float] = {}
        self._collector: Any = None
        self._was_asked = False  # whether the loop has added the logs

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if getattr(model, "gradient_pipeline", None) is None:
            raise TypeError(
                f"`PredictionMetrics` must be given to a `CustomTrainModel`. Received: a {type(model).__name__}"
            )
        if compat.jit_compile(model) and not model.jit_compile_is_auto:
            raise ValueError(
                "`PredictionMetrics` cannot collect predictions in a step that XLA compiles. Received: jit_compile=True"
            )
        self._collector = model.gradient_pipeline.observers.collect_predictions(model, self.transform)

    def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
        if self._collector not in self.model.gradient_pipeline.observers.collectors:
            self.set_model(self.model)  # `compile()` in a callback has made another pipeline
        self._logs, self._was_asked = {}, False
        self._collector.start()

    def on_test_end(self, logs: Mapping[str, float] | None = None) -> None:
        collected = self._collector.finish()
        if collected is None:
            raise RuntimeError(
                "`PredictionMetrics` has seen no predictions. A `test_step` of your own must call "
                "`self.collect_predictions(y, y_pred, sample_weight)`."
            )
        y, y_pred, sample_weight = (self._of_output(part) for part in collected)
        for name, function in self.functions.items():
            weights = {"sample_weight": sample_weight} if sample_weight is not None and _takes_weights(function) else {}
            self.results[name] = function(y, y_pred, **weights)
            logged = name if self.output is None else f"{self.output}_{name}"
            self._logs.update(_numbers(logged, self.results[name]))

    def _of_output(self, data: Any) -> Any:
        if self.output is None or not isinstance(data, (dict, list, tuple)):
            return data
        if isinstance(data, dict) and self.output in data:
            return data[self.output]
        names = [getattr(tensor, "name", "").partition("/")[0] for tensor in tf.nest.flatten(self.model.outputs)]
        names = list(getattr(self.model, "output_names", names))
        index = names.index(self.output) if self.output in names else self.output
        if isinstance(index, int) and not isinstance(data, dict) and index < len(data):
            return data[index]
        raise ValueError(f"`output` must be one of {', '.join(map(repr, names))}. Received: output={self.output!r}")

    def test_logs(self) -> dict[str, float]:
        """Returns the numbers of the pass that has just ended, for its logs. `custom_fit` asks for them."""
        self._was_asked = True
        return self._logs

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None and not self._was_asked:  # under `fit`
            logs.update({f"val_{name}": value for name, value in self._logs.items()})
            self._logs = {}


def _takes_weights(function: Callable[..., Any]) -> bool:
    try:
        return "sample_weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a function in C
        return False


def _numbers(name: str, result: Any) -> dict[str, float]:
    """Returns the numbers in a result, by the names of their logs."""
    if isinstance(result, Mapping):
        return {f"{name}_{key}": float(value) for key, value in result.items() if np.ndim(value) == 0}
    array = np.asarray(result)
    if array.dtype.kind not in "biuf" or array.ndim > 1:
        return {}
    if array.ndim == 0:
        return {name: float(array)}
    return {f"{name}_{index}": float(value) for index, value in enumerate(array)}
