"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset.

A *run* is a call of `custom_fit` or a pass over validation data: `restart` begins it. A *pass* is one iterator, from
the first batch to the last. An *epoch* is what `blocks` yields: a pass, or `steps_per_epoch` batches of one, in which
case the next epoch continues the pass. `compat.KerasData` says how the generations of Keras differ in that.

Iterators are made exactly when `fit` makes them, the ones that it never reads included. Each advances the seed of a
`shuffle(seed=)` that is somewhere in the dataset, or in another dataset that shares it, and so decides the order of
every later pass: in this epoch's validation, in the next epoch, in the next call.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data.iterators import Iterators, NextBatch
from customfit.data.source import BatchSpec, Block, warn_of_short_epoch

_SAVED = ("_read", "_epochs", "_count", "_spent", "_has_had_data", "steps")


class DatasetSource:
    """Batches of a dataset.

    Args:
        data: The dataset, and how `fit` iterates over it.
        steps: Steps in an epoch. Defaults to those of a pass, which are counted in the first one if they are not known.
        restarts: Whether the data can be read from its start again. A generator cannot.
        is_dataset: Whether it is a `tf.data.Dataset` of the user's, whose iterators may have a state to save. Anything
            else is Python code, whose position is restored by reading all of it again.
        epochs: How many epochs will be asked for.
        shuffle: Whether Keras reads the data, a `Sequence`, in a new order each epoch.
        continues: Whether a run continues the pass that the last one left.
        must_have_data: Whether it is an error, and not only a warning, if there is no batch at all.
    """

    def __init__(
        self,
        data: compat.KerasData,
        steps: int | None,
        *,
        restarts: bool,
        is_dataset: bool = False,
        epochs: int = 1,
        shuffle: bool | str = False,
        continues: bool = False,
        must_have_data: bool = True,
    ):
        self._data = data
        self._asked = steps
        self._count = data.count_batches()  # in a pass, as `fit` counts them
        self.steps = self._steps_at_first = steps or self._count
        self._is_dataset = is_dataset
        self.reads_again = not is_dataset
        self.restarts = restarts
        self._epochs_wanted = epochs
        self._shuffle = shuffle
        self._continues = continues
        self._must_have_data = must_have_data
        self._size = _batches_in(data.dataset)  # in a pass, for certain
        self._iterators = Iterators(data.new_iterator)
        self._iterator: Any = None  # of the current pass
        self._read = 0  # batches of it
        self._head: tf.experimental.Optional | None = None  # its next batch, if it has been read already
        self._block: Block | None = None  # that is being run
        self._begin = 0  # the step of the epoch with which the next blocks begin
        self._begins_run = True
        self._is_prepared = False  # the next epoch
        self._owes_end = False  # of the last epoch to the data: it is told when the next one is prepared
        self._epochs = 0  # that have ended
        self._has_had_data = False
        self._spent = False  # there is no data for a further epoch
        self._has_warned = False

    def restart(self) -> None:
        """Begins a run: the next epoch starts with the first batch of the dataset."""
        if self._continues and self._iterator is not None:
            return
        self._iterator = self._head = None
        self._begins_run, self._is_prepared, self._owes_end = True, False, False
        self._spent = self._spent and not self.restarts
        if self._data.recounts == "run" or self._iterators.made == 0:
            self._set_count(self._data.count_batches())
        self._data.on_run_begin()

    def has_more(self) -> bool:
        """Whether there is data for a further epoch. A generator is asked for its next batch."""
        self._count_block()  # of an epoch that was left
        if self._spent:
            return False
        ended = self._iterator is not None and self._has_ended()
        if ended:
            warn_of_short_epoch(0, self.steps)
        elif self._data.wraps_epochs and not self._is_prepared:
            self._prepare_epoch()
        return not ended

    def _has_ended(self) -> bool:
        """Whether the current pass has no further batch, and no other one follows."""
        if not self.restarts or (self._is_one_stream and self._is_dataset and self._size is None):
            if self._head is None:
                self._head = self._iterator.get_next_as_optional()
            return not self._head.has_value()
        return self._is_one_stream and self._read == self._size

    def blocks(self, size: Callable[[int], int]) -> Iterator[Block]:
        """Yields the next epoch's steps, in blocks of at most `size(step)` steps."""
        self._count_block()  # of an epoch that was left
        begin, self._begin = self._begin, 0
        if begin == 0:
            self._begin_epoch()
        while (left := self._steps_left(begin)) > 0:
            planned = size(begin)
            if planned == 0:
                return
            count = int(min(planned, left))
            block = Block(begin, planned, count, NextBatch(), self._iterator, head=self._head)
            block.may_end = self._may_end(count)
            self._head, self._block = None, block
            begins_pass = self._read == 0
            yield block
            self._count_block()
            begin += block.done
            if block.data_ended and begin == 0 and not begins_pass and self.restarts:
                self._begin_pass()  # the last epoch had the last batch
            elif block.data_ended:
                self._end_data(begin)
                break
        self._end_epoch(begin)

    # ---------------------------------------------------------------------------------------- epochs and passes

    def _prepare_epoch(self) -> None:
        """Makes the iterator of the next epoch, and others that `fit` makes before it."""
        if self._owes_end:
            self._data.on_epoch_end()
        if self._begins_run and self._data.unused_first:
            self._iterators.make()
        if self._data.recounts == "epoch":
            self._set_count(self._data.count_batches() or self._count)
        if self._iterator is None or (self.restarts and (not self._data.spans_epochs or self._read == self._size)):
            self._begin_pass()
        self._begins_run, self._is_prepared, self._owes_end = False, True, False

    def _begin_epoch(self) -> None:
        self._data.on_epoch_begin()
        if not self._is_prepared:
            self._prepare_epoch()
        self._is_prepared = False
        if self._asked is None and self._count is not None:
            self._warn_if_longer(self._data.count_batches() or 0)

    def _begin_pass(self) -> None:
        self._iterator = self._iterators.make()
        self._read = 0

    def _steps_left(self, begin: int) -> float:
        """How many steps the epoch may still have. Warns if it gets less than `steps_per_epoch`."""
        most = self._asked or self._count
        left = math.inf if most is None else most - begin
        if self._data.renews_at_end and self._count is not None and left > self._count - self._read:
            left = self._count - self._read
            if left == 0:
                warn_of_short_epoch(begin, most)
        return left

    def _may_end(self, count: int) -> bool:
        """Whether the data may end within a block of so many steps.

        If an epoch may get less than its steps, then all blocks are of the kind that may end: the one trace of a step
        must serve all of them.
        """
        if self._size is None or self._size - self._read < count:
            return True
        if self._asked is None or self._data.renews_at_end:
            return False
        return self._size != math.inf and self._size % self._asked > 0

    def _count_block(self) -> None:
        """Counts the batches of the block that has been run."""
        block, self._block = self._block, None
        if block is not None:
            self._read += block.done
            self._has_had_data = self._has_had_data or block.done > 0

    def _end_data(self, seen: int) -> None:
        """Records that the pass has ended, in the middle of an epoch or where its number of batches was not known."""
        if not self._has_had_data and self._must_have_data:
            raise ValueError("The data must give at least one batch an epoch. Received: none")
        read, self._read = self._read, 0
        if self.restarts:
            self._iterator = None
        if not self._has_had_data:
            warn_of_short_epoch(0, self.steps)
            return
        if self._count is None and (self._asked is None or self._data.renews_at_end):
            self._count = self._data.most_after(read)
            if self._asked is None:
                self.steps = seen
                return
        elif self._asked is None and self._data.count_batches() is None and not self._data.ends_training:
            self.steps = seen
            return
        self._spent = not self.restarts or self._data.ends_training
        warn_of_short_epoch(seen, self.steps)

    def _end_epoch(self, seen: int) -> None:
        self._epochs += 1
        if self._asked is None and self._size is None and self._iterator is not None and seen == self._count:
            self._warn_if_more()
        if self._data.renews_at_end and self._count is not None and self._read >= self._count:
            self._begin_pass()
        self._owes_end = self._data.wraps_epochs and self._epochs < self._epochs_wanted
        if not self._owes_end:
            self._data.on_epoch_end()

    @property
    def _is_one_stream(self) -> bool:
        """Whether all epochs read one pass, after which training stops."""
        return self._data.spans_epochs and self._data.ends_training

    def _set_count(self, count: int | None) -> None:
        self._count = count
        self.steps = self._asked or count or self.steps

    def _warn_if_more(self) -> None:
        """Warns if `fit` would leave out batches of a pass that is longer than earlier ones, whose end it counted.

        It can only be seen by reading one of them. So that no later epoch differs by that, the last one is looked at.
        """
        is_last = self._epochs >= self._epochs_wanted and self.restarts
        is_open = is_last and self._data.count_batches() is None and not self._has_warned
        if is_open and self._iterator.get_next_as_optional().has_value():
            self._warn_if_longer(math.inf)

    def _warn_if_longer(self, batches: float) -> None:
        if self._count is None or batches <= self._count or self._has_warned:
            return
        self._has_warned = True
        has = f"now has {batches} batches" if batches < math.inf else "now has more batches"
        warnings.warn(
            f"The data {has}, and an epoch reads only {self._count}: they are counted once, as in `fit` of this Keras. "
            "Pass `steps_per_epoch` or `validation_steps`, or train each length with a call of its own.",
            stacklevel=2,
        )

    # ------------------------------------------------------------------------------------------------- to resume

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""
        return self._data.dataset.element_spec

    def describe(self) -> dict[str, object]:
        """Returns what it must have in common with the source of a checkpoint."""
        return {
            "steps_per_epoch": self._steps_at_first,
            "batches": str(self.element_spec),
            "shuffle": self._shuffle,
        }

    def position(self) -> dict[str, Any]:
        """Returns how many iterators were made, how many epochs have ended, and where the current pass is."""
        self._count_block()
        state = {name: getattr(self, name) for name in _SAVED}
        return {**state, "made": self._iterators.made, "in_pass": self._iterator is not None}

    def save_iterator(self, path: str) -> bool:
        """Writes the iterator's state if it has one that can be saved and is needed."""
        self._count_block()
        is_needed = self._is_dataset and self._read not in (0, self._size)
        if not is_needed or not isinstance(self._iterator, tf.data.Iterator):
            return False  # that of a distributed dataset has no state to save
        try:
            tf.train.Checkpoint(iterator=self._iterator).write(path)
        except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError):
            return False  # some op in it has a state of its own: the batches are read again, and `seek` says so
        return True

    def seek(self, position: Mapping[str, Any], step: int, iterator_path: str | None) -> None:
        """Goes to a position: at once if the iterator's state was saved, else by reading again."""
        if not self._is_dataset:
            self._read_again(position["_epochs"], step)
            return
        for _ in range(position["made"]):
            self._iterator = self._iterators.make()
        if not position["in_pass"]:
            self._iterator = None
        for name in _SAVED:
            setattr(self, name, position[name])
        self._begin, self._begins_run = step, position["made"] == 0
        if iterator_path is not None:
            # Those of later epochs are made first: if what is read ahead had come to the end of the pass, to restore
            # the state advances the seed of a `shuffle(seed=)` once too often.
            self._iterators.make_ahead(self._iterators_left())
            tf.train.Checkpoint(iterator=self._iterator).read(iterator_path).assert_consumed()
        elif self._iterator is not None and self._read not in (0, self._size) and (step or self._data.spans_epochs):
            _warn_of_reading(self._read)
            for _ in range(self._read):
                next(self._iterator)

    def _iterators_left(self) -> int:
        """How many iterators are made after this one."""
        if self._is_one_stream:
            return 0
        epochs = max(0, self._epochs_wanted - self._epochs - 1)
        renews = self._data.renews_at_end and self._count is not None
        if self._data.spans_epochs:
            return epochs + renews
        return 2 * epochs + 1 if renews else epochs

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`."""
        for _ in range(passes):
            self.restart()
            if self._continues or not (self._is_dataset or self.restarts):
                self._read_again(1, 0)
            elif self._is_dataset:
                self._begin_epoch()
                if self._data.renews_at_end and self._count is not None and self._steps_left(0) == self._count:
                    self._iterators.make()
            else:
                self._data.on_epoch_begin()
                self._data.on_epoch_end()  # in which a `Sequence` may shuffle itself

    def _read_again(self, epochs: int, step: int) -> None:
        """Goes through past epochs as training did. Data that starts over in each pass need not be read for that."""
        _warn_of_reading(epochs * (self.steps or 0) + step)
        for _ in range(epochs):
            if self.has_more():
                _read_all(self.blocks(lambda _: 256))
        if step:
            self.has_more()
            _read_all(self.blocks(lambda begin: min(256, step - begin)))
            self._count_block()
            self._begin = step


def _warn_of_reading(batches: int) -> None:
    if batches:
        warnings.warn(
            f"The position of the data cannot be restored: {batches} batches are read again, and not trained on. What "
            "the data draws from generators of its own (`tf.random.Generator`, Python functions within a "
            "`tf.data.Dataset`) then differs. A `tf.data.Dataset` without Python functions and `tf.random` ops (but "
            "`tf.random.stateless_*`) continues at once.",
            stacklevel=3,
        )


def _read_all(blocks: Iterator[Block]) -> None:
    for block in blocks:
        while block.done < block.count and block.read() is not None:
            block.done += 1


def _batches_in(dataset: tf.data.Dataset) -> float | None:
    """The number of batches, infinite for a dataset that repeats without end; `None` if it is not known."""
    cardinality = compat.cardinality(dataset)
    if cardinality == tf.data.INFINITE_CARDINALITY:
        return math.inf
    return None if cardinality == tf.data.UNKNOWN_CARDINALITY else cardinality


def is_dataset(data: object) -> bool:
    """Whether it is a `tf.data.Dataset`, or one that is distributed already."""
    return hasattr(data, "element_spec")


def check_dataset(dataset: tf.data.Dataset, steps: int | None, name: str, steps_name: str) -> None:
    """Refuses a dataset that has no batch, or no end and no `steps` to an epoch.

    Args:
        dataset: The dataset.
        steps: Steps in an epoch.
        name: The argument that it was given as.
        steps_name: The argument that gives `steps`.
    """
    batches = _batches_in(dataset)
    if batches == 0:
        raise ValueError(f"`{name}` must have at least one batch. Received: a dataset of cardinality 0")
    if batches == math.inf and steps is None:
        raise ValueError(
            f"`{steps_name}` must be given for a dataset that repeats without end. Received: {steps_name}=None"
        )
