"""`DryRun`: a training run that is tried out on few batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Union

from customfit.arguments import as_count, is_count, listed
from customfit.compat import CallbackLike, keras
from customfit.data import FirstBatches, Source

Callbacks = Union[CallbackLike, Sequence[CallbackLike], None]

# What writes to the disk or over the network, which a run that only shows that everything works must not do.
_SAVING = ("ModelCheckpoint", "BackupAndRestore", "CSVLogger", "TensorBoard", "RemoteMonitor")


@dataclasses.dataclass(frozen=True)
class DryRun:
    """How a training run is tried out: `custom_fit(dry_run=DryRun(...))`.

    `custom_fit(dry_run=True)` is `DryRun(batches=1)`, `dry_run=5` is `DryRun(batches=5)`.

    Args:
        batches: Tries everything on so many batches of training and of validation data, in one epoch. Nothing is saved,
            neither checkpoints nor by Keras's callbacks, and limits do not count. Defaults to `None`: a full run.
        overfit_batches: Trains on the first so many batches, unshuffled, in each epoch. A model that can learn overfits
            them. Defaults to `None`.
        sanity_validation: Validates so many batches before the first epoch, so that a mistake there shows at once. It
            leaves no trace in logs and callbacks. A `tf.data.Dataset` that shuffles itself has shuffled once more.
            Defaults to 0.

    Raises:
        ValueError: If an option is wrong, or two exclude each other.
    """

    batches: int | None = None
    overfit_batches: int | None = None
    sanity_validation: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batches", 1), ("overfit_batches", 1), ("sanity_validation", 0)):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_count(name, value, least))
        if self.batches and self.overfit_batches:
            raise ValueError(
                "`DryRun` takes at most one of `batches` and `overfit_batches`. Received: "
                f"batches={self.batches}, overfit_batches={self.overfit_batches}"
            )

    @classmethod
    def of(cls, dry_run: bool | int | DryRun) -> DryRun:
        """What `custom_fit(dry_run=)` was given, as a `DryRun`."""
        if isinstance(dry_run, DryRun):
            return dry_run
        if dry_run is None or isinstance(dry_run, bool):
            return cls(batches=1 if dry_run else None)
        if is_count(dry_run, 1):
            return cls(batches=dry_run)
        raise ValueError(
            f"`dry_run` must be True, False, a positive number of batches or a `DryRun`. Received: dry_run={dry_run!r}"
        )

    @property
    def is_full(self) -> bool:
        """Whether the run saves, obeys limits and has all its epochs. It does unless `batches` are tried out."""
        return self.batches is None

    def training(self, data: Source) -> Source:
        """The data to train on."""
        if self.batches:
            return FirstBatches(data, self.batches)
        if self.overfit_batches:
            if not getattr(data, "restarts", True):
                raise ValueError(
                    "`overfit_batches` needs data that can be read again from its start. Received: a generator"
                )
            return FirstBatches(data, self.overfit_batches, again=True)
        return data

    def validation(self, sources: dict[str, Source]) -> dict[str, Source]:
        """The data to validate on."""
        for name, source in sources.items():
            if self.sanity_validation and not getattr(source, "restarts", True):
                raise ValueError(
                    "`sanity_validation` needs data that can be read again from its start. Received: a "
                    f"generator as {name}data"
                )
        if not self.batches:
            return sources
        return {name: FirstBatches(source, self.batches) for name, source in sources.items()}

    def callbacks(self, callbacks: Callbacks) -> Callbacks:
        """The callbacks that take part: all of them, but with `batches` none of Keras's that save."""
        if not self.batches or callbacks is None or isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks
        saving = tuple(getattr(keras.callbacks, name) for name in _SAVING)
        return [callback for callback in listed(callbacks) if not isinstance(callback, saving)]
