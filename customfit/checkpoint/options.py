"""The options of layers, optimizers and losses, as every process and every release of a Keras generation has them.

`get_config` says them, but a newer release says more of them, and writes some in another way. So each option that the
constructor has by default is kept apart: where one side does not have it at all, it is no difference.
"""

from __future__ import annotations

import base64
import inspect
import marshal
import sys
import zlib
from collections.abc import Mapping
from types import CodeType
from typing import Any, TypedDict

import numpy as np

from customfit.compat import keras

# What tells objects of one process apart, or says how to load them, or how they were built; no option.
_NOT_OPTIONS = ("name", "registered_name", "module", "build_config", "shared_object_id")
_MODULES = ("layers", "optimizers", "losses", "regularizers", "constraints", "initializers")


class Described(TypedDict):
    """An object by the name of its class and its options; `defaults` are those that its constructor has by default."""

    type: str
    options: dict[str, Any]
    defaults: dict[str, Any]


def describe(thing: Any, config: Mapping[str, Any] | None = None) -> Described:
    """Returns an object's options, with those of objects within it. Names and initial values are not among them.

    Args:
        thing: A layer, an optimizer or a loss; or anything else that may have a `get_config`.
        config: What `get_config` returned. Defaults to calling it.
    """
    return _described(type(thing).__name__, type(thing), config_of(thing) if config is None else config)


def config_of(thing: Any) -> dict[str, Any]:
    """Returns what an object's `get_config` returns; of a class of the user's that has none, nothing."""
    try:
        return thing.get_config()
    except (AttributeError, NotImplementedError):
        return {}


def is_described(value: object) -> bool:
    """Whether a value is what `describe` returned."""
    return isinstance(value, dict) and set(value) >= {"type", "options", "defaults"}


def plain(value: Any) -> Any:
    """Returns a value as JSON can hold it, the same in each process; of objects without options, their class."""
    if isinstance(value, dict):
        if "class_name" in value and "config" in value:
            return _serialized(value)
        if _is_function(value.get("value")):  # an activation without a name
            return _lambda(value["value"])
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return _lambda(None) if value == "<lambda>" else value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return getattr(value, "__name__", None) or type(value).__name__


def same(one: object, other: object) -> bool:
    """Whether two values are the same; numbers also where one of them is the other as a float32."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or short(one) == short(other)
    return one == other


def short(number: float) -> float:
    """Returns a number as people write it: 0.001 and not 0.0010000000474974513, which is 0.001 in float32."""
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    return float(str(rounded)) if float(rounded) == number else number


def _described(name: str, cls: type | None, config: Mapping[str, Any]) -> Described:
    options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    constructor = _constructor(cls)
    if isinstance(config.get("layers"), list):  # a model: how its layers are connected is written with their names
        config = {"layers": config["layers"]}
    if config.get("function_type") == "lambda":  # of Keras 2's `Lambda`
        config = {**config, "function": _lambda(config["function"])}
    for key, value in config.items():
        if key not in _NOT_OPTIONS and not key.endswith("_initializer"):
            value = _dtype(value) if key == "dtype" else plain(value)
            (defaults if _is_default(key, value, constructor) else options)[key] = value
    return {"type": name, "options": options, "defaults": defaults}


def _serialized(value: dict[str, Any]) -> Any:
    """What Keras has serialized as a class and its config: a layer in another one, a regularizer, a function."""
    name, config = str(value["class_name"]), value["config"]
    if name == "__lambda__" and isinstance(config, dict):
        return _lambda(config.get("code") or config.get("value"))
    if not isinstance(config, dict):
        return plain(config)  # a function, by its name
    name = name.rpartition(">")[2]
    registered = keras.utils.get_custom_objects()
    found = next(
        (registered[key] for key in (value.get("registered_name"), value["class_name"]) if key in registered), None
    )
    return _described(name, found or _class_named(name), config)


def _class_named(name: str) -> type | None:
    modules = [getattr(keras, module) for module in _MODULES] + [keras.optimizers.schedules]
    return next((getattr(module, name) for module in modules if isinstance(getattr(module, name, None), type)), None)


def _lambda(serialized: Any) -> Described:
    """A function without a name. Its code is compared if both sides have it of the same release of Python."""
    code = serialized[0] if _is_function(serialized) else serialized
    defaults = {}
    if isinstance(code, str):
        code = instructions(marshal.loads(base64.decodebytes(code.encode())))
        release = "code of Python {}.{}".format(*sys.version_info)
        defaults[release] = f"checksum {zlib.crc32(repr(code).encode())}"
    return {"type": "lambda", "options": {}, "defaults": defaults}


def _is_function(serialized: Any) -> bool:
    """Whether this is how Keras serializes a function: its code, its defaults, its closure."""
    return isinstance(serialized, (list, tuple)) and len(serialized) == 3 and isinstance(serialized[0], str)


def instructions(code: CodeType) -> tuple:
    """What a function does, wherever it is written."""
    constants = [instructions(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return code.co_code, code.co_names, constants


def _dtype(policy: Any) -> Any:
    """The name of a dtype policy, which newer releases serialize."""
    if isinstance(policy, dict) and "name" in policy.get("config", {}):
        return policy["config"]["name"]
    return plain(policy)


class _Constructor(TypedDict):
    defaults: dict[str, Any]  # by the parameter's name; `inspect.Parameter.empty` where it has none
    takes_more: bool  # whether it passes others on


def _constructor(cls: type | None) -> _Constructor:
    """The parameters of a class's constructor, with those of the base classes to which it passes others on."""
    found: list[dict[str, Any]] = []
    takes_more = True
    for base in cls.__mro__ if cls is not None else ():
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        parameters = inspect.signature(constructor).parameters.values()
        found.append({parameter.name: parameter.default for parameter in parameters})
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            takes_more = len(found) > 1
            break
    return {"defaults": {k: v for each in reversed(found) for k, v in each.items()}, "takes_more": takes_more}


def _is_default(key: str, value: Any, constructor: _Constructor) -> bool:
    """Whether an option says no more than its absence would."""
    if key not in constructor["defaults"]:
        return not constructor["takes_more"] or value in (None, False)  # nobody can have chosen it
    default = constructor["defaults"][key]
    if default is inspect.Parameter.empty:
        return False
    default = plain(default)
    if default is None and value not in (None, False):  # the constructor has decided
        decided = {"data_format": keras.backend.image_data_format(), "rng_type": "stateful"}
        return key in decided and value == decided[key]
    return same(default, value) or not (default or value)
