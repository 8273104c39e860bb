"""Options of `custom_fit` that try a training out: on few batches, or without a step."""

from __future__ import annotations

import dataclasses
from typing import Any

from customfit.arguments import is_count, listed
from customfit.compat import keras
from customfit.data import FirstBatches, Source

# What writes to the disk or over the network: not in a run that is only to show that everything works.
_SAVING = ("ModelCheckpoint", "BackupAndRestore", "CSVLogger", "TensorBoard", "RemoteMonitor")


@dataclasses.dataclass(frozen=True)
class DryRun:
    """How a training is tried out.

    Args:
        fast_dev_run: How many batches of training and of validation, in one epoch; `True` is one. Nothing is saved, and
            limits do not count.
        overfit_batches: On how many batches, the first and in order, each epoch trains: a model that works overfits.
        sanity_validation: How many batches to validate before the first epoch, so that a mistake there shows at once.

    Raises:
        ValueError: If an option is wrong, or two do not go together.
    """

    fast_dev_run: Any = False
    overfit_batches: Any = None
    sanity_validation: Any = 0

    def __post_init__(self) -> None:
        for name, least in (("overfit_batches", 1), ("sanity_validation", 0)):
            value = getattr(self, name)
            if value is not None and not is_count(value, least):
                raise ValueError(f"`{name}` must be a number of batches, {least} or more. Received: {name}={value!r}")
        if not (isinstance(self.fast_dev_run, bool) or is_count(self.fast_dev_run, 1)):
            raise ValueError(
                "`fast_dev_run` must be True, False or a positive number of batches. Received: "
                f"fast_dev_run={self.fast_dev_run!r}"
            )
        if self.fast_dev_run and self.overfit_batches:
            raise ValueError(
                "At most one of `fast_dev_run` and `overfit_batches` may be set. Received: "
                f"fast_dev_run={self.fast_dev_run}, overfit_batches={self.overfit_batches}"
            )

    @property
    def is_on(self) -> bool:
        """Whether training is on a few batches only."""
        return bool(self.fast_dev_run or self.overfit_batches)

    def check(self, checkpoint_dir: Any) -> None:
        """Refuses what would mix a try with a training that is kept."""
        if self.overfit_batches and checkpoint_dir is not None:
            raise ValueError(
                "`overfit_batches` must not be used with `checkpoint_dir`. Received: "
                f"overfit_batches={self.overfit_batches}, checkpoint_dir={checkpoint_dir!r}"
            )

    def training(self, data: Any) -> Source:
        """The data to train on."""
        if self.fast_dev_run:
            return FirstBatches(data, int(self.fast_dev_run))
        if self.overfit_batches:
            if not getattr(data, "restarts", True):
                raise ValueError(
                    "`overfit_batches` must come with data that can be read from its start again. Received: a generator"
                )
            return FirstBatches(data, int(self.overfit_batches), again=True)
        return data

    def validation(self, sources: dict[str, Source]) -> dict[str, Source]:
        """The data to validate on."""
        for name, source in sources.items():
            if self.sanity_validation and not getattr(source, "restarts", True):
                raise ValueError(
                    "`sanity_validation` must come with data that can be read from its start again. Received: a "
                    f"generator as {name}data"
                )
        if not self.fast_dev_run:
            return sources
        return {name: FirstBatches(source, int(self.fast_dev_run)) for name, source in sources.items()}

    def callbacks(self, callbacks: Any) -> Any:
        """The callbacks that may take part: all, but in `fast_dev_run` those that save."""
        if not self.fast_dev_run or callbacks is None or isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks
        saving = tuple(getattr(keras.callbacks, name) for name in _SAVING)
        return [callback for callback in listed(callbacks) if not isinstance(callback, saving)]
