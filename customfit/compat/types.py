"""How type checkers see Keras, of which they cannot find out at check time which one it is.

To a checker, `keras` is the package of this name. Where the program uses `tf.keras` or `tf_keras`, its classes are
others. So what a user passes is described by what it can do (`CallbackLike`), and what a user gets is a class that is
also `Any`: it fits wherever a model or a `History` of any Keras is expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from customfit.compat.versions import keras


class CallbackLike(Protocol):
    """A Keras callback, or a `CallbackList`."""

    def set_model(self, model: Any, /) -> None:
        """Tells the callback its model."""

    def on_epoch_end(self, epoch: Any, logs: Any = None, /) -> None:
        """Hears of the end of an epoch, as of all else: by the hooks of `keras.callbacks.Callback`."""


if TYPE_CHECKING:

    class KerasModel(keras.Model, Any):
        """What a class may assume of itself that is mixed into a Keras model."""

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            """The loss of a batch. Its arguments differ between generations."""

        def compile_from_config(self, config: dict[str, Any]) -> Any:
            """Compiles the model. What it returns differs between generations."""

    class History(keras.callbacks.History, Any):
        """Keras's `History`, and what a training session adds to it.

        Attributes:
            history: The values of each metric, one an epoch, by name.
            epoch: The epochs, counted from 0.
            stop_reason: Why early stopping, a limit or SIGTERM ended training, or `None`.
            validation: The logs of each validation within an epoch, with its step.
        """

        history: dict[str, list[float]]
        epoch: list[int]
        stop_reason: str | None
        validation: list[dict[str, Any]]

else:
    KerasModel = object
    History = keras.callbacks.History
