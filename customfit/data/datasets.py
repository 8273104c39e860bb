"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data.source import Block, Fetch, warn_of_short_epoch

MOST_ITERATORS = 200


class DatasetSource:
    """Batches of a dataset.

    Args:
        data: The dataset and how `fit` would walk through it.
        steps: Steps in an epoch, or `None` to find out in the first one.
        restarts: Whether the data can be read from its start again. A generator cannot.
        is_dataset: Whether it is a `tf.data.Dataset` of the user's. What Python code gives is found again by reading it
            all again; of a dataset, only the epoch that was cut short, and not even that where its iterator has a state
            that can be saved.
        epochs: How many epochs will be asked for.
        shuffle: Whether Keras reads the data, a `Sequence`, in a new order each epoch.
    """

    def __init__(
        self,
        data: compat.KerasData,
        steps: int | None,
        restarts: bool,
        is_dataset: bool = False,
        epochs: int = 1,
        shuffle: bool | str = False,
    ):
        self._epochs_wanted = epochs
        self._shuffle = shuffle
        self.steps = self._steps_known_at_first = steps or data.num_batches
        self._data = data
        self._is_dataset = is_dataset
        self.reads_again = not is_dataset
        self._restarts = self.restarts = restarts
        self._cardinality = compat.cardinality(data.dataset)
        self._left: int | None = 0  # batches left in the iterator; None: not known
        self._iterator: Any = None
        self._head: Any = None  # the next batch, where it has been read to see whether there is one
        self._fresh = True  # whether nothing has been read from the iterator
        self._spent = False
        self._block: Block | None = None  # the one that is being run
        self._begin = 0  # the step of the epoch with which the next blocks begin
        self._made = 0  # iterators
        self._upcoming: list = []  # iterators made already
        self._read = 0  # batches, from this iterator
        self._epochs = 0  # that have ended

    def restart(self) -> None:
        """Has the next epoch begin with the first batch of the dataset, whatever was left of the last one."""
        self._iterator = self._head = None
        self._data.on_restart()

    def has_more(self) -> bool:
        """Whether there is data for a further epoch. A generator is asked for its next batch."""
        if self._spent:
            return False
        if self._iterator is None:
            return True
        if self._restarts:
            ended = self._left == 0 and self._goes_on()
        else:
            if self._head is None:
                self._head = self._iterator.get_next_as_optional()
            ended = not self._head.has_value()
        if ended:
            warn_of_short_epoch(0, self.steps)
        return not ended

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """The next epoch's steps, in blocks of at most `size(step)` steps."""
        begin, self._begin = self._begin, 0
        if begin == 0:
            self._data.on_epoch_begin()
            if self._iterator is None or self._left == 0 or not self._data.spans_epochs:
                self._start()
        while self.steps is None or begin < self.steps:
            planned = size(begin)
            if planned == 0:
                return
            count = planned if self.steps is None else min(planned, self.steps - begin)
            may_end = self._left is None or self._left < count or self._ends_within_an_epoch
            block = Block(begin, planned, count, NextBatch(), self._iterator, may_end=may_end, head=self._head)
            self._head = None
            self._block = block
            yield block
            begin += block.done
            was_fresh = self._fresh
            self._count()
            if block.data_ended and begin == 0 and not was_fresh and self._restarts:
                self._start()  # the last epoch had the last batch
                continue
            if block.data_ended:
                self._end(begin)
                break
        self._epochs += 1
        self._data.on_epoch_end()

    def _count(self) -> None:
        """Counts the batches of the block that has been run."""
        block, self._block = self._block, None
        if block is None:
            return
        self._read += block.done
        if self._left is not None and self._cardinality != tf.data.INFINITE_CARDINALITY:
            self._left -= block.done
        if block.done:
            self._fresh = False

    @property
    def _ends_within_an_epoch(self) -> bool:
        """Whether some epoch may get less than its steps.

        Then all its blocks are of the kind that may end, as the one trace of a step is to be used for all of them.
        """
        return self._cardinality > 0 and self.steps is not None and self._cardinality % self.steps > 0

    def _goes_on(self) -> bool:
        """Whether the data is one stream through all epochs, after which training stops."""
        return self._data.spans_epochs and compat.epochs_share_iterator()

    def _start(self) -> None:
        self._fresh = True
        if self._iterator is None or self._restarts:
            self._make_iterator()
        if self._cardinality == tf.data.UNKNOWN_CARDINALITY:
            self._left = None
        else:
            self._left = 2**62 if self._cardinality == tf.data.INFINITE_CARDINALITY else self._cardinality

    def _make_iterator(self) -> None:
        self._iterator = self._upcoming.pop(0) if self._upcoming else next(self._data.iterators)
        self._made += 1
        self._read = 0

    def _end(self, seen: int) -> None:
        if seen == 0:
            raise ValueError("The data must give at least one batch an epoch. Received: none")
        if self._restarts:
            self._iterator = None
        if self.steps is None:
            self.steps = seen
            return
        self._spent = not self._restarts or compat.epochs_share_iterator()
        warn_of_short_epoch(seen, self.steps)

    # ------------------------------------------------------------------------------------------------- to resume

    @property
    def element_spec(self) -> Any:
        """The spec of a batch."""
        return self._data.dataset.element_spec

    def describe(self) -> dict:
        """What it must have in common with the source of a checkpoint."""
        return {
            "steps_per_epoch": self._steps_known_at_first,
            "batches": str(self.element_spec),
            "shuffle": self._shuffle,
        }

    def position(self) -> dict:
        """How many iterators were made and epochs have ended, and where the current one is."""
        self._count()
        names = ("_made", "_read", "_epochs", "_left", "_fresh", "_spent", "steps")
        return {**{name: getattr(self, name) for name in names}, "iterator": self._iterator is not None}

    def save_iterator(self, path: str) -> bool:
        """Writes the iterator's state where it has one that can be saved and is needed."""
        if not self._is_dataset or not isinstance(self._iterator, tf.data.Iterator) or self._left == 0:
            return False  # that of a distributed dataset has no state to be saved
        try:
            tf.train.Checkpoint(iterator=self._iterator).write(path)
        except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError):
            return False  # some op in it has a state of its own: the batches are read again, and `seek` says so
        return True

    def seek(self, position: dict, step: int, iterator_path: str | None) -> None:
        """Goes to a position: at once where the iterator's state was saved, else by reading again."""
        if not self._is_dataset:
            self._read_again(position["_epochs"], step)
            return
        for _ in range(position["_made"]):
            self._make_iterator()  # each moves the seed of a `shuffle(seed=)`
        if not position["iterator"]:
            self._iterator = None
        elif iterator_path is not None:
            # Those of later epochs are made first: where what is read ahead had come to the end of the pass, to read
            # the state moves the seed of a `shuffle(seed=)` once too often.
            self._upcoming = [next(self._data.iterators) for _ in range(self._passes_left(position["_epochs"]))]
            tf.train.Checkpoint(iterator=self._iterator).read(iterator_path).assert_consumed()
        elif step or self._data.spans_epochs:
            self._warn_of_reading(position["_read"])
            for _ in range(position["_read"]):
                next(self._iterator)
        for name in ("_read", "_epochs", "_left", "_fresh", "_spent", "steps"):
            setattr(self, name, position[name])
        self._begin = step

    def _passes_left(self, epochs: int) -> int:
        """How many iterators come after this one, as far as they can be made in advance: each takes memory."""
        if self._data.spans_epochs and compat.epochs_share_iterator():
            return 0
        left = max(0, self._epochs_wanted - epochs - 1)
        if left > MOST_ITERATORS:
            warnings.warn(
                f"The order of a dataset that shuffles itself is certain for the next {MOST_ITERATORS} epochs only. "
                f"Received: {left} epochs to go, from within one; between two, all are certain.",
                stacklevel=2,
            )
        return min(left, MOST_ITERATORS)

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`."""
        for _ in range(passes):
            self.restart()
            if self._is_dataset:
                self._make_iterator()  # which moves the seed of a `shuffle(seed=)`
            elif self._restarts:
                self._data.on_epoch_begin()
                self._data.on_epoch_end()  # in which a `Sequence` may shuffle itself
            else:
                self._read_again(1, 0)

    def _read_again(self, epochs: int, step: int) -> None:
        """Goes through past epochs as training did. Data that begins anew for each pass need not be read for that."""
        self._warn_of_reading(epochs * (self.steps or 0) + step)
        for _ in range(epochs):
            if self.has_more():
                _read_all(self.blocks(lambda _: 256))
        if step:
            self.has_more()
            _read_all(self.blocks(lambda begin: min(256, step - begin)))
            self._count()
            self._begin = step

    def _warn_of_reading(self, batches: int) -> None:
        if batches:
            warnings.warn(
                f"The data cannot be taken up where it was: {batches} batches are read again, and not trained on. What "
                "it draws from generators of its own (`tf.random.Generator`, Python functions within a "
                "`tf.data.Dataset`) then differs. A `tf.data.Dataset` without Python functions and `tf.random` ops "
                "(but `tf.random.stateless_*`) goes on at once.",
                stacklevel=2,
            )


def _read_all(blocks: Iterator[Block]) -> None:
    for block in blocks:
        while block.done < block.count and block.read() is not None:
            block.done += 1


@dataclasses.dataclass(frozen=True)
class NextBatch(Fetch):
    """The fetch of an iterator."""

    def __call__(self, feed: Any, index: Any) -> Any:
        """The next batch."""
        del index  # an iterator knows where it is
        return next(feed)

    def get_next_as_optional(self, feed: Any) -> tf.experimental.Optional:
        """The next batch, if there is one."""
        return feed.get_next_as_optional()

    def element_spec(self, feed: Any) -> Any:
        """The spec of a batch."""
        return feed.element_spec

    def stack(self, feed: Any, index: Any, count: Any, head: tf.experimental.Optional | None) -> tuple[list, Any]:
        """Up to `count` batches, one behind the other."""
        del index
        head = self.get_next_as_optional(feed) if head is None else head
        nothing = tf.experimental.Optional.empty(head.element_spec)
        specs = [spec for spec in tf.nest.flatten(head.element_spec) if spec is not None]
        arrays = [tf.TensorArray(spec.dtype, 0, True, infer_shape=False, element_shape=spec.shape) for spec in specs]

        def read(done, batch, arrays, sizes):
            leaves = [leaf for leaf in tf.nest.flatten(batch.get_value()) if leaf is not None]
            arrays = [array.write(done, leaf) for array, leaf in zip(arrays, leaves)]
            sizes = sizes.write(done, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))
            done += 1
            return done, tf.cond(done < count, lambda: self.get_next_as_optional(feed), lambda: nothing), arrays, sizes

        _, _, arrays, sizes = tf.while_loop(
            lambda done, batch, *_: batch.has_value(),
            read,
            (tf.constant(0), head, arrays, tf.TensorArray(tf.int32, 0, True)),
            parallel_iterations=1,
        )
        return [array.concat() for array in arrays], sizes.stack()


def check_dataset(dataset: tf.data.Dataset, steps: int | None, name: str = "steps_per_epoch") -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch.

    Args:
        dataset: The dataset.
        steps: Steps in an epoch.
        name: The argument that says so.
    """
    cardinality = compat.cardinality(dataset)
    if cardinality == 0:
        raise ValueError("The dataset must have at least one batch. Received: a dataset of cardinality 0")
    if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
        raise ValueError(f"`{name}` must be given for a dataset that repeats without end. Received: {name}=None")
