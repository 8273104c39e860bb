"""Whether all workers of a job train the same model on the same data with the same options."""

from __future__ import annotations

import inspect
import json
import zlib
from types import FunctionType

from customfit import compat
from customfit.checkpoint.differences import differences, in_words
from customfit.checkpoint.options import instructions
from customfit.compat import keras
from customfit.serialization import JSON
from customfit.workers import Workers

_OURS_AND_KERAS_S = ("customfit", "keras", "tf_keras", "tensorflow", "builtins")


def check_alike(workers: Workers, model: keras.Model, fingerprint: dict[str, JSON]) -> None:
    """Refuses workers that would not train alike: they would wait for each other for ever, or train on other rows.

    All workers call it before the first step, and all raise the same error.

    Args:
        workers: All workers.
        model: The model.
        fingerprint: That of this one's model, data and options.

    Raises:
        ValueError: If they differ.
    """
    mine = {**fingerprint, "global seed": compat.global_seed(), **_code(model)}
    text = json.dumps(mine, sort_keys=True)
    if len(set(workers.gather(str(zlib.crc32(text.encode()))))) == 1:
        return
    of_chief, *others = (json.loads(each) for each in workers.gather(text))
    for index, other in enumerate(others, start=1):
        found = differences(of_chief, other, [])
        if found:
            raise ValueError(
                "All workers must train the same model on the same data with the same options. Received: on worker "
                f"{index}, compared with worker 0: {in_words(found)}"
            )


def _code(model: keras.Model) -> dict[str, str]:
    """Checksums of the methods of the model's class that the user has written."""
    classes = [each for each in type(model).__mro__ if each.__module__.partition(".")[0] not in _OURS_AND_KERAS_S]
    return {
        f"code of {each.__name__}.{name}": f"checksum {_checksum(inspect.unwrap(method))}"
        for each in classes
        for name, method in vars(each).items()
        if inspect.isfunction(method)
    }


def _checksum(function: FunctionType) -> int:
    return zlib.crc32(repr(instructions(function.__code__)).encode())
