"""Which group each variable is in: by the names of layers, or by patterns."""

from __future__ import annotations

import re
from typing import Any

from customfit.compat import variable_path
from customfit.gradients import layers


def assign_groups(variables: list, keys: list[str], by_layer: bool, model: Any) -> dict[int, int]:
    """The index of each variable's group.

    Args:
        variables: The trainable variables.
        keys: Of each group, the name of a layer or a pattern.
        by_layer: Whether the keys are names of layers (`layers.variables_named`).
        model: The model that has the layers. Patterns do without.

    Returns:
        The indices by the variables' ids.

    Raises:
        ValueError: If a variable is in no group or in two, or a key stands for nothing.
    """
    members = [
        _named(key, model) if by_layer else _matching(key, model.weights if model else variables) for key in keys
    ]
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


def _named(name: str, model: Any) -> set[int]:
    if model is None:
        raise ValueError("The groups must be attached to the model that has their layers: call `attach(model)`.")
    try:
        return {id(variable) for variable in layers.variables_named(model, name)}
    except KeyError as error:
        known = ", ".join(error.args[0])
        raise ValueError(f"`optimizer` must name layers of the model: {known}. Received: {name!r}") from None


def _matching(pattern: str, variables: list) -> set[int]:
    found = {id(variable) for variable in variables if re.search(pattern, variable_path(variable))}
    if not found:
        paths = ", ".join(map(variable_path, variables))
        raise ValueError(f"`optimizer` must have patterns found in some of {paths}. Received: {pattern!r}")
    return found
