"""Everything that a resume needs of a training that is under way: gathered into files, and given back."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from typing import Any

import numpy as np

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import Source
from customfit.execution import compiled_steps, replicas
from customfit.serialization import pack, read_tensors, unpack, write_tensors

VARIABLES = "variables"


@dataclasses.dataclass
class Progress:
    """How far training is.

    Attributes:
        epoch: The epoch that is going on, or the next one.
        step: Steps of it that are done; 0 between two epochs.
        total_steps: Steps of all epochs.
        stopped: Whether something has asked to stop: then training is over, once the epoch that is going on has ended.
        stop_reason: Why, in words, where it has said so.
        validations: What `validation_interval` has found.
        validation_passes: Passes over the validation data.
        step_logs: The last step's logs.
        extra_logs: Values of this epoch by `session.log()`.
        final_logs: The last epoch's logs.
    """

    epoch: int
    step: int
    total_steps: int
    stopped: bool = False
    stop_reason: str | None = None
    validations: list = dataclasses.field(default_factory=list)
    validation_passes: int = 0
    step_logs: dict = dataclasses.field(default_factory=dict)
    extra_logs: dict = dataclasses.field(default_factory=dict)
    final_logs: dict | None = None


class TrainingState:
    """The state of a training: variables, random states, what callbacks remember, positions in the data.

    Args:
        model: The model.
        callbacks: The callbacks, History among them.
        train_data: What is trained on, or `None` where that is the caller's.
        validation_data: Sources by name.
    """

    def __init__(self, model: keras.Model, callbacks: list, train_data: Source | None, validation_data: dict):
        self._model = model
        self._callbacks = callbacks
        self._train_data: Any = train_data
        self._validation_data = validation_data
        self.batch_spec: Any = getattr(train_data, "element_spec", None)
        self._random: dict = {}

    def save(self, folder: Path, progress: Progress, callbacks: list) -> dict:
        """Writes the state.

        Args:
            folder: An empty directory.
            progress: How far training is.
            callbacks: What `callback_states` has given.

        Returns:
            The part of it that JSON can hold.
        """
        tensors = {name: tf.identity(variable) for name, variable in variables_of(self._model).items()}
        randomness = compiled_steps(self._model).randomness
        tensors.update(
            {f"op/{name}": tf.identity(state) for name, state in (randomness.states if randomness else {}).items()}
        )
        listed = [[name, describe(tensor)] for name, tensor in tensors.items()]
        record = {
            "at": {name: getattr(progress, name) for name in ("epoch", "step", "total_steps", "stopped")},
            "progress": pack(dataclasses.asdict(progress), "progress", tensors),
            "callbacks": pack(callbacks, "callbacks", tensors),
            "random": pack(random_states(), "random", tensors),
            "variables": listed,
            "data": self._position(folder),
            "batch": pack(tf.nest.map_structure(_only_dense, self.batch_spec), "batch", tensors),
        }
        write_tensors(folder / VARIABLES, tensors)
        return record

    def restore(self, folder: Path, record: dict) -> Progress:
        """Gives everything back that `save` has written, but positions in the data and global generators.

        See `seek` and `set_generators`: data that is read again draws from these as it did at first.
        """
        tensors = read_tensors(folder / VARIABLES)
        named = dict(record["variables"])
        if any(name.startswith("global/") for name in named):
            compat.make_keras_seed()
        variables = variables_of(self._model)
        if any(name not in variables and not name.startswith("op/") for name in named):
            spec = unpack(record["batch"], tensors) if self.batch_spec is None else self.batch_spec
            compiled_steps(self._model).train.build(spec)
            variables = variables_of(self._model)
        check_variables(named, variables)
        for name, variable in variables.items():
            if name in named:
                variable.assign(tensors[name])
        randomness = compiled_steps(self._model).randomness
        if randomness is not None:
            randomness.restore({name[3:]: tensors[name] for name in named if name.startswith("op/")})
        self._set_callback_states(unpack(record["callbacks"], tensors))
        self._random = unpack(record["random"], tensors)
        return Progress(**unpack(record["progress"], tensors))

    def seek(self, folder: Path, record: dict, progress: Progress) -> None:
        """Takes up the data where it was."""
        if self._train_data is not None:
            position, has_iterator = record["data"]["train"], record["data"]["iterator"]
            self._train_data.seek(position, progress.step, str(folder / "iterator") if has_iterator else None)
        for source in self._validation_data.values():
            if hasattr(source, "skip_passes"):
                source.skip_passes(progress.validation_passes)

    def set_generators(self) -> None:
        """Has the global random generators go on from where they were.

        Data of Python code, which has been read again by now, has moved those of Python and NumPy to where they belong.
        """
        set_random_states(self._random, of_python=not getattr(self._train_data, "reads_again", False))

    def _position(self, folder: Path) -> dict | None:
        if self._train_data is None:
            return None
        iterator = self._train_data.save_iterator(str(folder / "iterator"))
        return {"train": self._train_data.position(), "iterator": iterator}

    def callback_states(self) -> list:
        """What callbacks remember. What a user's `get_state` raises is the user's, and no failure to write."""
        states = []
        for callback in self._callbacks:
            if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
                state = callback.get_state()
            elif isinstance(callback, keras.callbacks.History):
                state = {"epoch": callback.epoch, "history": callback.history}
            else:
                state = compat.callback_state(callback)
            if state is not None:
                states.append([type(callback).__name__, state])
        return states

    def _set_callback_states(self, states: list) -> None:
        """Each callback takes the first state of its class that none has taken yet."""
        left = [list(entry) for entry in states]
        for callback in self._callbacks:
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is None:
                continue
            left.remove(found)
            if hasattr(callback, "set_state") and hasattr(callback, "get_state"):
                callback.set_state(found[1])
            else:
                compat.set_callback_state(callback, found[1])


# ------------------------------------------------------------------------------------------------------- variables


def variables_of(model: keras.Model) -> dict[str, tf.Variable]:
    """All variables that training may move, by names that are the same in the next process.

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

    add("model", [*model.weights])
    add("state", [*model.variables])
    for index, metric in enumerate(model.metrics):
        add(f"metric/{index}", [*metric.variables])
    for index, optimizer in enumerate(optimizers_of(model)):
        add(f"optimizer/{index}", compat.variables_of_optimizer(optimizer))
    add("gradients", model.gradient_pipeline.variables)
    add("global", compat.keras_seed_variables())
    others = [other for other in tf.train.TrackableView(model).descendants() if isinstance(other, tf.Variable)]
    add("other", [other for other in others if id(other) not in seen])
    return found


def random_variables(model: keras.Model) -> list:
    """The states of random generators: of Keras 3's seeds, and of random ops."""
    randomness = compiled_steps(model).randomness
    seeds = [compat.tf_variable(variable) for variable in model.variables if "seed_generator" in stable_name(variable)]
    return [*seeds, *(randomness.states.values() if randomness else [])]


def optimizers_of(model: keras.Model) -> list:
    """The optimizers that the model has as attributes, that of `compile()` first."""
    found = [getattr(model, "optimizer", None)]
    found += [value for _, value in sorted(vars(model).items(), key=lambda item: item[0])]
    optimizers: list = []
    for value in found:
        if hasattr(value, "apply_gradients") and all(value is not other for other in optimizers):
            optimizers.append(value)
    return optimizers


def stable_name(variable: Any) -> str:
    """A variable's name without the numbers that Keras adds to tell models of one process apart."""
    name = getattr(variable, "path", None) or variable.name
    return re.sub(r"_\d+(?=_|/|:|$)", "", name)


def describe(tensor: Any) -> str:
    """The dtype and shape of a tensor or variable."""
    return f"{tensor.dtype.name}{list(tensor.shape)}"


def missing(saved: dict, variables: dict) -> list[str]:
    """The saved variables that the model does not have; what steps and metrics make later does not count."""
    return [name for name in saved if name not in variables and not name.startswith(("op/", "metric/"))]


def check_variables(saved: dict, variables: dict) -> None:
    """Refuses variables that are not those of the model.

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
            "`checkpoint_dir` must hold checkpoints of this model. Received: a model that differs: "
            f"{'; '.join(differences[:3])}{more}"
        )


# ---------------------------------------------------------------------------------------------------- random states


def random_states() -> dict:
    """The states of the random generators of Python, NumPy and TensorFlow."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    generator = compat.global_random_generator()
    return {
        "python": list(random.getstate()),
        "numpy": [kind, keys, position, has_gauss, gauss],
        "eager": compat.eager_random_state(),
        "generator": None if generator is None else generator.state.numpy(),
    }


def set_random_states(states: dict, of_python: bool = True) -> None:
    """Has the random generators go on from what `random_states` gave, those of Python and NumPy only if asked to."""
    if of_python:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(tuple(states["numpy"]))
    if states["eager"] is not None:
        compat.set_eager_random_state(states["eager"])
    if states["generator"] is not None:
        tf.random.get_global_generator().state.assign(states["generator"])


def _only_dense(spec: Any) -> Any:
    """A spec that can be kept; that of a ragged or sparse tensor is known from the data alone."""
    return spec if isinstance(spec, tf.TensorSpec) else None
