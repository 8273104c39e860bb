"""Gradient metrics for the logs, measured within the pipeline: without a second backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from customfit import compat
from customfit.arguments import did_you_mean
from customfit.compat import keras, tf
from customfit.execution import replicas
from customfit.gradients.clipping import Gradient, global_norm, sum_duplicates
from customfit.gradients.rates import rates_of

NAMES = ("grad_norm", "clip_fraction", "update_ratio", "loss_scale", "skipped_steps", "learning_rate")
LAYER_COLUMNS = ("updates", "norm", "update_ratio", "zero", "nonfinite")


class _LayerSums(NamedTuple):
    """The sums of `LAYER_COLUMNS` over updates, a row for each variable."""

    variables: list[tf.Variable]
    sums: tf.Variable


class GradientMetrics:
    """Metrics of gradients and updates, averaged over the updates of an epoch.

    - `grad_norm`: the global norm of the gradients before they are clipped.
    - `clip_fraction`: the share of updates in which the clip changed anything.
    - `update_ratio`: the norm of the change of all weights, divided by their norm; 1 for weights at zero.
    - `loss_scale`: the loss scale at the last step, not averaged; 1 without one.
    - `skipped_steps`: how many steps changed nothing because something was not finite.
    - `learning_rate`: the rate of the last update, not averaged; for groups `learning_rate/<group>`.

    Args:
        names: Some of these names.

    Attributes:
        measures_layers: Whether each variable is measured as well, for `callbacks.GradientHealth`.
        epoch_variables: The sums over an epoch, which are reset with the model's metrics.
        variables: All sums.

    Raises:
        ValueError: If there is no metric of a name.
    """

    def __init__(self, names: str | Sequence[str]):
        self.names = tuple([names] if isinstance(names, str) else names or ())
        for name in self.names:
            if name not in NAMES:
                hint = did_you_mean(str(name), NAMES)
                raise ValueError(f"`gradient_metrics` must be some of {', '.join(NAMES)}.{hint} Received: {name!r}")
        self.measures_layers = False
        self.variables: list[tf.Variable] = []
        self.epoch_variables: list[tf.Variable] = []
        self._layers: dict[tuple[int, ...], _LayerSums] = {}  # by the ids of the variables of an update
        self._rates: dict[str, tuple[keras.optimizers.Optimizer, tf.Variable]] = {}  # by their names in logs

    def __bool__(self) -> bool:
        return bool(self.names) or self.measures_layers

    def build(self, variables: Sequence[tf.Variable], optimizer: keras.optimizers.Optimizer) -> None:
        """Creates the sums.

        Args:
            variables: The variables that are updated. Each list of them is measured on its own.
            optimizer: Their optimizer.
        """
        for name, each in rates_of(optimizer).items() if "learning_rate" in self.names else ():
            self._build_rate(name, each)
        if self.names and not self.epoch_variables:
            self._sums = replicas.variable(tf.zeros(len(NAMES)), "gradient_metric_sums")
            self._updates = replicas.variable(0.0, "gradient_metric_updates")
            self.epoch_variables = [self._sums, self._updates]
            self.variables += self.epoch_variables
        key = _key(variables)
        if self.measures_layers and key not in self._layers:
            sums = replicas.variable(tf.zeros([len(variables), len(LAYER_COLUMNS)]), "layer_sums")
            self._layers[key] = _LayerSums(list(variables), sums)
            self.variables.append(sums)

    def _build_rate(self, name: str, optimizer: keras.optimizers.Optimizer) -> None:
        if any(optimizer is known for known, _ in self._rates.values()):
            return
        others = sum(known.partition("#")[0] == name for known in self._rates)  # of further optimizers, as in a GAN
        rate = replicas.variable(0.0, "learning_rate")
        self._rates[f"{name}#{others + 1}" if others else name] = optimizer, rate
        self.variables.append(rate)

    def reset(self) -> None:
        """Resets the sums over an epoch."""
        for variable in self.epoch_variables:  # not those of layers: validation at an epoch's end must not reset them
            variable.assign(tf.zeros_like(variable))

    def reset_layers(self) -> None:
        """Resets the sums of each variable."""
        for layers in self._layers.values():
            layers.sums.assign(tf.zeros_like(layers.sums))

    def forget_layers(self) -> None:
        """Drops the sums of each variable: others are updated from now on."""
        dropped = {id(layers.sums) for layers in self._layers.values()}
        self.variables = [variable for variable in self.variables if id(variable) not in dropped]
        self._layers.clear()

    def layer_results(self) -> tuple[list[str], dict[str, np.ndarray]] | None:
        """Returns the names of the variables, and for each of `LAYER_COLUMNS` their means over their updates.

        Variables without an update are left out. Without any it returns `None`.
        """
        sums: dict[int, np.ndarray] = {}
        names = {}
        for layers in self._layers.values():
            for variable, row in zip(layers.variables, layers.sums.numpy()):
                sums[id(variable)] = sums.get(id(variable), 0) + row  # two optimizers may update a variable
                names[id(variable)] = compat.variable_path(variable)
        updated = [key for key, row in sums.items() if row[0]]
        if not updated:
            return None
        means = np.stack([sums[key] / sums[key][0] for key in updated])
        return [names[key] for key in updated], dict(zip(LAYER_COLUMNS, means.T))

    def results(self) -> dict[str, tf.Tensor]:
        """Returns the metrics so far in this epoch, by name."""
        if not self.epoch_variables:
            return {}
        means = tf.math.divide_no_nan(self._sums, self._updates)
        values = {name: means[NAMES.index(name)] for name in self.names}
        for name in set(self.names) & {"loss_scale", "skipped_steps"}:
            values[name] = self._sums[NAMES.index(name)]
        if values.pop("learning_rate", None) is not None:
            values.update({name: rate.read_value() for name, (_, rate) in self._rates.items()})
        return values

    @property
    def has_results(self) -> bool:
        """Whether any update has been measured in this epoch. It waits for the device."""
        return bool(self.epoch_variables) and any(
            bool(tf.reduce_any(sums.read_value() != 0)) for sums in self.epoch_variables
        )

    def count_skipped(self, skipped: tf.Tensor) -> None:
        """Counts a step that changed nothing.

        Args:
            skipped: Whether this step is one.
        """
        if "skipped_steps" in self.names:
            one = tf.one_hot(NAMES.index("skipped_steps"), len(NAMES))
            self._sums.assign_add(one * tf.cast(skipped, tf.float32))

    @contextlib.contextmanager
    def measuring(
        self,
        gradients: Sequence[Gradient],
        clipped: Sequence[Gradient],
        variables: Sequence[tf.Variable],
        optimizer: keras.optimizers.Optimizer,
        finite: tf.Tensor | None,
    ) -> Iterator[None]:
        """Measures the update that is made within.

        Args:
            gradients: The gradients before the clip.
            clipped: The gradients after the clip.
            variables: The variables that are updated.
            optimizer: Their optimizer.
            finite: Whether the optimizer makes the update, if it may skip it. A skipped one is not measured.
        """
        layers = self._layers.get(_key(variables)) if self.measures_layers else None
        if not self.names and layers is None:
            yield
            return
        before = (
            [tf.identity(variable) for variable in variables]
            if layers is not None or "update_ratio" in self.names
            else []
        )
        scale = compat.loss_scale(optimizer)
        if "learning_rate" in self.names:
            mine = rates_of(optimizer).values()
            for each, rate in self._rates.values():
                if any(each is one for one in mine):
                    rate.assign(compat.learning_rate(each))
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
        if layers is not None:
            rows = [_layer(*of_one) for of_one in zip(sum_duplicates(gradients), before, changes)]
            self._add(layers.sums, tf.stack(rows), weight)

    def _values(
        self,
        gradients: Sequence[Gradient],
        clipped: Sequence[Gradient],
        before: Sequence[tf.Tensor],
        changes: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """Returns a value for each of `NAMES`; zero for those that were not asked for."""
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
    def _add(sums: tf.Variable, values: tf.Tensor, weight: tf.Tensor | float) -> None:
        sums.assign_add(tf.where(tf.cast(weight, tf.bool), values, tf.zeros_like(values)))


def _key(variables: Sequence[tf.Variable]) -> tuple[int, ...]:
    return tuple(map(id, variables))


def _layer(gradient: Gradient, before: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Returns the row of `LAYER_COLUMNS` of one variable."""
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
    """Returns the norm of a change divided by that of the weights; 1 for weights at zero, as biases are at first."""
    return tf.cast(tf.where(weights > 0, tf.math.divide_no_nan(change, weights), tf.sign(change)), tf.float32)
