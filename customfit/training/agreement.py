"""`Agreement`: what all workers know alike between two blocks of steps."""

from __future__ import annotations

import signal
from collections.abc import Callable

from customfit.compat import tf
from customfit.training.signals import SignalHandlers
from customfit.workers import Workers


class Agreement:
    """The time, and whether a signal has arrived, as all workers know them.

    Whatever a run decides by the clock or a signal, all workers must decide at the same step: the first to end would
    leave the others waiting. So the time is the chief's, and a signal on one worker is a signal on all. Both stand
    still until `update`. Of a process that trains alone, the clock is its clock.

    Args:
        workers: All workers.
        signals: Which signals have arrived at this one.
        clock: A clock in seconds that never goes back; only differences count.

    Attributes:
        signals: As given.
        is_chief: Whether this worker draws progress and writes files for all.
    """

    def __init__(self, workers: Workers, signals: SignalHandlers, clock: Callable[[], float]):
        self._workers = workers
        self.is_chief = workers.is_chief
        self.signals = signals
        self._clock = clock
        self._begun = clock()
        self._now = 0.0

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy, on_sigterm: str, clock: Callable[[], float]) -> Agreement:
        """Returns that of the workers of a strategy.

        Args:
            strategy: The strategy.
            on_sigterm: Of `SignalHandlers`.
            clock: A clock in seconds.
        """
        workers = Workers.of(strategy)
        return cls(workers, SignalHandlers(on_sigterm, together=workers.count > 1), clock)

    def now(self) -> float:
        """Returns the time in seconds. Only differences count."""
        return self._clock() if self._workers.count == 1 else self._now

    def update(self) -> None:
        """Brings the time and the signals of all workers together. All must call it at the same place."""
        if self._workers.count == 1:
            return
        microseconds = int(1e6 * (self._clock() - self._begun)) if self._workers.is_chief else 0
        arrived = self.signals.arrived
        signals = [int(arrived == signal.SIGINT), int(arrived == signal.SIGTERM)]
        microseconds, interrupted, terminated = self._workers.sum([microseconds, *signals])
        self._now = microseconds / 1e6
        if interrupted or terminated:
            self.signals.pending = signal.SIGINT if interrupted else signal.SIGTERM
