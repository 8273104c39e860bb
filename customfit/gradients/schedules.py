"""Learning rates and momentum that are set in the graph of each step, so that steps may run in blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable

from customfit.compat import keras, tf
from customfit.execution import replicas
from customfit.gradients.optimizers import has_schedule, number
from customfit.gradients.rates import rates_of

Curve = Callable[[tf.Tensor], tf.Tensor]  # from the share of the updates that are done, 0 to 1
MOMENTUM = ("beta_1", "momentum")  # as optimizers of Keras name it


class StepSchedule:
    """Sets the learning rate, and the momentum if asked, before each step, by how many updates there were.

    Args:
        rate: The learning rate, that of the first group where there are several. The others keep their proportion.
        momentum: The momentum, or `beta_1` of optimizers such as Adam. Defaults to leaving it. An optimizer without
            momentum stays without.
        optimizer: The optimizer.

    Attributes:
        variables: The state. The optimizer counts the updates.

    Raises:
        ValueError: If an optimizer has a schedule of its own, or the first one's rate is 0.
    """

    def __init__(self, rate: Curve, momentum: Curve | None, optimizer: keras.optimizers.Optimizer):
        self._rate = rate
        self._momentum = momentum
        self._optimizers = list(rates_of(optimizer).values())
        own = [each for each in self._optimizers if has_schedule(each)]
        if own or not self._optimizers:
            raise ValueError(
                "The optimizer must have a learning rate that is a number: it is set before each step. Compile the "
                f"model with one. Received: {type(own[0] if own else optimizer).__name__} with a schedule"
            )
        rates = [number(each.learning_rate) for each in self._optimizers]
        if rates[0] <= 0:
            raise ValueError(f"The first learning rate must be positive. Received: learning_rate={rates[0]}")
        self._proportions = [rate / rates[0] for rate in rates]
        self._counter = getattr(optimizer, "inner_optimizer", optimizer)
        self._first = tf.Variable(0, dtype=tf.int64, trainable=False, name="first_update")
        self._updates = tf.Variable(1, dtype=tf.int64, trainable=False, name="updates")
        self.variables = [self._first, self._updates]
        self._tracing = 0  # how many replicas are in a step
        self._kept: dict[int, tuple[keras.optimizers.Optimizer, str, float]] = {}  # momentum to restore

    def start(self, first: int, updates: int) -> None:
        """Sets where the curves begin and end.

        Args:
            first: How many updates the optimizer has made when they begin.
            updates: After how many more they end. They stay at their end from then on.
        """
        self._first.assign(first)
        self._updates.assign(updates)

    @property
    def updates_done(self) -> int:
        """How many updates the optimizer has made."""
        return int(self._counter.iterations.numpy())

    @contextlib.contextmanager
    def during_step(self) -> Iterator[None]:
        """A context for a step."""
        replicas.outside(self._set_rates)
        if self._momentum is None:
            yield
            return
        self._tracing += 1  # replicas are traced in threads, one within the other
        try:
            self._set_momenta(_Number(self._momentum(self._share())))
            yield
        finally:
            self._tracing -= 1
            if not self._tracing:
                self._restore_momenta()

    def _share(self) -> tf.Tensor:
        """Returns the share of the updates that are done."""
        done = tf.cast(self._counter.iterations, tf.int64) - self._first
        last = tf.maximum(self._updates - 1, 1)
        return tf.clip_by_value(tf.cast(done, tf.float32) / tf.cast(last, tf.float32), 0.0, 1.0)

    def _set_rates(self) -> None:
        rate = self._rate(self._share())
        for optimizer, proportion in zip(self._optimizers, self._proportions):
            optimizer.learning_rate.assign(rate * proportion)

    def _set_momenta(self, momentum: _Number) -> None:
        """Sets the momentum while a step is traced, and only then: `get_config` of an optimizer must find a number."""
        for optimizer in self._optimizers:
            name = next((name for name in MOMENTUM if getattr(optimizer, name, None)), None)
            if name is not None:
                self._kept.setdefault(id(optimizer), (optimizer, name, getattr(optimizer, name)))
                setattr(optimizer, name, momentum)

    def _restore_momenta(self) -> None:
        for optimizer, name, momentum in self._kept.values():
            setattr(optimizer, name, momentum)
        self._kept.clear()


class _Number:
    """A tensor where an optimizer expects a Python number: that which is compared with is not zero.

    Args:
        tensor: A scalar of the step's graph.
    """

    def __init__(self, tensor: tf.Tensor):
        self.tensor = tensor

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __sub__(self, other: Any) -> tf.Tensor:
        return self.tensor - other

    def __rsub__(self, other: Any) -> tf.Tensor:
        return other - self.tensor

    def __mul__(self, other: Any) -> tf.Tensor:
        return self.tensor * other

    __rmul__ = __mul__

    def __add__(self, other: Any) -> tf.Tensor:
        return self.tensor + other

    __radd__ = __add__


tf.register_tensor_conversion_function(
    _Number, lambda value, dtype=None, name=None, as_ref=False: tf.cast(value.tensor, dtype or value.tensor.dtype)
)
