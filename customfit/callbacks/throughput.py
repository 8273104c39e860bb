"""How fast training is, and where its time goes."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Callable

from customfit.compat import keras, tf
from customfit.data import Block, Fetch, count_batch_rows


class Throughput(keras.callbacks.Callback):
    """Measures samples and steps a second, and prints at the end where the time went and what the bottleneck is.

    Waiting for data is measured inside the graph, around each read. On a GPU it is the host that waits, while the
    device may still be at work on what it has. Under `fit()` reading a batch cannot be told from its step: only steps a
    second are known there.

    Args:
        print_fn: What to print the line with. Defaults to `print`.
        clock: Seconds, rising. Defaults to `time.perf_counter`.

    Attributes:
        results: After training: `seconds`, `steps_per_second`, `samples_per_second`, and the shares of the time that
            went into `step`, `data`, `callbacks` and `validation`. What is not known is `None`.

    Example:

    >>> throughput = customfit.callbacks.Throughput()
    >>> history = model.custom_fit(dataset, epochs=3, callbacks=[throughput])
    Throughput: 51,200 samples/s, 1,600 steps/s. 71% step, 23% waiting for data, 2% callbacks, 4% validation. The
    bottleneck is the step.
    """

    def __init__(self, print_fn: Callable[[str], Any] = print, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self.results: dict = {}
        self._print = print_fn
        self._clock = clock
        self._meter: Any = None  # made by the first block of `custom_fit`
        self._steps = 0
        self._begin = self._stepping = self._validating = self._waiting = 0.0
        self._block_begin = self._test_begin = 0.0
        self._free: float | None = None  # since when nothing but the next batch has been waited for

    def on_train_begin(self, logs=None):
        self._meter = self._free = None
        self._steps = 0
        self._begin = self._clock()
        self._stepping = self._validating = self._waiting = 0.0

    # -------------------------------------------------------------------------------- what `custom_fit` tells it

    def before_block(self, block: Block) -> None:
        """Before a block of steps, which is metered from here on."""
        self._block_begin = self._clock()
        if self._free is not None:  # the last block's callbacks are over: it was the data that took so long
            self._waiting += self._block_begin - self._free
        self._meter = self._meter or _Meter()
        block.fetch = MeteredFetch(block.fetch, self._meter)

    def after_block(self, block: Block) -> None:
        """After a block of steps, before its callbacks."""
        self._stepping += self._clock() - self._block_begin
        self._steps += block.done

    def after_callbacks(self) -> None:
        """After a block's callbacks."""
        self._free = self._clock()

    # -------------------------------------------------------------------------------------- what any loop tells it

    def on_epoch_begin(self, epoch, logs=None):
        self._free = None

    def on_train_batch_begin(self, batch, logs=None):
        if self._meter is None:
            self._block_begin = self._clock()

    def on_train_batch_end(self, batch, logs=None):
        if self._meter is None:
            self._stepping += self._clock() - self._block_begin
            self._steps += int(getattr(self.model, "steps_per_execution", None) or 1)

    def on_test_begin(self, logs=None):
        self._test_begin = self._clock()

    def on_test_end(self, logs=None):
        self._validating += self._clock() - self._test_begin

    def on_train_end(self, logs=None):
        seconds = max(self._clock() - self._begin, 1e-9)
        metered = self._meter is not None
        read = float(self._meter.seconds) if metered else 0.0
        shares = {
            "step": (self._stepping - read) / seconds,
            "data": (self._waiting + read) / seconds if metered else None,
            "validation": self._validating / seconds,
        }
        shares["callbacks"] = 1.0 - sum(share for share in shares.values() if share is not None)
        training = max(self._stepping + self._waiting, 1e-9)
        self.results = {
            "seconds": seconds,
            "steps_per_second": self._steps / training,
            "samples_per_second": int(self._meter.rows) / training if metered else None,
            **shares,
        }
        self._print(_line(self.results))


def _line(results: dict) -> str:
    known = results["data"] is not None
    samples = f"{results['samples_per_second']:,.0f} samples/s, " if known else ""
    data = f", {results['data']:.0%} waiting for data" if known else ""
    line = (
        f"Throughput: {samples}{results['steps_per_second']:,.0f} steps/s. {results['step']:.0%} step{data}, "
        f"{results['callbacks']:.0%} callbacks, {results['validation']:.0%} validation."
    )
    if not known:
        return line
    bottleneck = "input pipeline" if results["data"] > results["step"] else "step"
    return f"{line} The bottleneck is the {bottleneck}."


class _Meter:
    """What has been read so far, counted in the graph."""

    def __init__(self):
        with tf.device("cpu:0"):
            self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self.rows = tf.Variable(0, dtype=tf.int64, trainable=False)


@dataclasses.dataclass(frozen=True)
class MeteredFetch(Fetch):
    """A fetch that counts the rows it gives and the seconds that this takes."""

    fetch: Fetch
    meter: _Meter

    def __call__(self, feed: Any, index: Any) -> Any:
        """The batch of this index."""
        return self._timed(lambda: self.fetch(feed, index), count_batch_rows)

    def get_next_as_optional(self, feed: Any) -> Any:
        """The next batch, if there is one."""

        def rows(optional):
            return tf.cond(
                optional.has_value(), lambda: count_batch_rows(optional.get_value()), lambda: tf.constant(0, tf.int64)
            )

        return self._timed(lambda: self.fetch.get_next_as_optional(feed), rows)

    def stack(self, feed: Any, index: Any, count: Any, head: Any) -> tuple[list, Any]:
        """Batches one behind the other."""

        def rows(stacked):
            counted = 0 if head is None else count_batch_rows(head.get_value())  # when it was looked for
            return tf.reduce_sum(tf.cast(stacked[1][:, 0], tf.int64)) - counted

        return self._timed(lambda: self.fetch.stack(feed, index, count, head), rows)

    def element_spec(self, feed: Any) -> Any:
        """The spec of a batch."""
        return self.fetch.element_spec(feed)

    def _timed(self, read: Callable[[], Any], rows: Callable[[Any], tf.Tensor]) -> Any:
        begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            data = read()
        with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
            self.meter.seconds.assign_add(tf.timestamp() - begin)
        self.meter.rows.assign_add(rows(data))
        return data
