"""The first batches of a source, for dry runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

from customfit.data.source import Batch, BatchSpec, Block, SingleBatch, Source, read_all


def read_first(source: Source, batches: int) -> None:
    """Reads the first batches of a pass and does nothing with them."""
    if batches:
        source.restart()
        read_all(FirstBatches(source, batches).blocks(lambda _: batches))


class FirstBatches:
    """The first few batches of each epoch of another source.

    Args:
        source: The source.
        batches: How many.
        again: Whether each epoch has the same ones, instead of those that come next.
    """

    def __init__(self, source: Source, batches: int, again: bool = False):
        self._source = source
        self._batches = batches
        self._again = again
        self._kept: list[Batch] = []
        self.steps: int | None = batches if source.steps is None else min(batches, source.steps)

    @property
    def element_spec(self) -> BatchSpec | None:
        """The spec of a batch, or `None` if the source has none."""
        return getattr(self._source, "element_spec", None)

    def restart(self) -> None:
        """Starts over: the next epoch begins with the first batch."""
        self._source.restart()

    def has_more(self) -> bool:
        """Whether there is data for a further epoch."""
        return self._again or self._source.has_more()

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """Yields the next epoch's steps, in blocks of at most `size(step)` steps."""
        first = self._source.blocks(lambda step: min(1 if self._again else size(step), max(0, self._batches - step)))
        if not self._again:
            yield from first
            return
        if not self._kept:
            for block in first:  # read once, since a source may have others next time
                self._kept += [] if (batch := block.read()) is None else [batch]
                block.done = 1
        for step, batch in enumerate(self._kept):
            if size(step) == 0:
                return
            yield Block(step, 1, 1, SingleBatch(), batch)
