"""`custom_predict`, and `predict`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from customfit import compat
from customfit.models.opening import check_workers, predict_explicitly
from customfit.models.overrides import call_through, handle_redirected, override_of
from customfit.tracebacks import filtered_traceback
from customfit.training import Callbacks
from customfit.workers import names_lost_workers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from customfit.models.fitting import WorkerOptions


class Predicting(compat.KerasModel):
    """The ways to predict: Keras's, and the explicit one."""

    _compiled_prediction: Any

    @filtered_traceback
    @names_lost_workers
    def custom_predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Literal["auto", 0, 1, 2] = "auto",
        steps: int | None = None,
        callbacks: Callbacks = None,
        **workers: Unpack[WorkerOptions],
    ) -> Any:
        """Returns the outputs of the model for inputs, as `predict` does, in blocks of steps as in `custom_fit`.

        They are written into one array as they come. Rows that are one batch, with `verbose=0`, take no longer than a
        call of `tf.function(model)`, and are traced once for any number of them. The model need not be compiled.

        Args:
            x: Inputs, or batches, or a `Source`: as in `custom_fit`. Targets and weights in batches are ignored.
            batch_size: Rows in a batch. Defaults to 32.
            verbose: `0` silent, `1` a progress bar, `2` a line, `"auto"` as in `predict`.
            steps: Batches to predict. Defaults to all.
            callbacks: Keras callbacks, or a `CallbackList`.
            **workers: As in `custom_fit`.

        Returns:
            What `predict` returns: a NumPy array, or nested tuples, lists and dicts of them; ragged and sparse tensors
            where the model has such outputs.

        Raises:
            TypeError: If there is no argument of a name.
            ValueError: If an argument is wrong, or there is no data.

        Example:

        >>> probabilities = model.custom_predict(x_test)
        """
        arguments = dict(x=x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks)
        if workers:
            arguments.update(check_workers("custom_predict", workers, arguments))
        override = override_of(self, "predict", Predicting)
        if override is None:
            return predict_explicitly(self, **arguments)
        defaults = {name: parameter.default for name, parameter in _parameters().items()}
        return call_through(
            self, "predict", override, arguments, lambda arrived: predict_explicitly(self, **{**defaults, **arrived})
        )

    @filtered_traceback
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs of the model for inputs, as `keras.Model.predict` does."""
        redirected, result = handle_redirected(self, "predict", args, kwargs)
        return result if redirected else super().predict(*args, **kwargs)

    def make_predict_function(self, force: bool = False) -> Callable[..., Any]:
        """Makes Keras's `predict_function`. With `force=True` the step of `custom_predict` is compiled again, too."""
        if force:
            self._compiled_prediction = None
        return super().make_predict_function(force)


def _parameters() -> dict[str, inspect.Parameter]:
    """The arguments of `custom_predict` that have a default."""
    parameters = inspect.signature(Predicting.custom_predict).parameters
    return {
        name: parameter for name, parameter in parameters.items() if parameter.default is not inspect.Parameter.empty
    }
