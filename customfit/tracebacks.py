"""Tracebacks that show the user's own lines, without ours, Keras's and TensorFlow's: as `fit` shows them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from customfit import compat

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")
HIDDEN = (os.path.dirname(__file__) + os.sep, *compat.package_folders())


def filtered_traceback(function: Callable[P, T]) -> Callable[P, T]:
    """Leaves frames of customfit, Keras and TensorFlow out of the tracebacks of what a function raises.

    `keras.config.disable_traceback_filtering()`, or `tf.debugging.disable_traceback_filtering()` on Keras 2, shows all
    of them, here as under `fit`.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if compat.is_traceback_filtering_enabled():
                raise error.with_traceback(_filtered(error.__traceback__)) from error.__cause__
            raise

    return call


def _filtered(traceback: TracebackType | None) -> TracebackType | None:
    if traceback is None:
        return None
    rest = _filtered(traceback.tb_next)
    if traceback.tb_frame.f_code.co_filename.startswith(HIDDEN):
        return rest
    return TracebackType(rest, traceback.tb_frame, traceback.tb_lasti, traceback.tb_lineno)
