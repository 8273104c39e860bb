"""Checks groups of optimizers, and assigns each variable to one, by the names of layers or by patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from customfit.compat import keras, tf, variable_path, variables_in
from customfit.gradients import layers

OptimizerLike = Union[str, Mapping[str, Any], keras.optimizers.Optimizer]  # what `keras.optimizers.get` takes
Groups = Union[Mapping[str, OptimizerLike], Sequence[tuple[str, OptimizerLike]]]


def checked_groups(groups: Iterable[tuple[str, OptimizerLike]]) -> list[tuple[str, keras.optimizers.Optimizer]]:
    """Returns groups as pairs of a key and an optimizer.

    Args:
        groups: Pairs of a key and what `keras.optimizers.get` takes.

    Raises:
        ValueError: If there is none, or one is not valid.
    """
    groups = list(groups)
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
                "`optimizer` must have groups of a string and a `keras.optimizers.Optimizer`, not a legacy one. "
                f"Received: {key!r}: {optimizer!r}"
            )
        if hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "loss_scale_factor", None):
            raise ValueError(
                "`optimizer` must have groups of optimizers that do not scale the loss. To scale it, pass "
                f"`LossScaleOptimizer(OptimizerGroups(...))` to `compile()`. Received: {key!r}: {optimizer!r}"
            )
    if not pairs or {len({key for key, _ in pairs}), len({id(optimizer) for _, optimizer in pairs})} != {len(pairs)}:
        raise ValueError(
            "`optimizer` must have at least one group, each with a key and an optimizer of its own. "
            f"Received: optimizer={groups!r}"
        )
    return pairs


def _unshared(optimizer: OptimizerLike) -> OptimizerLike:
    """Copies a config: it may be given for two groups, and Keras 2 changes it."""
    return dict(optimizer) if isinstance(optimizer, Mapping) else optimizer


def assign_groups(
    variables: Sequence[tf.Variable],
    keys: Sequence[str],
    by_layer: bool,
    model: keras.Model | None,
    rest: str | None = None,
) -> dict[int, int]:
    """Returns the index of each variable's group.

    Args:
        variables: The trainable variables.
        keys: For each group, the name of a layer or a pattern.
        by_layer: Whether the keys are names of layers (`layers.variables_named`).
        model: The model of the layers. Patterns do not need it.
        rest: The key of the group of variables that are in no other, if there is such a group.

    Returns:
        The indices, by the variables' ids.

    Raises:
        ValueError: If a variable is in no group or in two, or a key matches nothing.
    """
    weights = variables_in(model.weights) if model else variables
    named = [key for key in keys if key != rest]
    members = [_named(key, model) if by_layer else _matching(key, weights) for key in named]
    in_some = set().union(*members)
    if rest is not None:
        members.insert(keys.index(rest), {id(variable) for variable in variables if id(variable) not in in_some})
    found = {id(variable): [i for i, ids in enumerate(members) if id(variable) in ids] for variable in variables}
    wrong = [
        f"{variable_path(variable)} in {' and '.join(repr(keys[i]) for i in found[id(variable)]) or 'none'}"
        for variable in variables
        if len(found[id(variable)]) != 1
    ]
    if wrong:
        raise ValueError(
            f"`optimizer` must put every trainable variable in exactly one group. Received: {', '.join(wrong)}"
        )
    return {variable: group for variable, (group,) in found.items()}


def _named(name: str, model: keras.Model | None) -> set[int]:
    if model is None:
        raise ValueError(
            "Groups by layer must be attached to a model before they are built: pass them to `compile(optimizer=)`, or "
            "call `attach(model)`."
        )
    try:
        return {id(variable) for variable in layers.variables_named(model, name)}
    except KeyError as error:
        known = ", ".join(error.args[0])
        raise ValueError(f"`optimizer` must name layers of the model: {known}. Received: {name!r}") from None


def _matching(pattern: str, variables: Sequence[tf.Variable]) -> set[int]:
    found = {id(variable) for variable in variables if re.search(pattern, variable_path(variable))}
    if not found:
        paths = ", ".join(map(variable_path, variables))
        raise ValueError(f"`optimizer` must have patterns that match some variable of {paths}. Received: {pattern!r}")
    return found
