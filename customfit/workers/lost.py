"""What is raised on a worker when another one has ended, or does not answer."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Callable, TypeVar

from customfit.compat import tf
from customfit.workers.workers import Workers

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")
# What TensorFlow raises when a process it talks to is gone. Reading a file may raise the same, in other words.
_ERRORS = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
_TIMED_OUT = "Collective has timed out"
_WORDS = (_TIMED_OUT, "Collective ops is aborted", "CoordinationService", "remote target /job:")
_TASK = re.compile(r"/job:(chief|worker)/(?:replica:\d+/)?task:(\d+)")


class WorkerLostError(RuntimeError):
    """Another worker of the job has ended, or does not answer. All must be started again."""

    @classmethod
    def of(cls, error: BaseException, workers: Workers) -> WorkerLostError | None:
        """Returns what to raise in place of an error, or `None` where it does not say that a worker is gone.

        Args:
            error: The error, which may have been caused by one of TensorFlow's.
            workers: All workers.
        """
        found: BaseException | None = error
        while found is not None and not isinstance(found, _ERRORS):
            found = found.__cause__
        if workers.count == 1 or found is None or not any(words in found.message for words in _WORDS):
            return None
        return cls(
            f"All {workers.count} workers must run until training ends. Received: on worker {workers.index}, "
            f"{_in_words(found, workers)}. See the output of the others for why. Start all workers again: with "
            "`checkpoint=` they resume, and `python -m customfit.launch --restarts` starts them by itself"
        )


def names_lost_workers(function: Callable[P, T]) -> Callable[P, T]:
    """Has a method of a model raise a `WorkerLostError` where another worker is gone.

    Args:
        function: The method.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            lost = WorkerLostError.of(error, Workers.of(args[0].distribute_strategy))  # type: ignore[attr-defined]
            if lost is None:
                raise
            raise lost from error

    return call


def _in_words(error: tf.errors.OpError, workers: Workers) -> str:
    if _TIMED_OUT in error.message:
        return (
            "an exchange with the others that took longer than the strategy's `CommunicationOptions(timeout_seconds=)` "
            "allows: one of them hangs, or needs more time"
        )
    tasks = {workers.index_of(job, int(task)) for job, task in _TASK.findall(error.message)}
    if "CoordinationService/Heartbeat" in error.message:
        tasks = {0}  # which all send their heartbeats to
    tasks -= {workers.index}
    if not tasks:
        return "no heartbeat in time, from this worker or another one"
    names = " and ".join(map(str, sorted(tasks)))
    return f"no sign of life from worker{'s' * (len(tasks) > 1)} {names}, which {_verbs(len(tasks))}"


def _verbs(count: int) -> str:
    return "has ended or hangs" if count == 1 else "have ended or hang"
