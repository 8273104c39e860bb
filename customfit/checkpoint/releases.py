"""What releases of one Keras generation save by other names, in another order, or in another dtype."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from customfit.checkpoint.variables import describe
from customfit.compat import tf

_WEIGHTS = ("model/", "metric/", "op/")  # these must be what they were


def as_of_this_release(
    named: Mapping[str, str], tensors: Mapping[str, np.ndarray], variables: Mapping[str, tf.Variable]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns saved variables by the names, and in the dtypes, that this release of Keras gives them.

    An optimizer's variables are "SGD/velocity" or "sgd/dense_velocity". The states of random seeds, and the stand-ins
    for slots that are never used, are integers of one type or another.

    Args:
        named: The descriptions of the saved variables, by name.
        tensors: Their values, by name, and others that were saved.
        variables: The variables of the model.

    Returns:
        The first two, with what can be recognized by its new name; the rest as it is, for `check_variables` to name.
    """
    new_names = _new_names({name: kind for name, kind in named.items() if name in tensors}, variables)
    found, values = {}, {name: value for name, value in tensors.items() if name not in named}
    for name, description in named.items():
        new_name, value = new_names.get(name, name), tensors.get(name)
        if name.startswith("other/") and name not in variables and description == "int32[]" and value == 0:
            continue  # a stand-in of Adafactor's, which some releases do not track
        if value is not None:  # of a table, the values have other names
            values[new_name] = _converted(value, variables[new_name]) if new_name in variables else value
        found[new_name] = description if values.get(new_name) is value else describe(variables[new_name])
    return found, values


def _new_names(named: Mapping[str, str], variables: Mapping[str, tf.Variable]) -> dict[str, str]:
    """The names that this release has for saved variables of other names: those whose ends are most alike, in order."""
    unknown = [name for name in named if name not in variables and not name.startswith(_WEIGHTS)]
    new = [name for name in variables if name not in named and not name.startswith(_WEIGHTS)]
    alike: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(new):
        alike.setdefault((_owner(name), _shape(describe(variables[name]))), []).append(index)
    pairs = [
        (-_common_end(name, new[new_index]), index, new_index)
        for index, name in enumerate(unknown)
        for new_index in alike.get((_owner(name), _shape(named[name])), ())
    ]
    found: dict[str, str] = {}
    taken: set[int] = set()
    for _, index, new_index in sorted(pairs):
        if unknown[index] not in found and new_index not in taken:
            found[unknown[index]] = new[new_index]
            taken.add(new_index)
    return found


def _owner(name: str) -> str:
    """What a variable belongs to: of "optimizer/0/2/sgd/velocity", "optimizer/0"."""
    return re.match(r"\D*(\d+(?=/\d+/))?", name)[0]  # type: ignore[index]


def _common_end(one: str, other: str) -> int:
    """How many words at their ends two names have in common."""
    pairs = zip(reversed(re.split(r"[/_]", one.lower())), reversed(re.split(r"[/_]", other.lower())))
    return next((count for count, (word, other_word) in enumerate(pairs) if word != other_word), 99)


def _shape(description: str) -> str:
    return description.partition("[")[2]


def _converted(value: np.ndarray, variable: tf.Variable) -> np.ndarray:
    """A value in a variable's dtype if one of the two is an integer and nothing is lost; else as it is."""
    dtype = variable.dtype.as_numpy_dtype
    if dtype == value.dtype or not any(np.issubdtype(each, np.integer) for each in (dtype, value.dtype)):
        return value
    converted = value.astype(dtype)
    return converted if (converted == value).all() else value
