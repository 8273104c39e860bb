"""`Checkpoints`: the options of `custom_fit(checkpoint=)`."""

from __future__ import annotations

import dataclasses
import os
from typing import Union

from customfit.arguments import as_count
from customfit.every import Every

Directory = Union[str, "os.PathLike[str]"]


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints are kept, how often they are made, and whether a run resumes from them.

    One directory belongs to one training run: the same call, made again after the run was cut off, resumes it.

    Args:
        directory: Where the checkpoints are. It is created if it does not exist.
        every: How often to make one: an `Every`. Defaults to `Every(epochs=1)`. One more is made when training ends,
            whatever ends it.
        keep: How many of the newest to keep, besides the best. The best is the one with the best value of what early
            stopping monitors, or else of the loss. Defaults to 3.
        resume: `"auto"` (default) resumes from the newest checkpoint if there is one, `True` requires one, `False`
            starts over.
        on_error: What to do when a checkpoint cannot be written, because the disk is full for example: `"raise"`
            (default) a `CheckpointError`, or `"warn"` and continue training.
        per_worker: Whether each worker has a directory of its own, `worker-<index>` in `directory`: for
            disks that the others do not see. Defaults to `False`: all see `directory`, and the chief writes.

    Raises:
        ValueError: If an option is wrong.

    Example:

    >>> model.custom_fit(x, y, epochs=50, checkpoint=Checkpoints("runs/a", every=Every(steps=1000), keep=5))
    """

    directory: Directory
    every: Every = Every(epochs=1)  # noqa: RUF009 (frozen: it can be shared)
    keep: int = 3
    resume: bool | str = "auto"
    on_error: str = "raise"
    per_worker: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)) or not os.fspath(self.directory):
            raise ValueError(
                f"`checkpoint` must be a directory or a `Checkpoints`. Received: checkpoint={self.directory!r}"
            )
        if not isinstance(self.every, Every):
            raise ValueError(
                f"`Checkpoints(every=)` must be an `Every`, such as `Every(steps=100)`. Received: every={self.every!r}"
            )
        object.__setattr__(self, "keep", as_count("keep", self.keep))
        if not (self.resume == "auto" or isinstance(self.resume, bool)):
            raise ValueError(f'`Checkpoints(resume=)` must be "auto", True or False. Received: resume={self.resume!r}')
        if self.on_error not in ("raise", "warn"):
            raise ValueError(
                f'`Checkpoints(on_error=)` must be "raise" or "warn". Received: on_error={self.on_error!r}'
            )
        if not isinstance(self.per_worker, bool):
            raise ValueError(
                f"`Checkpoints(per_worker=)` must be True or False. Received: per_worker={self.per_worker!r}"
            )

    @classmethod
    def of(cls, checkpoint: Directory | Checkpoints) -> Checkpoints:
        """What `custom_fit(checkpoint=)` was given, as a `Checkpoints`."""
        return checkpoint if isinstance(checkpoint, Checkpoints) else cls(checkpoint)
