"""Several optimizers in one model, each for its own part of the weights."""

from __future__ import annotations

import dataclasses
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.gradients.clipping import Gradient
from customfit.gradients.optimizers.assignment import Groups, OptimizerLike, assign_groups, checked_groups
from customfit.gradients.optimizers.rates import SharedLearningRate, has_schedule, number


def as_optimizer(optimizer: OptimizerLike | Groups | None, model: keras.Model) -> OptimizerLike | None:
    """Returns what `compile(optimizer=)` was given, in a form that Keras takes.

    Args:
        optimizer: A dict of optimizers by the name of a layer, a list of `(pattern, optimizer)`, or anything that Keras
            itself takes.
        model: The model of the layers.

    Returns:
        For groups, an `OptimizerGroups` that is attached to the model; else `optimizer` as it is.
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
    """The attributes of an `OptimizerGroups`, apart from it: Keras and TensorFlow would save lists with the weights."""

    keys: list[str]
    by_layer: bool
    model: Callable[[], keras.Model | None] | None = None  # a weak reference, once attached
    variables: list[tf.Variable] | None = None  # once built
    index: dict[int, int] = dataclasses.field(default_factory=dict)  # of a variable's group, by the variable's id
    proportions: list[float] | None = None  # of the learning rates to the first one
    rest: str | None = None  # the key of the group of variables that are in no other
    ratios: list[list[Any]] = dataclasses.field(default_factory=list)  # of `LayerRates`: pairs of a key and its ratio


@compat.register_keras_serializable
class OptimizerGroups(keras.optimizers.Optimizer):
    """Trains each part of a model by an optimizer of its own: what `compile(optimizer={...})` makes.

    All groups take a step together. `iterations` counts the steps. Each group has its own count as well, which its
    learning-rate schedule uses. (On Keras 2, a step that the loss scale skips is counted in `iterations` only.)

    `learning_rate` is that of the first group. Setting it, as `LearningRateScheduler` and `ReduceLROnPlateau` do,
    changes the rates of all groups by the same factor. To change one group's rate alone, set it on one of `groups`.

    Args:
        groups: Optimizers by the name of a layer at any depth, or of an attribute of a subclassed model that holds
            layers or variables; or pairs of a regular expression and the optimizer of the variables whose path it
            matches anywhere. (The path is `variable.path` in Keras 3, and the name without ":0" in Keras 2.) Every
            trainable variable must be in exactly one group. An optimizer may be anything that `keras.optimizers.get`
            takes.
        name: The optimizer's name.

    Raises:
        ValueError: If there is no group, or an optimizer is not valid, scales the loss by itself, or is used twice.

    Example:

    >>> model.compile({"encoder": keras.optimizers.Adam(1e-5), "head": keras.optimizers.Adam(1e-3)}, "mse")
    >>> model.compile([("bias", keras.optimizers.SGD(0.1)), ("kernel", "adam")], "mse")
    """

    def __init__(self, groups: Groups, name: str = "optimizer_groups"):
        super().__init__(**compat.base_optimizer_arguments(name))
        by_layer = isinstance(groups, Mapping)
        pairs = checked_groups(groups.items() if isinstance(groups, Mapping) else groups)
        self._state = _State([key for key, _ in pairs], by_layer)
        for index, (_, optimizer) in enumerate(pairs):
            setattr(self, f"group_{index}", optimizer)  # so that a checkpoint of TensorFlow's finds it
        if not hasattr(self, "built"):
            # A replica cannot increment Keras 2's own counter.
            only_first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            self.iterations = tf.Variable(0, False, dtype=tf.int64, name="iteration", aggregation=only_first)

    @property
    def groups(self) -> dict[str, keras.optimizers.Optimizer]:
        """The optimizers, by the name or pattern of their group.

        The attribute is not called `optimizers`, as that of Keras's `MultiOptimizer` is: Keras 3.15's callbacks look
        for that name and set every optimizer's learning rate to the same number.
        """
        return {key: getattr(self, f"group_{index}") for index, key in enumerate(self._state.keys)}

    @property
    def variables(self) -> list[tf.Variable]:
        """The count of steps, and the variables of every group."""
        own = super().variables  # on Keras 2, a list that may be called
        return type(own)(
            [self.iterations, *(variable for group in self.groups.values() for variable in group.variables)]
        )

    def attach(self, model: keras.Model) -> None:
        """Sets the model whose layers the groups are named after. `compile()` calls this.

        Args:
            model: The model. Only a weak reference is kept.
        """
        self._state.model = weakref.ref(model)

    # ------------------------------------------------------------------------------------------------------ training

    def build(self, variables: Iterable[tf.Variable]) -> None:
        """Assigns each variable to its group, and creates the groups' own variables.

        Args:
            variables: The trainable variables of the model.

        Raises:
            ValueError: If a variable is in no group or in two, or a group's name or pattern matches nothing.
        """
        if self._state.variables is not None:
            return
        variables = list(variables)
        state = self._state
        model = None if state.model is None else state.model()
        index = assign_groups(variables, state.keys, state.by_layer, model, state.rest)
        for group, optimizer in enumerate(self.groups.values()):
            members = [variable for variable in variables if index[id(variable)] == group]
            if members:
                optimizer.build(members)
        super().build(variables)
        state.variables, state.index = variables, index

    def apply_gradients(
        self, grads_and_vars: Iterable[tuple[Gradient, tf.Variable]], *args: Any, **kwargs: Any
    ) -> tf.Variable:
        """Updates the variables of each group by its optimizer.

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
        none_at_all = not any(some for _, _, some in groups)
        for optimizer, members, some in groups:
            if some or (members and none_at_all):  # Keras then raises its own error
                optimizer.apply_gradients(members, *args, **kwargs)
            elif members:
                names = [compat.variable_path(variable) for _, variable in members]
                warnings.warn(f"Gradients do not exist for variables {names} when minimizing the loss.", stacklevel=2)
        self.iterations.assign_add(1)
        return self.iterations

    def apply(self, grads: Sequence[Gradient], trainable_variables: Sequence[tf.Variable] | None = None) -> None:
        """Does what `apply_gradients` does; Keras 3 calls this.

        Args:
            grads: Gradients.
            trainable_variables: Their variables. Defaults to those that the optimizer was built with.
        """
        self.apply_gradients(zip(grads, trainable_variables or self._state.variables or []))

    def finalize_variable_values(self, var_list: Iterable[tf.Variable]) -> None:
        """Overwrites weights with their moving average, in groups whose optimizer keeps one.

        Args:
            var_list: The trainable variables of the model.
        """
        variables = list(var_list)
        for optimizer, members in zip(self.groups.values(), self._split(variables, variables)):
            if members:
                optimizer.finalize_variable_values(members)

    def _split(self, items: list[Any], variables: list[tf.Variable]) -> list[list[Any]]:
        """Returns the items of each group, by their variables."""
        split: list[list] = [[] for _ in self._state.keys]
        unknown = [compat.variable_path(variable) for variable in variables if id(variable) not in self._state.index]
        if unknown:
            raise ValueError(
                "The variables must be those that the optimizer was built with: compile the model again. "
                f"Received: {', '.join(unknown)}"
            )
        for item, variable in zip(items, variables):
            split[self._state.index[id(variable)]].append(item)
        return split

    # ------------------------------------------------------------------------------------------------- learning rate

    @property
    def learning_rate(self) -> SharedLearningRate:
        """The rate of the first group. Setting it changes the rates of all groups by the same factor."""
        return SharedLearningRate(self)

    @learning_rate.setter
    def learning_rate(self, value: object) -> None:
        value = number(value)
        fixed = [key for key, optimizer in self.groups.items() if has_schedule(optimizer)]
        if fixed:
            raise TypeError(
                "`learning_rate` cannot be set for all groups, because some have a schedule. Set it on one of "
                f"`optimizer.groups`. Received: learning_rate={value}, with a schedule in {', '.join(map(repr, fixed))}"
            )
        rates = [number(optimizer.learning_rate) for optimizer in self.groups.values()]
        if np.float32(value) == np.float32(rates[0]):
            return  # so that nothing is rounded
        if rates[0]:
            self._state.proportions = [rate / rates[0] for rate in rates]
        if self._state.proportions is None:
            raise ValueError(
                "`learning_rate` cannot be set for all groups, because the first group's has been 0 from the start: "
                "there is no factor to change the others by. Set it on the optimizers of `optimizer.groups`. "
                f"Received: learning_rate={value}"
            )
        for optimizer, proportion in zip(self.groups.values(), self._state.proportions):
            optimizer.learning_rate = value * proportion

    # --------------------------------------------------------------------------------------------------------- saving

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets all variables.

        Args:
            weights: Their values, in the order of `variables`.
        """
        for variable, value in zip(self.variables, weights):
            variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        """Returns the name and the groups, with their optimizers serialized."""
        return {
            "name": self.name,
            "by_layer": self._state.by_layer,
            "groups": [[key, keras.optimizers.serialize(optimizer)] for key, optimizer in self.groups.items()],
            "is_legacy_optimizer": False,  # Keras 2 reads this when it loads an optimizer
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, object] | None = None
    ) -> OptimizerGroups:
        """Creates an optimizer of the same configuration, without state.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes that are not registered with Keras, by name.

        Returns:
            The optimizer.
        """
        with keras.utils.custom_object_scope(custom_objects or {}):
            return cls(dict(config["groups"]) if config["by_layer"] else config["groups"], name=config["name"])
