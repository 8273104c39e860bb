"""Everything that a resumed run needs: gathered into files, and restored from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from customfit import compat
from customfit.checkpoint.random_state import random_states, set_random_states
from customfit.checkpoint.regrouping import counts_of, regrouped
from customfit.checkpoint.releases import as_of_this_release
from customfit.checkpoint.variables import check_variables, describe, variables_of
from customfit.compat import keras, tf
from customfit.data import ArraySource, BatchSpec, Block, DatasetSource, FirstBatches, Source, read_first
from customfit.execution import CompiledStep, check_resources, compiled_steps, mutable_tables, read_tables, write_tables
from customfit.serialization import JSON, pack, read_tensors, unpack, write_tensors
from customfit.workers import Workers

VARIABLES = "variables"


def part_name(worker: int) -> str:
    """Returns what the names of a worker's files begin with. Empty for the chief, whose files hold what all share.

    Args:
        worker: Its index.
    """
    return f"worker-{worker}." if worker else ""


class Stateful(Protocol):
    """What saves itself: callbacks of ours, the progress of a run, and why it stops."""

    def get_state(self) -> dict[str, Any]:
        """What to save: numbers, strings, arrays, lists and dicts."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""


class RunProgress(Stateful, Protocol):
    """How far a run is: `training.Progress`, as much of it as this room needs."""

    epoch: int
    step: int
    total_steps: int
    validation_passes: int
    sanity_batches: int


class RunStop(Stateful, Protocol):
    """Whether and why a run stops: `training.Stop`, as much of it as this room needs."""

    @property
    def is_final(self) -> bool:
        """Whether the run is over, once the current epoch has ended."""


class TrainingState:
    """The state of a training run: variables, tables, random states, callbacks, progress, positions in the data.

    Args:
        model: The model.
        callbacks: The callbacks, History among them.
        progress: How far the run is.
        stop: Whether and why it stops.
        train_data: The source that is trained on, or `None` where the loop is the caller's.
        validation_data: Sources by name.
        part: What the names of this worker's files begin with, if others save the same run into the same directory and
            the chief saves what all have in common; empty: this one saves all.
    """

    def __init__(
        self,
        model: keras.Model,
        callbacks: list[keras.callbacks.Callback],
        progress: RunProgress,
        stop: RunStop,
        train_data: Source | None,
        validation_data: Mapping[str, Source],
        part: str = "",
    ):
        self.progress = progress
        self._part = part
        self._model = model
        self._callbacks = callbacks
        self._stop = stop
        self._train_data: Any = train_data
        self._validation_data = validation_data
        self.batch_spec: Any = getattr(train_data, "element_spec", None)
        self._random: dict[str, Any] = {}

    def save(self, folder: Path, callbacks: list[list[Any]]) -> dict[str, JSON]:
        """Writes the state.

        Args:
            folder: An empty directory.
            callbacks: What `callback_states` returned.

        Returns:
            The part of it that JSON can hold.
        """
        if self._part:
            self._save_part(folder)
            return {}
        variables, tables = variables_of(self._model), mutable_tables(self._model)
        variables.update(self._states_of_random_ops())
        listed = [[name, describe(each)] for name, each in {**variables, **tables}.items()]
        tensors = {name: tf.identity(variable) for name, variable in variables.items()}
        tensors.update(read_tables(tables))
        progress = self.progress
        record = {
            "at": {
                "epoch": progress.epoch,
                "step": progress.step,
                "total_steps": progress.total_steps,
                "stopped": self._stop.is_final,
            },
            "progress": pack(progress.get_state(), "progress", tensors),
            "stop": pack(self._stop.get_state(), "stop", tensors),
            "callbacks": pack(callbacks, "callbacks", tensors),
            "random": pack(random_states(), "random", tensors),
            "variables": listed,
            "data": self._position(folder),
            "batch": pack(tf.nest.map_structure(_only_dense, self.batch_spec), "batch", tensors),
        }
        write_tensors(folder / VARIABLES, tensors)
        return record

    def _save_part(self, folder: Path) -> None:
        """Writes what only this worker knows: its replicas' copies, its random states, its position in the data."""
        variables = {**variables_of(self._model, own=True), **self._states_of_random_ops()}
        tensors = {name: tf.identity(variable) for name, variable in variables.items()}
        record = {"random": pack(random_states(), "random", tensors), "data": self._position(folder)}
        write_tensors(folder / f"{self._part}{VARIABLES}", tensors)
        (folder / f"{self._part}state.json").write_text(json.dumps(record))

    def _read(self, folder: Path, record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record and the tensors of a checkpoint, with this worker's part of them."""
        tensors, part = read_tensors(folder / VARIABLES), self._part_in(record)
        if part:
            tensors.update(read_tensors(folder / f"{part}{VARIABLES}"))
            record = {**record, **json.loads((folder / f"{part}state.json").read_text())}
        return record, tensors

    def _part_in(self, record: dict[str, Any]) -> str:
        """The part of a checkpoint that is this worker's: the chief's, if there were more or fewer workers."""
        return "" if self._is_regrouped(record) else self._part

    def _is_regrouped(self, record: dict[str, Any]) -> bool:
        """Whether a checkpoint was written by another number of replicas or workers."""
        strategy = self._model.distribute_strategy
        now = {"replicas": strategy.num_replicas_in_sync, "workers": Workers.of(strategy).count}
        return counts_of(record["fingerprint"]) != now

    def _other_parts(self, folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
        """The tensors that each worker but the chief has saved."""
        workers = counts_of(record["fingerprint"])["workers"]
        return [read_tensors(folder / f"{part_name(worker)}{VARIABLES}") for worker in range(1, workers)]

    def _states_of_random_ops(self) -> dict[str, tf.Variable]:
        randomness = compiled_steps(self._model).randomness
        return {f"op/{name}": state for name, state in (randomness.states if randomness else {}).items()}

    def trace(self, block: Block | None = None) -> None:
        """Traces the steps as far as batches are known, so that all they use can be saved, wherever it is kept.

        What a source of the user's says of its batches need not be their static shapes, and another trace would start
        Keras 2's dropout again. Of those, the first block tells.

        Args:
            block: The block that is about to be trained on, if one is.

        Raises:
            ValueError: If the steps change something that cannot be saved.
        """
        if block is not None and self.batch_spec is None:
            self.batch_spec = block.fetch.element_spec(block.feed)
        steps = compiled_steps(self._model)
        if steps.train.needs_trace:
            spec = _exact_spec(self._train_data)
            if spec is None and block is not None:
                spec = block.fetch.element_spec(block.feed)
            self._trace(steps.train, spec)
        if steps.test.needs_trace:
            specs = map(_exact_spec, self._validation_data.values())
            self._trace(steps.test, next((spec for spec in specs if spec is not None), None))

    def _trace(self, step: CompiledStep, spec: BatchSpec | None) -> None:
        if spec is not None:
            step.trace(spec)
            self._check_captures(step)

    def _check_captures(self, step: CompiledStep) -> None:
        if step.captures is not None:
            check_resources(step.captures, self._model, "`checkpoint` cannot save")

    def restore(self, folder: Path, record: dict[str, Any]) -> None:
        """Restores what `save` has written, except for positions in the data and global generators.

        See `seek` and `restore_generators`: data that is read again draws from the generators as it did at first.
        """
        record, tensors = self._read(folder, record)
        callbacks = unpack(record["callbacks"], tensors)
        self._set_callback_states(callbacks, only_first=True)
        named = dict(record["variables"])
        if any(name.startswith("global/") for name in named):
            compat.create_keras_seed_generator()
        self.trace()
        variables, tables = variables_of(self._model), mutable_tables(self._model)
        if any(name not in {**variables, **tables} and not name.startswith("op/") for name in named):
            spec = unpack(record["batch"], tensors) if self.batch_spec is None else self.batch_spec
            step = compiled_steps(self._model).train
            step.build(spec)
            self._check_captures(step)
            variables, tables = variables_of(self._model), mutable_tables(self._model)
        if self._is_regrouped(record):
            named, tensors = regrouped(
                named, [tensors, *self._other_parts(folder, record)], variables, is_chief=not self._part
            )
        named, tensors = as_of_this_release(named, tensors, variables)
        check_variables(named, {**variables, **tables})
        for name, variable in variables.items():
            if name in named:
                variable.assign(tensors[name])
        write_tables(tables, tensors)
        randomness = compiled_steps(self._model).randomness
        if randomness is not None:
            randomness.restore({name[3:]: tensors[name] for name in named if name.startswith("op/")})
        self._set_callback_states(callbacks)
        self._random = unpack(record["random"], tensors)
        self.progress.set_state(unpack(record["progress"], tensors))
        self._stop.set_state(unpack(record["stop"], tensors))

    def seek(self, folder: Path, record: dict[str, Any]) -> None:
        """Moves the data to its saved position."""
        record, _ = self._read(folder, record) if self._part else (record, {})
        if self._train_data is not None:
            position, has_iterator = record["data"]["train"], record["data"]["iterator"]
            path = str(folder / f"{self._part_in(record)}iterator")
            self._train_data.seek(position, self.progress.step, path if has_iterator else None)
        for source in self._validation_data.values():
            if hasattr(source, "skip_passes"):
                read_first(source, self.progress.sanity_batches)
                source.skip_passes(self.progress.validation_passes)

    def restore_generators(self) -> None:
        """Restores the global random generators.

        Data from Python code has been read again by now, which has moved Python's and NumPy's to where they belong.
        """
        set_random_states(self._random, of_python=not getattr(self._train_data, "reads_again", False))

    def callback_states(self) -> list[list[Any]]:
        """The states of the callbacks. What a user's `get_state` raises is the user's error, not a failure to write."""
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

    def _position(self, folder: Path) -> dict[str, JSON] | None:
        if self._train_data is None:
            return None
        iterator = self._train_data.save_iterator(str(folder / f"{self._part}iterator"))
        return {"train": self._train_data.position(), "iterator": iterator}

    def _set_callback_states(self, states: list[list[Any]], only_first: bool = False) -> None:
        """Gives each callback the first state of its class that no other has taken.

        Args:
            states: The states.
            only_first: Whether only callbacks get one that decide which variables there are: those with an attribute
                `restores_first`.
        """
        left = [list(entry) for entry in states]
        for callback in self._callbacks:
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is None:
                continue
            left.remove(found)
            if only_first and not getattr(callback, "restores_first", False):
                continue
            if hasattr(callback, "set_state") and hasattr(callback, "get_state"):
                callback.set_state(found[1])
            else:
                compat.set_callback_state(callback, found[1])


def _exact_spec(data: Source | None) -> BatchSpec | None:
    """The spec of the batches of a source of ours; `None` of another one, or where it is not known."""
    ours = (ArraySource, DatasetSource, FirstBatches)
    return getattr(data, "element_spec", None) if isinstance(data, ours) else None


def _only_dense(spec: Any) -> Any:
    """A spec that can be saved; that of a ragged or sparse tensor is only known from the data."""
    return spec if isinstance(spec, tf.TensorSpec) else None
