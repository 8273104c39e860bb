"""`Stop`: whether and why a training run ends."""

from __future__ import annotations

from typing import Any

from customfit.compat import keras


class Stop:
    """Whether and why a run ends: the one place that limits, signals, the non-finite guard and callbacks report to.

    A stop is final, or it is a limit, which leaves the current epoch open: a later call with another limit continues in
    it. `model.stop_training` stands for the final ones, as in `fit`: a callback, early stopping among them, or the
    owner of the loop sets it.

    Args:
        model: The model.
        early_stopping: The callback that may say why it stops, or `None`.
    """

    def __init__(self, model: keras.Model, early_stopping: keras.callbacks.Callback | None):
        self._model = model
        self._early_stopping = early_stopping
        self._reason: str | None = None
        self._limit: str | None = None
        self._terminated = False

    def begin(self) -> None:
        """Starts a run, which nothing has asked to stop yet."""
        self._reason, self._limit, self._terminated = None, None, False

    def request(self, reason: str | None) -> None:
        """Asks to stop for good.

        Args:
            reason: Why, in words; `None`: there is no reason to stop.
        """
        if reason is not None:
            self._reason = reason
            self._model.stop_training = True

    def reach_limit(self, limit: str | None) -> None:
        """Records that a limit is reached; `None`: none is.

        Args:
            limit: Which one, in words.
        """
        self._limit = self._limit or limit

    def terminate(self) -> None:
        """Records that SIGTERM has ended the run."""
        self._terminated = True

    @property
    def is_terminated(self) -> bool:
        """Whether SIGTERM has ended the run."""
        return self._terminated

    @property
    def at_limit(self) -> bool:
        """Whether a limit is reached."""
        return self._limit is not None

    @property
    def is_final(self) -> bool:
        """Whether the run is over, once the current epoch has ended."""
        return bool(self._model.stop_training)

    @property
    def is_requested(self) -> bool:
        """Whether training is to stop, for good or at a limit."""
        return self.at_limit or self.is_final

    @property
    def reason(self) -> str | None:
        """Why training stopped, in words. `None` if nothing asked to, or nothing said why."""
        if self._terminated:
            return "SIGTERM"
        return getattr(self._early_stopping, "stop_reason", None) or self._limit or self._reason

    def get_state(self) -> dict[str, Any]:
        """What a checkpoint saves."""
        return {"final": self.is_final, "reason": self.reason}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned. A limit is this call's own: an earlier one does not count."""
        self._model.stop_training = state["final"]
        self._reason = state["reason"] if state["final"] else None
