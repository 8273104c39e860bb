"""What the logs can say of gradients, measured on the way through the pipeline: no second backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from customfit import compat
from customfit.compat import tf
from customfit.execution import replicas
from customfit.gradients.clipping import Gradient, global_norm, sum_duplicates

NAMES = ("grad_norm", "clip_fraction", "update_ratio", "loss_scale", "skipped_steps")
LAYER_COLUMNS = ("updates", "norm", "update_ratio", "zero", "nonfinite")


class GradientMetrics:
    """Means over the updates of an epoch.

    - `grad_norm`: the global norm of the gradients before they are clipped.
    - `clip_fraction`: the share of updates in which the clip changed anything.
    - `update_ratio`: the norm of the change of all weights, as a share of their norm; of weights at zero it is 1.
    - `loss_scale`: not a mean: the loss scale at the last step; 1 without one.
    - `skipped_steps`: not a mean: the number of steps that changed nothing, because something was not finite.

    Args:
        names: Some of these names.

    Attributes:
        layers: Whether each variable is measured as well: `callbacks.GradientHealth` asks for it.
        of_epoch: The sums over an epoch.
        variables: These, and those by variable.
    """

    def __init__(self, names: Sequence[str]):
        self.names = tuple([names] if isinstance(names, str) else names or ())
        for name in self.names:
            if name not in NAMES:
                raise ValueError(f"`gradient_metrics` must be some of {', '.join(NAMES)}. Received: {name!r}")
        self.layers = False
        self.variables: list[tf.Variable] = []
        self.of_epoch: list[tf.Variable] = []
        self.measured: list[Any] = []  # the variables that `layer_sums` has a row for each

    def __bool__(self) -> bool:
        return bool(self.names)

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the sums."""
        if self.names and not self.of_epoch:
            self._sums = replicas.variable(tf.zeros(len(NAMES)), "gradient_metric_sums")
            self._updates = replicas.variable(0.0, "gradient_metric_updates")
            self.of_epoch = [self._sums, self._updates]
            self.variables += self.of_epoch
        if self.layers and not self.measured:
            self.measured = list(variables)
            self.layer_sums = replicas.variable(tf.zeros([len(variables), len(LAYER_COLUMNS)]), "layer_sums")
            self.variables.append(self.layer_sums)

    def reset(self) -> None:
        """Sets the sums to zero, as at the beginning of an epoch."""
        for variable in self.of_epoch:  # not those of layers, which validation at an epoch's end must not wipe out
            variable.assign(tf.zeros_like(variable))

    def reset_layers(self) -> None:
        """Sets the sums of each variable to zero."""
        if self.measured:
            self.layer_sums.assign(tf.zeros_like(self.layer_sums))

    def layer_results(self) -> tuple[list[str], dict[str, Any]] | None:
        """The names of the variables, and the mean of each of `LAYER_COLUMNS` for each; `None` without an update."""
        sums = self.layer_sums.numpy() if self.measured else None
        if sums is None or not sums[:, 0].any():
            return None
        means = sums / sums[:, :1]
        return [compat.variable_path(v) for v in self.measured], dict(zip(LAYER_COLUMNS, means.T))

    def results(self) -> dict[str, tf.Tensor]:
        """The metrics so far in this epoch, by name."""
        if not self.of_epoch:
            return {}
        means = tf.math.divide_no_nan(self._sums, self._updates)
        values = {name: means[NAMES.index(name)] for name in self.names}
        for name in set(self.names) & {"loss_scale", "skipped_steps"}:
            values[name] = self._sums[NAMES.index(name)]
        return values

    @property
    def has_results(self) -> bool:
        """Whether any update has been measured in this epoch. It waits for the device."""
        return bool(self.of_epoch) and bool(tf.reduce_any(self._sums.read_value() != 0))

    def count_skipped(self, skipped: tf.Tensor) -> None:
        """Counts a step that changed nothing."""
        if "skipped_steps" in self.names:
            one = tf.one_hot(NAMES.index("skipped_steps"), len(NAMES))
            self._sums.assign_add(one * tf.cast(skipped, tf.float32))

    @contextlib.contextmanager
    def measuring(
        self,
        gradients: Sequence[Gradient],
        clipped: Sequence[Gradient],
        variables: Sequence[Any],
        scale: tf.Tensor | None,
        finite: tf.Tensor | None,
    ) -> Iterator[None]:
        """Measures the update within.

        Args:
            gradients: The gradients before the clip.
            clipped: Those after it.
            variables: What they update.
            scale: The loss scale, or `None`.
            finite: Whether the update will happen, where the optimizer may refuse it; then it is not measured.
        """
        layers = self.layers and [*map(id, variables)] == [*map(id, self.measured)]
        if not self.names and not layers:
            yield
            return
        before = [tf.identity(variable) for variable in variables] if layers or "update_ratio" in self.names else []
        yield
        changes = [tf.convert_to_tensor(variable) - old for variable, old in zip(variables, before)]
        weight = 1.0 if finite is None else tf.cast(finite, tf.float32)
        if self.names:
            values = self._values(gradients, clipped, before, changes)
            self._add(self._sums, tf.stack(values), weight)
            self._updates.assign_add(weight)
            if "loss_scale" in self.names:
                last = 1.0 if scale is None else tf.cast(scale, tf.float32)
                self._sums.assign(tf.where(tf.range(len(NAMES)) == NAMES.index("loss_scale"), last, self._sums))
        if layers:
            rows = [_layer(*of_one) for of_one in zip(sum_duplicates(gradients), before, changes)]
            self._add(self.layer_sums, tf.stack(rows), weight)

    def _values(self, gradients, clipped, before, changes) -> list[tf.Tensor]:
        """A value for each of `NAMES`; zero for those that nobody asked for."""
        zero = tf.constant(0.0)
        values = dict.fromkeys(NAMES, zero)
        if "grad_norm" in self.names or "clip_fraction" in self.names:
            values["grad_norm"] = tf.cast(global_norm(gradients), tf.float32)
        if "clip_fraction" in self.names and clipped is not gradients:
            values["clip_fraction"] = tf.cast(global_norm(clipped) < values["grad_norm"], tf.float32)
        if "update_ratio" in self.names:
            values["update_ratio"] = _ratio(tf.linalg.global_norm(changes), tf.linalg.global_norm(before))
        return [values[name] for name in NAMES]

    @staticmethod
    def _add(sums: tf.Variable, values: tf.Tensor, weight: Any) -> None:
        sums.assign_add(tf.where(tf.cast(weight, tf.bool), values, tf.zeros_like(values)))


def _layer(gradient: Gradient, before: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """The row of `LAYER_COLUMNS` of one variable."""
    norm = tf.constant(0.0) if gradient is None else tf.cast(global_norm([gradient]), tf.float32)
    finite = tf.math.is_finite(norm)
    norm = tf.where(finite, norm, 0.0)
    return tf.stack(
        [
            1.0,
            norm,
            _ratio(tf.norm(change), tf.norm(before)),
            tf.cast(finite & (norm == 0), tf.float32),
            tf.cast(tf.logical_not(finite), tf.float32),
        ]
    )


def _ratio(change: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """A change as a share of the weights. Those at zero, as biases begin, would make it infinite: there it is 1."""
    return tf.cast(tf.where(weights > 0, tf.math.divide_no_nan(change, weights), tf.sign(change)), tf.float32)
