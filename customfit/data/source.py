"""What the loop knows of data: a `Source` gives blocks of steps, and a block says where its batches come from."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Callable, Protocol


@dataclasses.dataclass
class Block:
    """Some steps to run one after the other.

    Attributes:
        begin: The step of the epoch with which it begins.
        planned: How many steps were asked for.
        count: How many steps it holds: fewer where the epoch ends.
        fetch: `fetch(feed, index)` gives a batch; it is traced into the graph, once for each `fetch`.
        feed: What `fetch` reads: tensors, or an iterator.
        first: The index of the first batch in `feed`.
        may_end: Whether the data may end within the block. Then `feed` is an iterator, and is asked before each step.
        done: Set by who runs it: how many steps there was data for.
    """

    begin: int
    planned: int
    count: int
    fetch: Callable[[Any, Any], Any]
    feed: Any
    first: int = 0
    may_end: bool = False
    done: int = 0

    @property
    def data_ended(self) -> bool:
        """Whether the data ended within the block, once it has been run."""
        return self.done < self.count


class Source(Protocol):
    """Batches of training or validation data."""

    steps: int | None
    """Steps in an epoch, or `None` where that is not known yet."""

    def has_more(self) -> bool:
        """Whether there is data for a further epoch; it warns where an epoch is asked for in vain."""

    def restart(self) -> None:
        """Has the next epoch begin with the first batch, whatever was left of the last one."""

    def blocks(self, size: int) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size`."""


def warn_of_short_epoch(seen: int, steps: int | None) -> None:
    """Warns that the data has ended before the epoch, as `fit` does."""
    warnings.warn(
        f"Your input ran out of data; the epoch ends after {seen} of {steps} steps. Make sure that your dataset or "
        "generator can generate at least `steps_per_epoch * epochs` batches. You may need `.repeat()`.",
        stacklevel=2,
    )
