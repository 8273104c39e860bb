"""What differs between the fingerprint in a checkpoint and that of a call, in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from customfit.checkpoint.options import is_described, same, short
from customfit.checkpoint.regrouping import COUNTS, counts_of, why_as_many

MOST = 5  # differences that an error names
_ABSENT = object()


def differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], saved_rates: list[float], names: Sequence[str] = ()
) -> list[str]:
    """Returns what differs between two fingerprints, in words.

    Args:
        saved: The fingerprint in the checkpoint.
        now: The fingerprint of this call.
        saved_rates: The learning rates when the checkpoint was written, which callbacks may have changed. A model that
            continues in the same process still has them.
        names: The names of the variables in the checkpoint.
    """
    if "layers" not in saved:
        return ["it was written by an earlier version of customfit, whose checkpoints this one cannot read"]
    if saved["Keras"] != now["Keras"]:
        return [f"Keras {now['Keras']} cannot resume a run of Keras {saved['Keras']}"]
    found = []
    for name in _keys(saved, now):
        before, after = saved.get(name), now.get(name)
        if name == "layers":
            found += _of_layers("", before or [], after or [])
        elif name == "learning_rate":
            if before and after and not same(after, saved_rates):
                found += [line for pair in zip(before, after) for line in _of_values("", name, *pair)]
        elif name == "validation":
            found += _of_validation(before or {}, after or {})
        elif name not in ("release", *COUNTS):
            found += _of_values("", name, before, after)
    return _of_counts(saved, now, names) + found


def _of_validation(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between how often two runs validate, and on what. A set has the prefix of its logs as its name."""
    found = _of_values("", "freq", before.get("freq"), after.get("freq"))
    old, new = before.get("sets", {}), after.get("sets", {})
    for name in _keys(old, new):
        if name in old and name in new:
            found += _of_values("", name, old[name], new[name])
        else:
            found.append(f"the data {name.rstrip('_')!r} is {'new' if name in new else 'missing'}")
    return [f"validation: {line}" for line in found]


def _of_counts(saved: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """How many replicas and workers there are and were, and why they must be as many, if they must."""
    before, after, reason = counts_of(saved), counts_of(now), why_as_many(saved, now, names)
    if before == after or reason is None:
        return []
    lines = [line for name in before for line in _of_values("", name, before[name], after[name])]
    return [*lines, f"it resumes with as many as before only, because {reason}"]


def in_words(found: list[str]) -> str:
    """Returns differences as one text, the first ones if they are many."""
    more = [f"{len(found) - MOST} more differences"] if len(found) > MOST else []
    return "; ".join([*found[:MOST], *more])


def releases(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns which releases of Keras have written a checkpoint and read it, in words."""
    if saved.get("release") == now["release"]:
        return f"written and read with {now['release']}"
    return f"written with {saved.get('release', 'another Keras')} and read with {now['release']}"


def _of_layers(place: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """What differs between two lists of layers. Layers are compared that have the same place, type and name."""
    found = []
    alike = difflib.SequenceMatcher(None, [*map(_kind, before)], [*map(_kind, after)], autojunk=False)
    for _, begin, end, new_begin, new_end in alike.get_opcodes():
        gone, new = before[begin:end], after[new_begin:new_end]
        for one, other in zip(gone, new):
            found += _of_layer(place, one, other)
        found += [f"{place}{layer['name']} ({layer['type']}) is missing" for layer in gone[len(new) :]]
        found += [f"{place}{layer['name']} ({layer['type']}) is new" for layer in new[len(gone) :]]
    return found


def _of_layer(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    name = f"{place}{after['name']}"
    if before["type"] != after["type"]:
        return [f"{name} is {after['type']}, was {before['type']} ({before['name']})"]
    if "layers" in before and "layers" in after:
        return _of_layers(f"{name}/", before["layers"], after["layers"])
    return _of_options(name, "", before, after)


def _kind(layer: Mapping[str, Any]) -> tuple[str, str]:
    """A layer's type and name, without the number by which Keras tells the layers of one process apart."""
    return layer["type"], re.sub(r"_\d+$", "", layer["name"])


def _of_options(place: str, path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between the options of two objects of one class. An absent one is the default."""
    old, new = ({**each["defaults"], **each["options"]} for each in (before, after))
    found = []
    for key in _keys(old, new):
        if (key in old and key in new) or key in (*before["options"], *after["options"]):
            found += _of_values(place, f"{path}{key}", old.get(key, _ABSENT), new.get(key, _ABSENT))
    return found


def _of_values(place: str, name: str, before: Any, after: Any) -> list[str]:
    """What differs between two values. `place` is the layer or the like that has them, or empty."""
    described = is_described(before), is_described(after)
    if all(described) and before["type"] == after["type"]:
        return _of_options(place or name, f"{name}." if place else "", before, after)
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(before, dict) and isinstance(after, dict) and not any(described):
        keys = _keys(before, after)
        parts = [(f"{name}.{key}" if place else key, before.get(key), after.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after) and _has_options(before):
        parts = [(f"{name}[{index}]", *pair) for index, pair in enumerate(zip(before, after))]
    if parts:
        return [line for part in parts for line in _of_values(place, *part)]
    if same(before, after):
        return []
    if after is _ABSENT:
        line = f"no {name}, was {_words(before)}"
    else:
        line = f"{name}={_words(after)}, was {'absent' if before is _ABSENT else _words(before)}"
    return [f"{place}: {line}" if place else line]


def _has_options(value: Any) -> bool:
    return is_described(value) or (isinstance(value, list) and any(map(_has_options, value)))


def _words(value: Any) -> str:
    """A value as it would be written in Python."""
    if is_described(value):
        return f"{value['type']}({', '.join(f'{key}={_words(each)}' for key, each in value['options'].items())})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_words(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    return repr(short(value) if isinstance(value, float) else value)


def _keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*one, *other]))
