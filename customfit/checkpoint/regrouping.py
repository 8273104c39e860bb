"""Resuming with another number of replicas or workers: how their saved state is combined and shared out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from customfit.checkpoint.variables import describe
from customfit.compat import tf
from customfit.execution import replicas

COUNTS = ("replicas", "workers")


def counts_of(fingerprint: Mapping[str, Any]) -> dict[str, int]:
    """Returns how many replicas and workers there are according to a fingerprint.

    Args:
        fingerprint: The fingerprint.
    """
    return {name: fingerprint.get(name, 1) for name in COUNTS}


def why_as_many(saved: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Returns why a run must resume with as many replicas and workers as before, or `None` if it need not.

    Args:
        saved: The fingerprint in the checkpoint.
        now: The fingerprint of this call.
        names: The names of the saved variables.
    """
    several = any(counts_of(fingerprint)["workers"] > 1 for fingerprint in (saved, now))
    if several and any(fingerprint.get("per_worker") for fingerprint in (saved, now)):
        return "with `per_worker=True` no worker sees what the others have saved"
    if any((fingerprint.get("data") or {}).get("share") for fingerprint in (saved, now)):
        return "each worker reads its own share of the data, and its position holds for that share only"
    random = [name for name in names if name.startswith("op/")]
    if random:
        return (
            f"its steps use {len(random)} random ops that keep a state, as `Dropout` of Keras 2 does, which cannot be "
            "shared out; a `tf.random.Generator` can"
        )
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
    tensors.update({base: values[base][0] for base in others if values[base]})  # another release may know them
    return {**others, **{name: shared[base] for name, base in new.items()}}, tensors


def _without_replica(name: str) -> str:
    return re.sub(r"/replica_\d+$", "", name)


def _as_one(name: str, variable: tf.Variable, values: Sequence[np.ndarray], is_first: bool) -> np.ndarray:
    """What one replica gets of the values that all of them had before."""
    aggregation = getattr(getattr(variable, "aggregation", None), "name", "NONE")
    if aggregation == "SUM" and replicas.has_copies(variable):
        return np.sum(values, axis=0, dtype=values[0].dtype) if is_first else np.zeros_like(values[0])
    if aggregation == "ONLY_FIRST_REPLICA" or len({value.tobytes() for value in values}) == 1:
        return values[0]
    # Keras 3 does not say how its moving averages become one.
    is_average = name.startswith(("model/", "state/")) and not variable.trainable
    if tf.as_dtype(values[0].dtype).is_floating and (aggregation == "MEAN" or is_average):
        return np.mean([value.astype("float64") for value in values], axis=0).astype(values[0].dtype)
    raise ValueError(
        "To resume with another number of replicas, a variable that differs between them must be a moving average or "
        f"have an aggregation. Received: a checkpoint in which {name} ({describe(variable)}) differs. Resume with as "
        "many replicas and workers as before, or create the variable with `aggregation=`."
    )
