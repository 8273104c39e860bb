"""The variables of a training run, by names that are the same in the next process."""

from __future__ import annotations

import re
from typing import Any

from customfit import compat
from customfit.compat import keras, tf
from customfit.execution import CapturedVariable, compiled_steps, handles_of, replicas


def variables_of(model: keras.Model, own: bool = False) -> dict[str, tf.Variable | CapturedVariable]:
    """Returns all variables that training may change, by names that are the same in the next process.

    The weights, the state of metrics, of optimizers and of random generators, and whatever else the model tracks; once
    its steps are traced, also what they use and the model does not track, in the order in which they use it.

    Args:
        model: The model.
        own: Whether to return only those of which one of several workers may have another value than the others: those
            with a copy for each replica, the state of metrics, and what steps change in the model beside its weights,
            such as moving averages.
    """
    found: dict[str, tf.Variable | CapturedVariable] = {}
    seen = set()

    def add(prefix: str, variables: list) -> None:
        for index, variable in enumerate(variables):
            name = f"{prefix}/{index}/{stable_name(variable)}"
            variable = compat.tf_variable(variable)
            if id(variable) not in seen:
                seen.add(id(variable))
                # A moving average of Keras 3 is one that replicas share, and each assigns to its copy of it.
                differs = prefix.startswith("metric") or (prefix in ("model", "state") and not variable.trainable)
                differs = differs or replicas.has_copies(variable)
                if own and not differs:
                    continue
                copies = replicas.copies(model.distribute_strategy, variable) if differs else [variable]
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
    add("counter", compat.step_counters(model))
    others = [other for other in tf.train.TrackableView(model).descendants() if isinstance(other, tf.Variable)]
    add("other", [other for other in others if id(other) not in seen])
    for index, captured in enumerate([] if own else _untracked(model, list(found.values()))):
        found[f"step/{index}/{stable_name(captured)}"] = captured
    return found


def _untracked(model: keras.Model, tracked: list[tf.Variable | CapturedVariable]) -> list[CapturedVariable]:
    """Returns the variables that the model's steps use and that are saved in no other way."""
    steps, generator = compiled_steps(model), compat.global_random_generator()
    elsewhere = [
        *(steps.randomness.states.values() if steps.randomness else []),
        *([generator.state] if generator else []),
        *model.gradient_pipeline.observers.variables,
    ]
    known = {handle for each in [*tracked, *elsewhere] for handle in handles_of(each, model.distribute_strategy)}
    used = [each for step in (steps.train, steps.test) if step.captures for each in step.captures.variables]
    return list({id(each.handle): each for each in used if id(each.handle) not in known}.values())


def changed_by_validation(model: keras.Model) -> list[tf.Variable | CapturedVariable]:
    """Returns what a pass of `test_step` may change.

    Where the step has not been traced, that is the states of random generators: of Keras 3's seeds, and of random ops.
    """
    steps = compiled_steps(model)
    captures = steps.test.captures
    if captures is not None:
        return [variable for variable in captures.variables if id(variable.handle) in captures.writes]
    variables = compat.variables_in(model.variables)
    seeds = [compat.tf_variable(variable) for variable in variables if "seed_generator" in stable_name(variable)]
    return [*seeds, *(steps.randomness.states.values() if steps.randomness else [])]


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that the model and its layers have as attributes, that of `compile()` first.

    An attribute may be a list, tuple or dict of them.
    """
    found = [getattr(model, "optimizer", None)]
    for owner in (model, *model.layers):
        for _, value in sorted(vars(owner).items(), key=lambda item: item[0]):
            found += _listed(value)
    optimizers: dict[int, Any] = {id(value): value for value in found if hasattr(value, "apply_gradients")}
    return list(optimizers.values())


def _listed(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


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
            if not name.startswith(("metric/", "other/", "counter/")):
                differences.append(f"it has {name} {describe(variable)}, the checkpoint does not")
        elif saved[name] != describe(variable):
            differences.append(f"its {name} is {describe(variable)}, in the checkpoint it is {saved[name]}")
    if differences:
        more = f", and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise ValueError(
            "`checkpoint` must hold checkpoints of this model. Received: a model that differs: "
            f"{'; '.join(differences[:3])}{more}"
        )
