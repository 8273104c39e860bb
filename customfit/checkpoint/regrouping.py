"""A run that goes on with another number of replicas or workers: what each of them had becomes what others have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from customfit.checkpoint.variables import describe
from customfit.compat import tf

_COUNTS = ("replicas", "workers")


def counts_of(fingerprint: Mapping[str, Any]) -> dict[str, int]:
    """Returns how many replicas and workers there are, by the words of a fingerprint.

    Args:
        fingerprint: The fingerprint.
    """
    return {name: fingerprint.get(name, 1) for name in _COUNTS}


def why_as_many(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Returns why a run must go on with as many replicas and workers as before, or `None` if it need not.

    Args:
        saved: The fingerprint in the checkpoint.
        now: The fingerprint of this call.
    """
    for fingerprint in (saved, now):
        if fingerprint.get("per_worker"):
            return "with `per_worker=True` no worker sees what the others have saved"
        if (fingerprint.get("data") or {}).get("share"):
            return "each worker reads a share of the data, and is somewhere in it"
    return None


def regrouped(
    named: Mapping[str, str],
    parts: Sequence[Mapping[str, np.ndarray]],
    variables: Mapping[str, tf.Variable],
    is_chief: bool,
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns saved variables by the names, and with the values, that they have with this number of replicas.

    Of what replicas sum (accumulated gradients, metrics), the first one gets the sum and the others nothing. Moving
    averages become their mean. What is the same everywhere stays as it is.

    Args:
        named: The descriptions of the saved variables, by name.
        parts: The tensors that each worker has saved, the chief's first.
        variables: The variables of this worker, by name.
        is_chief: Whether its first replica is the first one of all.

    Returns:
        The first, and the chief's part of the second, for these variables.

    Raises:
        ValueError: If a variable differs between the replicas in a way that has no rule.
    """
    random = sorted(name for name in named if name.startswith("op/"))
    if random:
        raise ValueError(
            "With another number of replicas than before, steps must not draw from random ops that have a state. "
            f"Received: a checkpoint with the states of {len(random)}, of which {random[0][3:]} is the first. Use "
            "Keras's layers and seed generators, or as many replicas as before"
        )
    shared = {_without_replica(name): description for name, description in named.items()}
    values: dict[str, list[np.ndarray]] = {name: [] for name in shared}
    for part in parts:
        for name, value in part.items():
            values.get(_without_replica(name), []).append(value)
    new = {name: _without_replica(name) for name in variables if _without_replica(name) in shared}
    tensors = {name: value for name, value in parts[0].items() if name not in named}
    for name, base in new.items():
        is_first = is_chief and name in (base, f"{base}/replica_0")
        tensors[name] = _as_one(base, variables[name], values[base], is_first)
    others = {base: description for base, description in shared.items() if base not in new.values()}
    return {**others, **{name: shared[base] for name, base in new.items()}}, tensors


def _without_replica(name: str) -> str:
    return re.sub(r"/replica_\d+$", "", name)


def _as_one(name: str, variable: tf.Variable, values: Sequence[np.ndarray], is_first: bool) -> np.ndarray:
    """What one replica gets of the values that all of them had before."""
    aggregation = getattr(getattr(variable, "aggregation", None), "name", "NONE")
    if aggregation == "SUM":
        return np.sum(values, axis=0, dtype=values[0].dtype) if is_first else np.zeros_like(values[0])
    if aggregation == "ONLY_FIRST_REPLICA" or all(np.array_equal(value, values[0]) for value in values):
        return values[0]
    # Keras 3 does not say how its moving averages become one.
    is_average = name.startswith(("model/", "state/")) and not variable.trainable
    if np.issubdtype(values[0].dtype, np.floating) and (aggregation == "MEAN" or is_average):
        return np.mean(values, axis=0, dtype=values[0].dtype)
    raise ValueError(
        "A run cannot go on with another number of replicas where each has a state of its own. Received: a checkpoint "
        f"in which {name} ({describe(variable)}) differs between them"
    )
