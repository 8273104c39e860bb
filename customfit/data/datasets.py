"""Datasets of batches: `tf.data`, generators, and whatever else Keras's own data adapters turn into a dataset.

A *run* is a call of `custom_fit` or a pass over validation data: `restart` begins it. A *pass* is one iterator, from
the first batch to the last. An *epoch* is what `blocks` yields: a pass, or `steps_per_epoch` batches of one, in which
case the next epoch continues the pass. `compat.KerasData` says how the generations of Keras differ in that.

Iterators are made exactly when `fit` makes them, the ones that it never reads included. Each advances the seed of a
`shuffle(seed=)` that is somewhere in the dataset, or in another dataset that shares it, and so decides the order of
every later pass: in this epoch's validation, in the next epoch, in the next call.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from customfit import compat
from customfit.compat import tf
from customfit.data.iterators import Iterators, NextBatch
from customfit.data.lengths import EpochLength, batches_in
from customfit.data.shares import DatasetShare
from customfit.data.source import BatchSpec, Block, inputs_left_out_as_none, read_all, warn_of_short_epoch

_SAVED = ("_read", "_epochs", "_spent", "_has_had_data")


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
        continues: Whether a validation pass continues where the last one stopped.
        must_have_data: Whether it is an error, and not only a warning, if there is no batch at all.
        share: What this process reads of it, if others read the rest; `None`: all of it.
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
        share: DatasetShare | None = None,
    ):
        self._data = data if share is None else dataclasses.replace(data, count_batches=share.count)
        data = self._data
        self._share = share
        self.keeps_order = share is None or share.keeps_order
        self._fetch = NextBatch() if share is None else share.fetch
        self._length = EpochLength(data, steps)
        self._steps_at_first = self.steps
        self._is_dataset = is_dataset
        self.reads_again = not is_dataset
        self.restarts = restarts
        self._epochs_wanted = epochs
        self._shuffle = shuffle
        self._continues = continues
        self._must_have_data = must_have_data
        self._size = batches_in(data.dataset) if share is None else share.size  # of a pass, for certain
        self._iterators = Iterators(data.new_iterator)
        self._iterator: Any = None  # of the current pass
        self._read = 0  # batches of it
        self._head: tf.experimental.Optional | None = None  # its next batch, if it has been read already
        self._block: Block | None = None  # that is being run
        self._begin = 0  # the step of the epoch with which the next blocks begin
        self._is_new = self._begins_run = True
        self._is_prepared = False  # the next epoch
        self._owes_end = False  # of the last epoch to the data: it is told when the next one is prepared
        self._epochs = 0  # that have ended
        self._has_had_data = False
        self._spent = False  # there is no data for a further epoch

    @property
    def steps(self) -> int | None:
        """Steps in an epoch, or `None` if that is not known yet."""
        return self._length.steps

    @property
    def continues(self) -> bool:
        """Whether the next validation pass continues where the last one stopped, with no `restart` between them."""
        return self._continues and self._iterator is not None

    def restart(self) -> None:
        """Begins a run: the next epoch starts with the first batch of the dataset."""
        self._iterator = self._head = None
        self._begins_run, self._is_prepared, self._owes_end = True, False, False
        self._spent = self._spent and not self.restarts
        if self._data.recounts == "run" or self._is_new:
            self._length.recount()
        self._is_new = False
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
                self._head = self._fetch.get_next_as_optional(self._iterator)
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
            block = Block(begin, planned, count, self._fetch, self._iterator, head=self._head)
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
        self._length.begin_epoch()
        if self._iterator is None or (self.restarts and (not self._data.spans_epochs or self._read == self._size)):
            self._begin_pass()
        self._begins_run, self._is_prepared, self._owes_end = False, True, False

    def _begin_epoch(self) -> None:
        self._data.on_epoch_begin()
        if not self._is_prepared:
            self._prepare_epoch()
        self._is_prepared = False
        self._length.warn_if_longer()

    def _begin_pass(self) -> None:
        self._iterator = self._iterators.make()
        self._read = 0

    def _steps_left(self, begin: int) -> float:
        """How many steps the epoch may still have. Warns if it gets less than `steps_per_epoch`."""
        most, in_pass = self._length.most, self._length.count
        left = math.inf if most is None else most - begin
        if self._data.renews_at_end and in_pass is not None and left > in_pass - self._read:
            left = in_pass - self._read
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
        if self._length.asked is None or self._data.renews_at_end:
            return False
        return self._size != math.inf and self._size % self._length.asked > 0

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
        if self._length.end_data(read, seen):
            self._spent = not self.restarts or self._data.ends_training
            warn_of_short_epoch(seen, self.steps)

    def _end_epoch(self, seen: int) -> None:
        self._epochs += 1
        is_last = self._epochs >= self._epochs_wanted and self.restarts
        if is_last and self._iterator is not None and self._size is None:
            self._length.warn_if_more(self._iterator, seen)
        if self._renews and self._read >= (self._length.count or 0):
            self._begin_pass()
        self._owes_end = self._data.wraps_epochs and self._epochs < self._epochs_wanted
        if not self._owes_end:
            self._data.on_epoch_end()

    @property
    def _is_one_stream(self) -> bool:
        """Whether all epochs read one pass, after which training stops."""
        return self._data.spans_epochs and self._data.ends_training

    @property
    def _renews(self) -> bool:
        """Whether an iterator is made as soon as the last batch of a pass has been read."""
        return self._data.renews_at_end and self._length.count is not None

    # ------------------------------------------------------------------------------------------------- to resume

    @property
    def element_spec(self) -> BatchSpec:
        """The spec of a batch."""
        dataset = self._data.dataset
        return (
            inputs_left_out_as_none(dataset.element_spec) if self._share is None else self._share.element_spec(dataset)
        )

    def describe(self) -> dict[str, object]:
        """Returns what it must have in common with the source of a checkpoint."""
        return {
            "steps_per_epoch": self._steps_at_first,
            "batches": str(inputs_left_out_as_none(self._data.dataset.element_spec)),
            "shuffle": self._shuffle,
            **({} if self._share is None else {"share": True}),
        }

    def position(self) -> dict[str, Any]:
        """Returns how many iterators were made, how many epochs have ended, and where the current pass is."""
        self._count_block()
        state = {name: getattr(self, name) for name in _SAVED}
        length = {"count": self._length.count, "steps": self._length.steps}
        return {**state, **length, "made": self._iterators.made, "in_pass": self._iterator is not None}

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
        self._length.count, self._length.steps = position["count"], position["steps"]
        self._begin, self._begins_run = step, position["made"] == 0
        if iterator_path is not None:
            # Those of later epochs are made first: if what is read ahead had come to the end of the pass, to restore
            # the state advances the seed of a `shuffle(seed=)` once too often.
            self._iterators.make_ahead(self._iterators_left())
            tf.train.Checkpoint(iterator=self._iterator).read(iterator_path).assert_consumed()
        elif self._iterator is not None and self._read and (step or self._data.spans_epochs):
            self._read_pass()

    def _read_pass(self) -> None:
        """Reads the batches of the current pass that have been read before."""
        if self._read == self._size and isinstance(self._data.dataset, tf.data.Dataset):
            self._iterator = iter(self._data.dataset.take(0))  # all of them
            return
        _warn_of_reading(self._read)
        elements = 1 if self._share is None else self._share.elements
        for _ in range(self._read * elements):
            next(self._iterator, None)  # a share may have ended before those of other workers

    def _iterators_left(self) -> int:
        """How many iterators are made after this one."""
        if self._is_one_stream:
            return 0
        epochs = max(0, self._epochs_wanted - self._epochs - 1)
        if self._data.spans_epochs:
            return epochs + self._renews
        return 2 * epochs + 1 if self._renews else epochs

    def skip_passes(self, passes: int) -> None:
        """Goes to where so many passes have been made, each begun by `restart`."""
        for done in range(passes):
            if done == 0 or not self.continues:
                self.restart()
            if self._continues or not (self._is_dataset or self.restarts):
                self._read_again(1, 0)
            elif self._is_dataset:
                self._begin_epoch()
                if self._renews and self._steps_left(0) == self._length.count:
                    self._iterators.make()
            else:
                self._data.on_epoch_begin()
                self._data.on_epoch_end()  # in which a `Sequence` may shuffle itself

    def _read_again(self, epochs: int, step: int) -> None:
        """Goes through past epochs as training did. Data that starts over in each pass need not be read for that."""
        _warn_of_reading(epochs * (self.steps or 0) + step)
        for _ in range(epochs):
            if self.has_more():
                read_all(self.blocks(lambda _: 256))
        if step:
            self.has_more()
            read_all(self.blocks(lambda begin: min(256, step - begin)))
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
