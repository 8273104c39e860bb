"""`Job`: starts workers, ends all of them when one fails, and starts them again."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Callable, Union

from customfit.launch.cluster import Cluster
from customfit.launch.worker import Worker

POLL_SECONDS = 0.2  # between two looks at the ports of workers that start
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Event = Union[Worker, signal.Signals]  # a worker that has ended, or a signal that this process has received


class Job:
    """The processes of a job on this machine.

    Args:
        command: What each worker runs.
        make_cluster: Returns the cluster of an attempt: each has ports that are free when it starts.
        log_dir: Where `attempt-0/worker-0.log` and so on are written.
        restarts: How often all workers are started again after one has failed.
        grace_seconds: How long workers have to end by themselves before they are killed.
        start_seconds: How long a worker may take to open its port before it is killed. Defaults to no limit.
    """

    def __init__(
        self,
        command: Sequence[str],
        make_cluster: Callable[[], Cluster],
        log_dir: Path,
        restarts: int = 0,
        grace_seconds: float = 30.0,
        start_seconds: float | None = None,
    ):
        self._command = command
        self._make_cluster = make_cluster
        self._log_dir = log_dir
        self._restarts = restarts
        self._grace_seconds = grace_seconds
        self._start_seconds = start_seconds
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()  # a signal handler may put into it
        self._received: signal.Signals | None = None

    def run(self) -> int:
        """Runs the job to its end.

        Returns:
            0 if all workers ended with 0. Else the exit code of the first that failed in the last attempt, or 128 and
            the number of the signal that ended the job.
        """
        with self._recorded_signals():
            for attempt in range(self._restarts + 1):
                code = self._run_once(attempt)
                if code == 0 or self._received is not None:
                    break
                if attempt < self._restarts:
                    _say(f"Starting all workers again: restart {attempt + 1} of {self._restarts}.")
        return code if self._received is None else 128 + self._received

    def _run_once(self, attempt: int) -> int:
        """Runs all workers to their end. Returns the exit code of the first that fails, or 0."""
        folder = self._log_dir / f"attempt-{attempt}"
        folder.mkdir(parents=True, exist_ok=True)
        running: set[Worker] = set()
        code, deadline = 0, None
        cluster, is_over = self._make_cluster(), threading.Event()
        try:
            self._start_all(cluster, folder, running)
            threading.Thread(target=self._kill_late_ones, args=(cluster, list(running), is_over), daemon=True).start()
            while running:
                event = self._next_event(deadline)
                if isinstance(event, Worker):
                    running.discard(event)
                    if event.exit_code and not code and self._received is None:
                        code = event.exit_code
                        _say(f"Worker {event.index} {event.outcome}; ending the others. Its output is in {event.log}.")
                        deadline = self._end_all(running, signal.SIGTERM)
                elif event is None or self._received is not None:  # out of time, or out of the user's patience
                    deadline = self._end_all(running, signal.SIGKILL)
                else:
                    self._received = event
                    _say(f"Received {event.name}; ending all workers.")
                    deadline = self._end_all(running, signal.SIGINT if event == signal.SIGINT else signal.SIGTERM)
        finally:
            is_over.set()
            self._end_all(running, signal.SIGKILL)  # of an error of ours: there are none otherwise
        return code

    def _start_all(self, cluster: Cluster, folder: Path, running: set[Worker]) -> None:
        for index in cluster.local:
            environment = {"PYTHONUNBUFFERED": "1", **os.environ, "TF_CONFIG": cluster.tf_config(index)}
            log = folder / f"worker-{index}.log"
            running.add(Worker(index, self._command, environment, log, self._events.put))

    def _kill_late_ones(self, cluster: Cluster, late: Sequence[Worker], is_over: threading.Event) -> None:
        """Kills workers that do not open their ports in time. The others would wait for them for an hour."""
        if self._start_seconds is None:
            return
        deadline = time.monotonic() + self._start_seconds
        while late and not is_over.wait(POLL_SECONDS):
            late = [worker for worker in late if not worker.has_ended and not cluster.is_listening(worker.index)]
            if time.monotonic() > deadline:
                for worker in late:
                    _say(f"Worker {worker.index} has not opened its port within {self._start_seconds:g} seconds.")
                    worker.send_signal(signal.SIGKILL)
                return

    def _next_event(self, deadline: float | None) -> _Event | None:
        """Waits for an event; `None` if there is none until the deadline."""
        try:
            return self._events.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def _end_all(self, running: set[Worker], number: signal.Signals) -> float:
        """Sends a signal to workers. Returns when to kill those that are still there then."""
        for worker in running:
            worker.send_signal(number)
        return time.monotonic() + self._grace_seconds

    @contextlib.contextmanager
    def _recorded_signals(self) -> Iterator[None]:
        """Makes events of the signals that ask to end, while the job runs."""

        def record(number: int, frame: FrameType | None) -> None:
            del frame
            self._events.put(signal.Signals(number))

        asked = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # as under `nohup`
        before = {number: signal.signal(number, record) for number in asked}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        print(f"customfit.launch: {line}", file=sys.stderr, flush=True)
