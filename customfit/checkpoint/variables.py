"""The variables of a training run, by names that are the same in the next process."""

from __future__ import annotations

import re
from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import compiled_steps, replicas


def variables_of(model: keras.Model) -> dict[str, tf.Variable]:
    """Returns all variables that training may change, by names that are the same in the next process.

    The weights, the state of metrics, of optimizers and of random generators, and whatever else the model tracks.
    """
    found: dict[str, tf.Variable] = {}
    seen = set()

    def add(prefix: str, variables: list) -> None:
        for index, variable in enumerate(variables):
            name = f"{prefix}/{index}/{stable_name(variable)}"
            variable = compat.tf_variable(variable)
            if id(variable) not in seen:
                seen.add(id(variable))
                copies = replicas.copies(model.distribute_strategy, variable)
                for replica, copy in enumerate(copies):
                    found[name if len(copies) == 1 else f"{name}/replica_{replica}"] = copy

    add("model", compat.variables_in(model.weights))
    add("state", compat.variables_in(model.variables))
    for index, metric in enumerate(model.metrics):
        add(f"metric/{index}", compat.variables_in(metric.variables))
    for index, optimizer in enumerate(optimizers_of(model)):
        add(f"optimizer/{index}", compat.optimizer_variables(optimizer))
    add("gradients", model.gradient_pipeline.variables)
    add("global", compat.keras_seed_variables())
    others = [other for other in tf.train.TrackableView(model).descendants() if isinstance(other, tf.Variable)]
    add("other", [other for other in others if id(other) not in seen])
    return found


def random_variables(model: keras.Model) -> list:
    """Returns the states of random generators: of Keras 3's seeds, and of random ops."""
    randomness = compiled_steps(model).randomness
    variables = compat.variables_in(model.variables)
    seeds = [compat.tf_variable(variable) for variable in variables if "seed_generator" in stable_name(variable)]
    return [*seeds, *(randomness.states.values() if randomness else [])]


def optimizers_of(model: keras.Model) -> list:
    """Returns the optimizers that the model has as attributes, that of `compile()` first."""
    found = [getattr(model, "optimizer", None)]
    found += [value for _, value in sorted(vars(model).items(), key=lambda item: item[0])]
    optimizers: list = []
    for value in found:
        if hasattr(value, "apply_gradients") and all(value is not other for other in optimizers):
            optimizers.append(value)
    return optimizers


def stable_name(variable: Any) -> str:
    """Returns a variable's name without the numbers that Keras adds to distinguish models of one process."""
    name = getattr(variable, "path", None) or variable.name
    return re.sub(r"_\d+(?=_|/|:|$)", "", name)


def describe(tensor: Any) -> str:
    """Returns the dtype and shape of a tensor or variable, or the dtypes of a table, as text."""
    if hasattr(tensor, "key_dtype"):
        return f"table of {tensor.key_dtype.name} to {tensor.value_dtype.name}"
    return f"{tensor.dtype.name}{list(tensor.shape)}"


def missing(saved: dict, variables: dict) -> list[str]:
    """Returns the saved variables that the model does not have, except those that steps and metrics create later."""
    return [name for name in saved if name not in variables and not name.startswith(("op/", "metric/"))]


def check_variables(saved: dict, variables: dict) -> None:
    """Refuses variables and tables that are not those of the model.

    Raises:
        ValueError: If a name, shape or dtype differs.
    """
    differences = [f"it has no {name} {saved[name]}" for name in missing(saved, variables)]
    for name, variable in variables.items():
        if name not in saved:
            if not name.startswith(("metric/", "other/")):
                differences.append(f"it has {name} {describe(variable)}, the checkpoint does not")
        elif saved[name] != describe(variable):
            differences.append(f"its {name} is {describe(variable)}, in the checkpoint it is {saved[name]}")
    if differences:
        more = f", and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise ValueError(
            "`checkpoint` must hold checkpoints of this model. Received: a model that differs: "
            f"{'; '.join(differences[:3])}{more}"
        )
