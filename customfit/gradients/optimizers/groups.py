"""Several optimizers in one model, each for its own part of the weights."""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.gradients.optimizers.assignment import assign_groups
from customfit.gradients.optimizers.rates import SharedLearningRate, has_schedule, number


def as_optimizer(optimizer: Any, model: Any) -> Any:
    """What `compile(optimizer=)` was given, as something that Keras takes.

    Args:
        optimizer: A dict of optimizers by the name of a layer, a list of `(pattern, optimizer)`, or anything that Keras
            itself takes: that is handed through.
        model: The model, whose layers the names are of.

    Returns:
        An `OptimizerGroups`, attached to the model, or `optimizer`.
    """
    keras_config = isinstance(optimizer, Mapping) and {"class_name", "config"} <= set(optimizer)
    if isinstance(optimizer, (Mapping, list, tuple)) and not keras_config:
        optimizer = OptimizerGroups(optimizer)
    for candidate in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if isinstance(candidate, OptimizerGroups):
            candidate.attach(model)
    return optimizer


@dataclasses.dataclass
class _State:
    """What the optimizer keeps of its own; not a list, which Keras and TensorFlow would save with the weights."""

    keys: list[str]
    by_layer: bool
    model: Any = None  # a weak reference
    variables: list | None = None  # once built
    index: dict[int, int] = dataclasses.field(default_factory=dict)  # of a variable's group, by the variable's id
    proportions: list[float] | None = None  # of the learning rates to the first one


@compat.register_keras_serializable
class OptimizerGroups(keras.optimizers.Optimizer):
    """Optimizers that each train a part of the model: what `compile(optimizer={...})` makes.

    All groups take a step when one does. `iterations` counts the steps; each group has its own count, by which its
    learning-rate schedule goes. (On Keras 2, a step that the loss scale skips counts in `iterations` alone.)

    `learning_rate` is that of the first group. Setting it, as `LearningRateScheduler` and `ReduceLROnPlateau` do,
    changes the rates of all groups by the same factor. To change one group's alone, set that of one of `groups`.

    Args:
        groups: Optimizers by the name of a layer at any depth, or of an attribute of a subclassed model that holds
            layers or variables; or pairs of a regular expression and the optimizer of the variables in whose path it is
            found. (A path is `variable.path` of Keras 3, and the name without ":0" of Keras 2.) Every trainable
            variable must be in exactly one group. An optimizer may be anything that `keras.optimizers.get` takes.
        name: The optimizer's name.

    Raises:
        ValueError: If there is no group, or an optimizer is none, scales the loss by itself, or is there twice.

    Example:

    >>> model.compile({"encoder": keras.optimizers.Adam(1e-5), "head": keras.optimizers.Adam(1e-3)}, "mse")
    >>> model.compile([("bias", keras.optimizers.SGD(0.1)), ("kernel", "adam")], "mse")
    """

    def __init__(self, groups: Mapping[str, Any] | Sequence[tuple[str, Any]], name: str = "optimizer_groups"):
        super().__init__(**compat.base_optimizer_arguments(name))
        by_layer = isinstance(groups, Mapping)
        pairs = _check_pairs(groups.items() if isinstance(groups, Mapping) else groups)
        self._state = _State([key for key, _ in pairs], by_layer)
        for index, (_, optimizer) in enumerate(pairs):
            setattr(self, f"group_{index}", optimizer)  # so that a checkpoint of TensorFlow's finds it
        if not hasattr(self, "built"):
            # To Keras 2's own counter nothing can be added in a replica.
            only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.iterations = tf.Variable(0, False, dtype=tf.int64, name="iteration", aggregation=only_first)

    @property
    def groups(self) -> dict[str, Any]:
        """The optimizers, by the name or pattern of their group.

        They are not called `optimizers`, as those of `MultiOptimizer` are: by that name Keras 3.15's callbacks know
        them, and then set every group's learning rate to the same number.
        """
        return {key: getattr(self, f"group_{index}") for index, key in enumerate(self._state.keys)}

    @property
    def variables(self) -> list:
        """The count of steps, and the variables of every group."""
        own = super().variables  # on Keras 2, a list that may be called
        return type(own)(
            [self.iterations, *(variable for group in self.groups.values() for variable in group.variables)]
        )

    def attach(self, model: Any) -> None:
        """Says whose layers the groups are named after. `compile()` does this.

        Args:
            model: The model. It is not kept alive.
        """
        self._state.model = weakref.ref(model)

    # ------------------------------------------------------------------------------------------------------ training

    def build(self, variables: Iterable) -> None:
        """Puts each variable in its group, and makes the groups' own variables.

        Args:
            variables: The trainable variables of the model.

        Raises:
            ValueError: If one is in no group or in two, or there is no layer or variable of a group's name.
        """
        if self._state.variables is not None:
            return
        variables = list(variables)
        state = self._state
        model = state.model() if state.model is not None else None
        index = assign_groups(variables, state.keys, state.by_layer, model)
        for group, optimizer in enumerate(self.groups.values()):
            members = [variable for variable in variables if index[id(variable)] == group]
            if members:
                optimizer.build(members)
        super().build(variables)
        state.variables, state.index = variables, index

    def apply_gradients(self, grads_and_vars: Iterable, *args: Any, **kwargs: Any) -> Any:
        """Has each group's optimizer update the variables of its group.

        Args:
            grads_and_vars: Pairs of a gradient and its variable.
            *args: For each group's `apply_gradients`.
            **kwargs: For each group's `apply_gradients`.

        Returns:
            The count of steps.
        """
        pairs = list(grads_and_vars)
        if not pairs:
            return self.iterations
        with tf.init_scope():
            self.build([variable for _, variable in pairs])
        groups = [
            (optimizer, members, any(gradient is not None for gradient, _ in members))
            for optimizer, members in zip(self.groups.values(), self._split(pairs, [variable for _, variable in pairs]))
        ]
        nothing_at_all = not any(some for _, _, some in groups)
        for optimizer, members, some in groups:
            if some or (members and nothing_at_all):  # of which Keras complains
                optimizer.apply_gradients(members, *args, **kwargs)
            elif members:
                names = [compat.variable_path(variable) for _, variable in members]
                warnings.warn(f"Gradients do not exist for variables {names} when minimizing the loss.", stacklevel=2)
        self.iterations.assign_add(1)
        return self.iterations

    def apply(self, grads: Sequence, trainable_variables: Sequence | None = None) -> None:
        """What `apply_gradients` does, as Keras 3 calls it.

        Args:
            grads: Gradients.
            trainable_variables: Their variables. Defaults to those that the optimizer was built with.
        """
        self.apply_gradients(zip(grads, trainable_variables or self._state.variables or []))

    def finalize_variable_values(self, var_list: Iterable) -> None:
        """Overwrites weights with their moving average, in groups whose optimizer keeps one.

        Args:
            var_list: The trainable variables of the model.
        """
        variables = list(var_list)
        for optimizer, members in zip(self.groups.values(), self._split(variables, variables)):
            if members:
                optimizer.finalize_variable_values(members)

    def _split(self, items: list, variables: list) -> list[list]:
        """The items that belong to each group, by their variables."""
        split: list[list] = [[] for _ in self._state.keys]
        unknown = [compat.variable_path(variable) for variable in variables if id(variable) not in self._state.index]
        if unknown:
            raise ValueError(
                "The variables must be those that the optimizer was built with: compile the model anew. "
                f"Received: {', '.join(unknown)}"
            )
        for item, variable in zip(items, variables):
            split[self._state.index[id(variable)]].append(item)
        return split

    # ------------------------------------------------------------------------------------------------- learning rate

    @property
    def learning_rate(self) -> SharedLearningRate:
        """The rate of the first group; set it, and the rates of all groups change by the same factor."""
        return SharedLearningRate(self)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        value = number(value)
        fixed = [key for key, optimizer in self.groups.items() if has_schedule(optimizer)]
        if fixed:
            raise TypeError(
                "`learning_rate` must be set on the optimizers, one by one, where some have a schedule, which does not "
                f"let it be set. Received: learning_rate={value}, with a schedule in {', '.join(map(repr, fixed))}"
            )
        rates = [number(optimizer.learning_rate) for optimizer in self.groups.values()]
        if np.float32(value) == np.float32(rates[0]):
            return  # so that nothing is rounded
        if rates[0]:
            self._state.proportions = [rate / rates[0] for rate in rates]
        if self._state.proportions is None:
            raise ValueError(
                "`learning_rate` must be set on the optimizers, one by one, where the first group's is 0 from the "
                f"start: the others are in no proportion to it. Received: learning_rate={value}"
            )
        for optimizer, proportion in zip(self.groups.values(), self._state.proportions):
            optimizer.learning_rate = value * proportion

    # --------------------------------------------------------------------------------------------------------- saving

    def set_weights(self, weights: Sequence) -> None:
        """Sets all variables.

        Args:
            weights: Their values, in the order of `variables`.
        """
        for variable, value in zip(self.variables, weights):
            variable.assign(value)

    def get_config(self) -> dict:
        """The name, and the groups with their optimizers, serialised."""
        return {
            "name": self.name,
            "by_layer": self._state.by_layer,
            "groups": [[key, keras.optimizers.serialize(optimizer)] for key, optimizer in self.groups.items()],
            "is_legacy_optimizer": False,  # what Keras 2 wants to know of each
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> OptimizerGroups:
        """The optimizer that `get_config` is of.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes that Keras cannot know, by name.

        Returns:
            An optimizer, without state.
        """
        with keras.utils.custom_object_scope(custom_objects or {}):
            return cls(dict(config["groups"]) if config["by_layer"] else config["groups"], name=config["name"])


def _check_pairs(groups: Any) -> list[tuple[str, Any]]:
    try:
        pairs = [(key, keras.optimizers.get(_unshared(optimizer))) for key, optimizer in groups]
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`optimizer` must be an optimizer, a dict of optimizers by the name of a layer, or a list of "
            f"`(pattern, optimizer)`. Received: optimizer={groups!r} ({error})"
        ) from error
    for key, optimizer in pairs:
        if not isinstance(key, str) or not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`optimizer` must be groups of a string and a `keras.optimizers.Optimizer` that is not a legacy one. "
                f"Received: {key!r}: {optimizer!r}"
            )
        if hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "loss_scale_factor", None):
            raise ValueError(
                "`optimizer` must be groups of optimizers that do not scale the loss; to scale it, give "
                f"`compile()` a `LossScaleOptimizer` of an `OptimizerGroups`. Received: {key!r}: {optimizer!r}"
            )
    if not pairs or {len({key for key, _ in pairs}), len({id(optimizer) for _, optimizer in pairs})} != {len(pairs)}:
        raise ValueError(
            "`optimizer` must have at least one group, each with a key and an optimizer of its own. "
            f"Received: optimizer={groups!r}"
        )
    return pairs


def _unshared(optimizer: Any) -> Any:
    """A config may be given twice, and Keras 2 writes into it."""
    return dict(optimizer) if isinstance(optimizer, Mapping) else optimizer
