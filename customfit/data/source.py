"""What the loop knows of data: a `Source` gives blocks of steps, and a block says where its batches come from."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Callable, Protocol

from customfit.compat import tf


class Fetch:
    """How batches come out of a feed. What it does is traced into a graph, once for each `Fetch` and kind of feed."""

    def __call__(self, feed: Any, index: Any) -> Any:
        """The batch of this index, of a feed that has one."""
        raise NotImplementedError

    def get_next_as_optional(self, feed: Any) -> Any:
        """The next batch as an `Optional`, of a feed that may end."""
        raise NotImplementedError

    def stack(self, feed: Any, index: Any, count: Any, head: Any) -> tuple[list, Any]:
        """Batches one behind the other: the rows of each leaf, and `(steps, leaves)` row counts. `head` goes first."""
        raise NotImplementedError

    def element_spec(self, feed: Any) -> Any:
        """The spec of a batch."""
        raise NotImplementedError


@dataclasses.dataclass
class Block:
    """Some steps to run one after the other.

    Attributes:
        begin: The step of the epoch with which it begins.
        planned: How many steps were asked for.
        count: How many steps it holds: fewer where the epoch ends.
        fetch: Gives a batch of the feed.
        feed: What `fetch` reads: tensors, or an iterator.
        first: The index of the first batch in `feed`.
        may_end: Whether the data may end within the block.
        head: The first batch as an `Optional`, where it has been read already.
        done: Set by who runs it: how many steps there was data for.
    """

    begin: int
    planned: int
    count: int
    fetch: Fetch
    feed: Any
    first: int = 0
    may_end: bool = False
    head: Any = None
    done: int = 0

    @property
    def data_ended(self) -> bool:
        """Whether the data ended within the block, once it has been run."""
        return self.done < self.count

    def get_next_as_optional(self) -> Any:
        """The next batch of data that may end, as an `Optional`."""
        head, self.head = self.head, None
        return self.fetch.get_next_as_optional(self.feed) if head is None else head

    def read(self) -> Any:
        """The batch of step `done`, or `None` where the data has ended."""
        if not self.may_end:
            return self.fetch(self.feed, self.first + self.done)
        batch = self.get_next_as_optional()
        return batch.get_value() if batch.has_value() else None


@dataclasses.dataclass(frozen=True)
class SingleBatch(Fetch):
    """The fetch of a feed that is one batch."""

    def __call__(self, feed: Any, index: Any) -> Any:
        """The batch."""
        del index
        return feed

    def element_spec(self, feed: Any) -> Any:
        """The spec of the batch."""
        return tf.nest.map_structure(lambda leaf: None if leaf is None else tf.type_spec_from_value(leaf), feed)


class Source(Protocol):
    """Batches of training or validation data.

    Where a run is to go on from a checkpoint, a source also has what `ResumableSource` has.
    """

    steps: int | None
    """Steps in an epoch, or `None` where that is not known yet."""

    def has_more(self) -> bool:
        """Whether there is data for a further epoch; it warns where an epoch is asked for in vain."""

    def restart(self) -> None:
        """Has the next epoch begin with the first batch, whatever was left of the last one."""

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """The next epoch's steps, in blocks. `size(step)` says how many at most go into the one that begins there.

        0 ends the epoch.
        """


class ResumableSource(Source, Protocol):
    """A source whose position can be found again."""

    @property
    def element_spec(self) -> Any:
        """The spec of a batch."""

    def describe(self) -> dict:
        """What it must have in common with the source of a checkpoint, as JSON can hold it."""

    def position(self) -> dict:
        """Where it is, between two blocks or two epochs, as JSON can hold it."""

    def save_iterator(self, path: str) -> bool:
        """Writes what `position` cannot hold, as a TensorFlow checkpoint. Returns whether there was anything."""

    def seek(self, position: dict, step: int, iterator_path: str | None) -> None:
        """Goes to a position, from the start.

        Args:
            position: What `position` gave.
            step: The step of the epoch that comes next there: that with which the next `blocks` begin.
            iterator_path: What `save_iterator` wrote, or `None`.
        """

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`: what validation does."""


def warn_of_short_epoch(seen: int, steps: int | None) -> None:
    """Warns that the data has ended before the epoch, as `fit` does."""
    warnings.warn(
        f"Your input ran out of data; the epoch ends after {seen} of {steps} steps. Make sure that your dataset or "
        "generator can generate at least `steps_per_epoch * epochs` batches. You may need `.repeat()`.",
        stacklevel=2,
    )
