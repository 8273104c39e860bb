"""`check_resume`: a run that is killed at any moment and started again ends as if it had been left alone."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import numpy as np

from customfit.checkpoint import variables_of
from customfit.serialization import pack, read_tensors, unpack, write_tensors
from customfit.training import session_observers

MOMENTS = ("step", "writing", "pruning", "validating")
_CHILD = "import sys; from customfit.testing.resume import child; child(*sys.argv[1:])"


@dataclasses.dataclass(frozen=True)
class ResumeReport:
    """What `check_resume` found. It is true if everything is equal, and prints as a sentence.

    Attributes:
        equal: Whether all variables and the History are equal to the bit.
        message: What differs, first and by how much; or how the kills went.
        kills: How the run was killed: `(step, moment)`, with the moments "step", "writing", "pruning" and "validating".
        variable: The first variable that differs, or `None`.
    """

    equal: bool
    message: str
    kills: tuple = ()
    variable: str | None = None

    def __bool__(self) -> bool:
        return self.equal

    def __repr__(self) -> str:  # what pytest shows of `assert check_resume(...)`
        return f"ResumeReport({self.message})"


def check_resume(
    train_fn: Callable[[str], Any],
    *,
    kill_at: Any = None,
    kills: int = 3,
    seed: int = 0,
    timeout: float = 600.0,
    environment: dict | None = None,
) -> ResumeReport:
    """Kills a run with SIGKILL, starts it again until it ends, and compares it with one that was left alone.

    Each run is a process of its own. A kill comes after a step, while a checkpoint is being written, when it has its
    name and older ones are about to be removed, or within validation.

    Args:
        train_fn: Trains and returns `(model, history)`. It is given the directory to pass on as `checkpoint`. A
            function of a module or script, since another process has to find it by its name.
        kill_at: The steps after which to kill, ascending, or tuples `(step, moment)`. The moments are "step", "writing"
            and "pruning" (of checkpoints), and "validating". Defaults to `None`: at random.
        kills: How many times to kill at random. Defaults to 3.
        seed: The seed that random steps are drawn by.
        timeout: Seconds after which a process counts as hung.
        environment: Environment variables of the processes, besides this one's.

    Returns:
        A `ResumeReport`, which is true if every variable and the History are equal to the bit.

    Raises:
        RuntimeError: If the run fails by itself, or never takes a step.

    Example:

    ```python
    def train(checkpoint):
        keras.utils.set_random_seed(1)
        model = build_my_model()
        return model, model.custom_fit(x, y, epochs=3, checkpoint=Checkpoints(checkpoint, every=Every(steps=10)))


    def test_it_can_be_killed():
        assert check_resume(train)
    ```
    """
    where = _where(train_fn)
    chosen = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        run = functools.partial(_run, where, timeout=timeout, environment=environment or {})
        alone = _Result.read(run(Path(folder, "alone"), Path(folder, "alone-result")))
        steps = alone.steps
        if steps == 0:
            raise RuntimeError("`train_fn` must train at least one step with `custom_fit` or `TrainingSession`")
        if kill_at is None:
            plan = sorted((chosen.randint(1, steps), chosen.choice(MOMENTS)) for _ in range(kills))
            plan = [
                (step, "step" if moment == "validating" and step > alone.validated else moment) for step, moment in plan
            ]
        else:
            plan = [kill if isinstance(kill, tuple) else (int(kill), "step") for kill in kill_at]
        done = []
        for step, moment in plan:
            if run(Path(folder, "killed"), Path(folder, "result"), kill=(step, moment)) is None:
                done.append((step, moment))
        if not done:
            raise ValueError(
                "`kill_at` must name steps that there are, and checkpoints must be made. Received: "
                f"{plan}, of {steps} steps"
            )
        killed = _Result.read(run(Path(folder, "killed"), Path(folder, "result")))
    variable, difference = alone.difference(killed)
    if difference is not None:
        at = ", ".join(f"{moment} {step}" for step, moment in done)
        return ResumeReport(False, f"killed {len(done)} times (at {at}), {difference}", tuple(done), variable)
    return ResumeReport(True, f"killed {len(done)} times in {steps} steps, all is equal", tuple(done))


# ------------------------------------------------------------------------------------------------ the other process


def child(path: str, name: str, checkpoint: str, result: str, kill_step: str = "0", kill_moment: str = "step") -> None:
    """The process of `check_resume`: trains, then kills itself or writes the result."""
    train_fn = _find(path, name)
    killer = _Killer(int(kill_step), kill_moment)
    session_observers.append(killer)
    model, history = train_fn(checkpoint)
    tensors: dict[str, Any] = {f"variable/{name}": variable for name, variable in variables_of(model).items()}
    logs = {"epoch": history.epoch, **history.history, "validation": getattr(history, "validation", [])}
    record = {"logs": pack(logs, "logs", tensors), "names": list(variables_of(model)), **killer.seen}
    write_tensors(Path(result + ".tensors"), tensors)
    Path(result).write_text(json.dumps(record))


class _Killer:
    """Kills its process at a moment after a step; counts the steps, all and validated.

    Args:
        step: After which step; 0: never.
        moment: At which of `MOMENTS`.
    """

    def __init__(self, step: int, moment: str):
        self._step = step
        self._moment = moment
        self.seen = {"steps": 0, "validated": 0}

    def steps_until_due(self, total_steps: int) -> float:
        """A block ends at the step after which to kill."""
        left = self._step - total_steps
        return left if left > 0 else math.inf

    def on_moment(self, moment: str, total_steps: int) -> None:
        """Notes how far training is, and kills the process if this is the moment."""
        self.seen["steps"] = max(self.seen["steps"], total_steps)
        if moment == "validating":
            self.seen["validated"] = total_steps
        if self._step and moment == self._moment and total_steps >= self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def _where(train_fn: Callable) -> tuple[str, str]:
    path, name = sys.modules[train_fn.__module__].__file__, train_fn.__qualname__
    if path is None or "<" in name:
        raise ValueError(f"`train_fn` must be a function of a module or script. Received: {train_fn!r}")
    return (train_fn.__module__ if train_fn.__module__ != "__main__" else os.path.abspath(path)), name


def _find(path: str, name: str) -> Callable:
    if path.endswith(".py"):
        spec = importlib.util.spec_from_file_location("script", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(path)
    return functools.reduce(getattr, name.split("."), module)  # type: ignore[return-value, arg-type]


def _run(
    where: tuple[str, str],
    checkpoint: Path,
    result: Path,
    *,
    kill: tuple[int, str] | None = None,
    timeout: float,
    environment: dict,
) -> Path | None:
    """Starts a process. Returns where its result is, or `None` if it was killed as it should be."""
    arguments = [*where, str(checkpoint), str(result), *(str(each) for each in kill or ())]
    search = os.pathsep.join(path or os.getcwd() for path in sys.path)
    process = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        env={**os.environ, "PYTHONPATH": search, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if kill is not None and process.returncode == -signal.SIGKILL:
        return None
    if process.returncode != 0:
        raise RuntimeError(f"`train_fn` failed with exit code {process.returncode}:\n{process.stderr[-4000:]}")
    return result


@dataclasses.dataclass
class _Result:
    """The result of a run."""

    variables: dict
    logs: dict
    steps: int
    validated: int

    @classmethod
    def read(cls, path: Path | None) -> _Result:
        assert path is not None
        record = json.loads(path.read_text())
        tensors = read_tensors(Path(f"{path}.tensors"))
        return cls(
            {name: tensors[f"variable/{name}"] for name in record["names"]},
            unpack(record["logs"], tensors),
            record["steps"],
            record["validated"],
        )

    def difference(self, other: _Result) -> tuple[str | None, str | None]:
        """The first thing that differs: a variable's name, if it is one, and words."""
        for name, alone in self.variables.items():
            killed = other.variables.get(name)
            if name.startswith("metric/"):
                continue  # the state of the last pass, which nothing continues from
            if killed is None or (killed.shape, killed.dtype) != (alone.shape, alone.dtype):
                return name, f"{name} is missing, or of another shape or dtype"
            if killed.tobytes() != alone.tobytes():
                largest = np.max(np.abs(killed.astype("float64") - alone.astype("float64")))
                return name, f"{name} differs by up to {largest:.3g}"
        more = [name for name in other.variables if name not in self.variables and not name.startswith("metric/")]
        if more:
            return more[0], f"{more[0]} is there only in the one that was killed"
        for name in [*self.logs, *(name for name in other.logs if name not in self.logs)]:
            values = self.logs.get(name)
            if repr(other.logs.get(name)) != repr(values):
                return None, f"History has {name!r} as {other.logs.get(name)}, not {values}"
        return None, None
