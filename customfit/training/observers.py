"""Observers: tools that watch every session of the process, as `check_resume` does."""

from __future__ import annotations

from typing import Literal, Protocol

Moment = Literal["step", "writing", "pruning", "validating"]


class SessionObserver(Protocol):
    """Sees the moments of every session, once it is in `session_observers`."""

    def steps_until_due(self, total_steps: int) -> float:
        """How many steps from here until a block must end for the observer; infinity if none must."""

    def on_moment(self, moment: Moment, total_steps: int) -> None:
        """After a block of steps, while a checkpoint is written or pruned, between blocks of validation steps."""


session_observers: list[SessionObserver] = []
