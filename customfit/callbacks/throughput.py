"""How fast training is, and where its time goes."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Callable, TypedDict, TypeVar

from customfit.compat import keras, tf
from customfit.data import Batch, BatchSpec, Block, Feed, Fetch, count_batch_rows

Result = TypeVar("Result")


class ThroughputResults(TypedDict, total=False):
    """What `Throughput` has measured. What cannot be known under `fit()` is `None`."""

    seconds: float
    steps_per_second: float
    samples_per_second: float | None
    step: float
    data: float | None
    validation: float
    callbacks: float
    flops_per_second: float
    peak_share: float


class Throughput(keras.callbacks.Callback):
    """Measures samples and steps per second, and prints where the time went and what the bottleneck is.

    The time spent waiting for data is measured inside the graph, around each read. On a GPU it is the host that waits,
    while the device may still be busy with earlier steps. Under `fit()`, reading a batch cannot be told apart from its
    step, so only steps per second are known. Under `customfit.set_seed`, or TensorFlow's `enable_op_determinism`, an
    operation must not read the clock: reading a batch cannot be told apart from its step there either.

    Args:
        print_fn: Prints the line. Defaults to `print`.
        step_flops: Floating-point operations of a step, as `model.plan_fit(...).step_flops` counts them. If given, it
            also says how many operations a second there were, and which share of the machine's peak that is.
        peak_flops: The peak of the machine, in operations a second. Defaults to what a large matrix product reaches,
            which is measured when training ends, in about a second.
        clock: Returns seconds. Defaults to `time.perf_counter`.

    Attributes:
        results: After training: `seconds`, `steps_per_second`, `samples_per_second`, and the shares of the time that
            were spent on `step`, `data`, `callbacks` and `validation`. With `step_flops` also `flops_per_second`, while
            training, and `peak_share`. What is not known is `None`.

    Example:

    >>> throughput = customfit.callbacks.Throughput()
    >>> history = model.custom_fit(dataset, epochs=3, callbacks=[throughput])
    Throughput: 51,200 samples/s, 1,600 steps/s. 71% step, 23% waiting for data, 2% callbacks, 4% validation. The
    bottleneck is the step.
    """

    def __init__(
        self,
        print_fn: Callable[[str], object] = print,
        clock: Callable[[], float] = time.perf_counter,
        *,
        step_flops: int | None = None,
        peak_flops: float | None = None,
    ):
        super().__init__()
        self.step_flops = step_flops
        self.peak_flops = peak_flops
        self.results: ThroughputResults = {}
        self.print_fn = print_fn
        self._clock = clock
        self._meter: _Meter | None = None  # created by the first block of `custom_fit`
        self._steps = 0
        self._begin = self._stepping = self._validating = self._waiting = 0.0
        self._block_begin = self._test_begin = 0.0
        self._idle_since: float | None = None  # since when the loop has only waited for the next batch

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._meter = self._idle_since = None
        self._steps = 0
        self._begin = self._clock()
        self._stepping = self._validating = self._waiting = 0.0

    # --------------------------------------------------------------------------------- called by `custom_fit` only

    def before_block(self, block: Block) -> None:
        """Starts to measure a block of steps.

        Args:
            block: The block. Its `fetch` is replaced by one that measures.
        """
        self._block_begin = self._clock()
        if self._idle_since is not None:
            self._waiting += self._block_begin - self._idle_since
        self._meter = self._meter or _Meter()
        block.fetch = MeteredFetch(block.fetch, self._meter)

    def after_block(self, block: Block) -> None:
        """Counts a block of steps, before its callbacks are called.

        Args:
            block: The block, once it has been run.
        """
        self._stepping += self._clock() - self._block_begin
        self._steps += block.done

    def after_callbacks(self) -> None:
        """Notes that the callbacks of a block have been called."""
        self._idle_since = self._clock()

    # --------------------------------------------------------------------------------------- called by any loop

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._idle_since = None

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._meter is None:
            self._block_begin = self._clock()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        if self._meter is None:
            self._stepping += self._clock() - self._block_begin
            self._steps += int(getattr(self.model, "steps_per_execution", None) or 1)

    def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._test_begin = self._clock()

    def on_test_end(self, logs: Mapping[str, float] | None = None) -> None:
        self._validating += self._clock() - self._test_begin

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        seconds = max(self._clock() - self._begin, 1e-9)
        meter = self._meter
        reading = 0.0 if meter is None or meter.seconds is None else float(meter.seconds)
        step = (self._stepping - reading) / seconds
        data = None if meter is None or meter.seconds is None else (self._waiting + reading) / seconds
        validation = self._validating / seconds
        training = max(self._stepping + self._waiting, 1e-9)
        self.results = {
            "seconds": seconds,
            "steps_per_second": self._steps / training,
            "samples_per_second": None if meter is None else int(meter.rows) / training,
            "step": step,
            "data": data,
            "validation": validation,
            "callbacks": 1.0 - step - (data or 0.0) - validation,
        }
        if self.step_flops is not None:
            rate = self.results["flops_per_second"] = self.step_flops * self._steps / training
            self.results["peak_share"] = rate / (self.peak_flops or _measured_peak())
        self.print_fn(_line(self.results))


def _measured_peak() -> float:
    """Returns how many operations a second a large matrix product reaches, in the precision that Keras computes in."""
    dtype = keras.mixed_precision.global_policy().compute_dtype
    size = 4096 if tf.config.list_physical_devices("GPU") else 1024
    matrix = tf.ones([size, size], dtype)
    product = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    best = math.inf
    for _ in range(6):  # the first one traces
        begin = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best


def _line(results: ThroughputResults) -> str:
    samples, data = results["samples_per_second"], results["data"]
    rates = f"{results['steps_per_second']:,.0f} steps/s"
    if "peak_share" in results:
        rates += f", {results['flops_per_second'] / 1e9:,.3g} GFLOP/s ({results['peak_share']:.0%} of the peak)"
    shares = f"{results['callbacks']:.0%} callbacks, {results['validation']:.0%} validation"
    if samples is not None:
        rates = f"{samples:,.0f} samples/s, {rates}"
    if data is None:
        return f"Throughput: {rates}. {results['step']:.0%} step, {shares}."
    bottleneck = "input pipeline" if data > results["step"] else "step"
    return (
        f"Throughput: {rates}. {results['step']:.0%} step, {data:.0%} waiting for data, "
        f"{shares}. The bottleneck is the {bottleneck}."
    )


class _Meter:
    """Counts, in the graph, the rows that were read and the seconds that this took.

    Attributes:
        seconds: The seconds, or `None` where operations must not read the clock.
        rows: The rows.
    """

    def __init__(self) -> None:
        with tf.device("cpu:0"):
            self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False) if _can_read_the_clock() else None
            self.rows = tf.Variable(0, dtype=tf.int64, trainable=False)


def _can_read_the_clock() -> bool:
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:  # there is no public function that tells whether determinism is enabled
        return False
    return True


@dataclasses.dataclass(frozen=True)
class MeteredFetch(Fetch):
    """A fetch that counts the rows it returns and the seconds that this takes.

    Args:
        fetch: The fetch that reads.
        meter: What counts.
    """

    fetch: Fetch
    meter: _Meter

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the batch of this index."""
        return self._timed(lambda: self.fetch(feed, index), count_batch_rows)

    def get_next_as_optional(self, feed: Feed) -> tf.experimental.Optional:
        """Returns the next batch, if there is one."""

        def rows(optional: tf.experimental.Optional) -> tf.Tensor:
            return tf.cond(
                optional.has_value(), lambda: count_batch_rows(optional.get_value()), lambda: tf.constant(0, tf.int64)
            )

        return self._timed(lambda: self.fetch.get_next_as_optional(feed), rows)

    def stack(
        self, feed: Feed, index: tf.Tensor, count: tf.Tensor, head: tf.experimental.Optional | None
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns batches one behind the other."""

        def rows(stacked: tuple[list[tf.Tensor], tf.Tensor]) -> tf.Tensor:
            counted = 0 if head is None else count_batch_rows(head.get_value())  # when it was read
            return tf.reduce_sum(tf.cast(stacked[1][:, 0], tf.int64)) - counted

        return self._timed(lambda: self.fetch.stack(feed, index, count, head), rows)

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of a batch."""
        return self.fetch.element_spec(feed)

    def _timed(self, read: Callable[[], Result], rows: Callable[[Result], tf.Tensor]) -> Result:
        data = read() if self.meter.seconds is None else self._in_seconds(self.meter.seconds, read)
        self.meter.rows.assign_add(rows(data))
        return data

    def _in_seconds(self, seconds: tf.Variable, read: Callable[[], Result]) -> Result:
        begin = tf.timestamp()
        with tf.control_dependencies([begin]):
            data = read()
        with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
            seconds.assign_add(tf.timestamp() - begin)
        return data
