"""`StepRecorder`: the values of every step, written in its graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from customfit.compat import tf
from customfit.data import count_batch_rows
from customfit.execution import replicas


class StepRecorder:
    """Writes the logs of each step, the batch's own loss and the learning rates into a buffer on the device.

    Nobody waits for it: the buffer is read when it is full, or when an epoch ends.

    On several replicas a row is that of the whole step: logs are reduced as `fit` reduces them, and the batch's own
    loss is the mean over the rows of all replicas.

    Args:
        every: Of how many steps the last is recorded.
        rows: How many rows the buffer has.

    Attributes:
        names: The columns, once a step has been traced.
        variables: All state.
    """

    def __init__(self, every: int, rows: int):
        self.every = every
        self.rows = rows
        self.names: list[str] = []
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="recorded_steps")
        # The sum of the losses of the rows, and how many rows there are; of each replica its own.
        self._loss = replicas.variable(tf.zeros([2], tf.float64), "batch_loss", summed=True)
        self._buffer: tf.Variable | None = None
        self._has_loss = False
        self._state = threading.local()  # replicas are traced in threads

    @property
    def variables(self) -> list[tf.Variable]:
        """All state. None of it is saved or undone with that of the model."""
        return [self._step, self._loss, *([] if self._buffer is None else [self._buffer])]

    @contextlib.contextmanager
    def recording(self) -> Iterator[bool]:
        """A context for a step. It is given whether the step is the whole one, and not one that another has called."""
        whole = not self._records
        self._state.records = True
        try:
            yield whole
        finally:
            self._state.records = not whole

    @property
    def _records(self) -> bool:
        return getattr(self._state, "records", False)

    def add_loss(self, loss: tf.Tensor, x: Any) -> None:
        """Notes the loss of the batch.

        Args:
            loss: The loss, a scalar.
            x: The inputs of the batch: on several replicas, the losses are weighted by their rows.
        """
        if not self._records:  # in a step of validation
            return
        self._has_loss = True
        loss, count = tf.cast(loss, tf.float64), replicas.replica_count()
        if count == 1:
            self._loss.assign(tf.stack([loss, 1.0]))
            return
        rows = tf.cast(count_batch_rows(x), tf.float64)
        total = tf.where(rows > 0, loss * count * rows, 0.0)  # the loss is divided by the number of replicas
        self._loss.assign(tf.stack([total, rows]))

    def write(
        self,
        logs: Mapping[str, Any],
        rates: Mapping[str, tf.Tensor],
        results: Callable[[], Mapping[str, Any]] | None,
    ) -> None:
        """Writes a row.

        Args:
            logs: The logs of the step.
            rates: The learning rates of the step, by name.
            results: Returns the logs over all replicas, if they are results of metrics and nothing else.
        """
        numbers = {name: log for name, log in logs.items() if _is_number(log)}

        def write(logs: Mapping[str, Any], rates: Mapping[str, Any]) -> None:
            strategy = tf.distribute.get_strategy()
            if results is not None and replicas.replica_count() > 1:
                logs = {name: log for name, log in results().items() if _is_number(log)}
            rates = {name: strategy.experimental_local_results(rate)[0] for name, rate in rates.items()}
            self._write({name: replicas.reduced(strategy, log) for name, log in logs.items()}, rates)

        replicas.outside(write, numbers, dict(rates))

    def _write(self, logs: Mapping[str, tf.Tensor], rates: Mapping[str, tf.Tensor]) -> None:
        total, rows = tf.unstack(self._loss.read_value())
        values = {"batch_loss": total / rows} if self._has_loss else {}
        values.update(logs)
        values.update({name: rate for name, rate in rates.items() if name not in values})
        buffer = self._build(list(values))
        nan = tf.constant(float("nan"), tf.float64)
        row = tf.stack([tf.cast(values[name], tf.float64) if name in values else nan for name in self.names])
        place = self._step // self.every % self.rows  # the last of `every` steps stays
        buffer.scatter_nd_update([[place]], [row])
        self._step.assign_add(1)

    def _build(self, names: list[str]) -> tf.Variable:
        new = [name for name in names if name not in self.names]
        if self._buffer is None:
            self.names = names
            # A function that is being traced refuses new variables, or is traced twice, but only of its own thread.
            thread = threading.Thread(target=self._create)
            thread.start()
            thread.join()
        elif new:
            raise ValueError(
                "Every trace of `train_step` must return the same logs, where a `StepHistory` records them. Received: "
                f"{', '.join(map(repr, new))} beside {', '.join(map(repr, self.names))}"
            )
        assert self._buffer is not None
        return self._buffer

    def _create(self) -> None:
        zeros = tf.zeros([self.rows, len(self.names)], tf.float64)
        self._buffer = tf.Variable(zeros, trainable=False, name="recorded_values")

    def seek(self, step: int) -> None:
        """Goes on counting from a step.

        Args:
            step: How many steps came before.
        """
        self._step.assign(step)

    def read(self) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns how many steps were counted, and a copy of the buffer, as tensors: nothing waits for the device."""
        return tf.identity(self._step), None if self._buffer is None else tf.identity(self._buffer)


def _is_number(log: Any) -> bool:
    if not tf.is_tensor(log):
        return isinstance(log, (int, float))
    return isinstance(log, tf.Tensor) and log.shape.rank == 0 and (log.dtype.is_floating or log.dtype.is_integer)
