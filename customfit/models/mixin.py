"""`CustomTrainMixin`: the steps, `compile()` and the ways to train, for any `keras.Model`."""

from __future__ import annotations

import abc
import inspect
from typing import Any

from customfit import compat
from customfit.compat import keras
from customfit.models.compiling import Compiling
from customfit.models.fitting import Fitting
from customfit.models.predicting import Predicting
from customfit.models.steps import TrainingSteps, with_options_held


class ModelType(abc.ABCMeta):
    """The type of our model classes: see BASES.md beside this file for why bases are guarded.

    1. In a class with other bases, `CustomTrainMixin` stands for `CustomTrainModel` below them: what the other classes
       override themselves is theirs, and ours lies below it, whichever way round the bases are written.
    2. `CustomTrainModel` keeps its bases when Keras rewrites those of a class that is used as a functional model.
    3. A `train_step` of a subclass, or of another class among its bases, runs with the options of `compile()` held.
    """

    shared: Any = None  # `CustomTrainModel`, once it is defined
    functional: Any = None  # what stands for it in functional models
    _functional_wanted = False

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> type:
        cls = super().__new__(mcs, name, _with_ours_below(bases), namespace, **kwargs)
        step = inspect.getattr_static(cls, "train_step")
        if with_options_held(step) is not step:
            cls.train_step = step
        return cls

    def __setattr__(cls, name: str, value: Any) -> None:
        if name == "train_step":
            super().__setattr__(name, with_options_held(value))
        elif name != "__bases__":
            super().__setattr__(name, value)
        elif cls is ModelType.shared:
            if compat.functional_class() in value:
                ModelType._functional_wanted = True
        else:
            if ModelType._functional_wanted:
                value = tuple(ModelType.functional if base is ModelType.shared else base for base in value)
                ModelType._functional_wanted = False
            super().__setattr__(name, value)


def _with_ours_below(bases: tuple[type, ...]) -> tuple[type, ...]:
    shared = ModelType.shared
    if shared is None or not any(base is CustomTrainMixin for base in bases):
        return bases
    others = tuple(base for base in bases if base is not CustomTrainMixin)
    if others == (keras.Model,) or any(issubclass(base, shared) for base in others):
        return (shared,) if others == (keras.Model,) else others
    return (*others, shared)


class CustomTrainMixin(TrainingSteps, Compiling, Fitting, Predicting, metaclass=ModelType):
    """Gives any `keras.Model` our training steps, the options of `compile()`, and `custom_fit()`.

    `class Mine(CustomTrainMixin, Theirs)` is `class Mine(Theirs, CustomTrainModel)`: the `train_step`, `fit`,
    `evaluate` and `compile` that `Theirs` overrides are used, and ours lie below them. It has no `__init__`; its
    options are those of `compile()`.

    Example:

    ```python
    class Mine(Theirs, CustomTrainModel):  # the same, as Python would have it
        ...
    ```
    """
