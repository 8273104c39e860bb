"""What the loop knows of data: a `Source` gives blocks of steps, and a block says where its batches come from."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Protocol

from customfit.compat import tf

Batch = Any  # `x`, `(x, y)` or `(x, y, sample_weight)`: a tensor, or nested tuples, lists and dicts of tensors
BatchSpec = Any  # the same structure, with a `tf.TypeSpec` for each tensor
Feed = Any  # tensors, or an iterator

_MEMBERS = ("steps", "has_more", "restart", "blocks")
_MEMBERS_TO_RESUME = ("element_spec", "describe", "position", "save_iterator", "seek")


def get_batch(batch: tf.experimental.Optional) -> Batch:
    """Returns the batch of an `Optional` that has one."""
    return inputs_left_out_as_none(batch.get_value())


def inputs_left_out_as_none(batch: Batch) -> Batch:
    """Puts `None` for an optional input that a batch, or its spec, leaves out.

    A dataset made of Python code cannot hold `None`. There, Keras puts an `Optional`, as `fit` has it since Keras 3.13.
    """
    left_out = (tf.experimental.Optional, tf.OptionalSpec)
    return tf.nest.map_structure(lambda leaf: None if isinstance(leaf, left_out) else leaf, batch)


class Fetch:
    """How batches come out of a feed. What it does is traced into a graph, once for each `Fetch` and kind of feed."""

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the batch of this index, of a feed that has one."""
        raise NotImplementedError

    def get_next_as_optional(self, feed: Feed) -> tf.experimental.Optional:
        """Returns the next batch, if there is one, of a feed that may end."""
        raise NotImplementedError

    def stack(
        self, feed: Feed, index: tf.Tensor, count: tf.Tensor, head: tf.experimental.Optional | None
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns batches one behind the other: the rows of each leaf, and `(steps, leaves)` row counts.

        Args:
            feed: The feed.
            index: The index of the first batch.
            count: How many batches.
            head: The first batch, if it has been read already.
        """
        raise NotImplementedError

    def full_batches(self, feed: Feed) -> tuple[Fetch, int] | None:
        """Returns a fetch whose batches have one static shape, and how many of the feed's first batches it has.

        `None`, as here, where batches may have any shape.

        Args:
            feed: The feed.
        """
        del feed
        return None

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of a batch."""
        raise NotImplementedError


@dataclasses.dataclass
class Block:
    """Some steps to run one after the other.

    Attributes:
        begin: The step of the epoch with which it begins.
        planned: How many steps were asked for.
        count: How many steps it holds: fewer if the epoch ends.
        fetch: Gives a batch of the feed.
        feed: What `fetch` reads: tensors, or an iterator.
        first: The index of the first batch in `feed`.
        may_end: Whether the data may end within the block.
        head: The first batch as an `Optional`, if it has been read already.
        done: Set by whoever runs the block: how many steps there was data for.
    """

    begin: int
    planned: int
    count: int
    fetch: Fetch
    feed: Feed
    first: int = 0
    may_end: bool = False
    head: tf.experimental.Optional | None = None
    done: int = 0

    @property
    def data_ended(self) -> bool:
        """Whether the data ended within the block, once it has been run."""
        return self.done < self.count

    def get_next_as_optional(self) -> tf.experimental.Optional:
        """Returns the next batch, if there is one, of data that may end."""
        head, self.head = self.head, None
        return self.fetch.get_next_as_optional(self.feed) if head is None else head

    def read(self) -> Batch | None:
        """Returns the batch of step `done`, or `None` if the data has ended."""
        if not self.may_end:
            return self.fetch(self.feed, self.first + self.done)
        batch = self.get_next_as_optional()
        return get_batch(batch) if batch.has_value() else None


@dataclasses.dataclass(frozen=True)
class SingleBatch(Fetch):
    """The fetch of a feed that is one batch."""

    def __call__(self, feed: Feed, index: int | tf.Tensor) -> Batch:
        """Returns the batch."""
        del index
        return feed

    def element_spec(self, feed: Feed) -> BatchSpec:
        """Returns the spec of the batch."""
        return tf.nest.map_structure(lambda leaf: None if leaf is None else tf.type_spec_from_value(leaf), feed)


class Source(Protocol):
    """Batches of training or validation data: what `custom_fit(x=, validation_data=)` accepts beside data itself.

    A class of your own needs these four members. A source that `custom_fit(checkpoint=)` can resume also has those of
    `ResumableSource`.

    Example:

    ```python
    class Curriculum:
        steps = 100

        def __init__(self):
            self.level = 0

        def restart(self):
            self.level = 0

        def has_more(self):
            return True

        def blocks(self, size):
            for step in range(self.steps):
                if size(step) == 0:
                    return
                yield Block(step, 1, 1, SingleBatch(), make_batch(self.level))
            self.level += 1


    model.custom_fit(Curriculum(), epochs=10)
    ```
    """

    @property
    def steps(self) -> int | None:
        """Steps in an epoch, or `None` if that is not known yet. A plain attribute will do."""

    def has_more(self) -> bool:
        """Whether there is data for a further epoch. Warns if an epoch is asked for and there is none."""

    def restart(self) -> None:
        """Starts over: the next epoch begins with the first batch. Called before training and each validation pass."""

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """Yields the next epoch's steps, in blocks.

        Args:
            size: `size(step)` says how many steps the block that begins at `step` may hold. 0 ends the epoch.
        """


class ResumableSource(Source, Protocol):
    """A source whose position can be restored from a checkpoint.

    A source of validation data needs `skip_passes` for that and nothing else.
    """

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""

    def describe(self) -> Mapping[str, object]:
        """Returns what it must have in common with the source of a checkpoint, as JSON can hold it."""

    def position(self) -> Mapping[str, object]:
        """Returns where it is, between two blocks or two epochs, as JSON can hold it."""

    def save_iterator(self, path: str) -> bool:
        """Writes what `position` cannot hold, as a TensorFlow checkpoint. Returns whether there was anything."""

    def seek(self, position: Mapping[str, Any], step: int, iterator_path: str | None) -> None:
        """Goes to a position, from the start.

        Args:
            position: What `position` returned.
            step: The step of the epoch that comes next: that with which the next `blocks` begin.
            iterator_path: What `save_iterator` wrote, or `None`.
        """

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`, as validation does."""


def read_all(blocks: Iterator[Block]) -> None:
    """Reads all batches of blocks, and does nothing with them."""
    for block in blocks:
        while block.done < block.count and block.read() is not None:
            block.done += 1


def is_source(data: object) -> bool:
    """Whether the data is a `Source`.

    Raises:
        ValueError: If it has a method `blocks` and lacks another member of a source.
    """
    if not callable(getattr(data, "blocks", None)):
        return False
    _check_members(data, _MEMBERS, "A `Source` must have")
    return True


def check_resumable(name: str, source: Source, members: tuple[str, ...] = _MEMBERS_TO_RESUME) -> None:
    """Refuses a source whose position cannot be restored.

    Args:
        name: The argument that the source was given as.
        source: The source.
        members: What it must have.

    Raises:
        ValueError: If it lacks one of them.
    """
    _check_members(
        source, members, f"With `checkpoint`, the `Source` given as `{name}` must be a `ResumableSource`, with"
    )


def _check_members(data: object, members: tuple[str, ...], must: str) -> None:
    missing = [name for name in members if not hasattr(data, name)]
    if missing:
        lacks = ", ".join(f"`{name}`" for name in missing)
        raise ValueError(
            f"{must} {', '.join(f'`{name}`' for name in members)}; see `customfit.data`. Received: a "
            f"{type(data).__name__} without {lacks}"
        )


def warn_of_short_epoch(seen: int, steps: int | None) -> None:
    """Warns that the data has ended before the epoch, as `fit` does."""
    of = "" if steps is None else f" of {steps}"
    warnings.warn(
        f"Your input ran out of data; the epoch ends after {seen}{of} steps. Make sure that your dataset or generator "
        "can generate at least `steps_per_epoch * epochs` batches. You may need `.repeat()`.",
        stacklevel=2,
    )
