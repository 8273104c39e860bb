"""Arrays live on the device where they fit, and are streamed to it, in the same order, where they do not."""

import logging

import h5py
import numpy as np
import pandas
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from customfit.data import ArraySource, placement
from customfit.data.conversion import as_rows
from customfit.data.placement import ResidentRows, StreamedRows, place_rows
from customfit.data.stored import StoredRows, stored_rows
from tests.parity import models
from tests.parity.compare import assert_equal, train

X, Y = models.rows(70)


def batches(source, size=2):
    return [
        block.fetch(block.feed, index)
        for block in source.blocks(lambda step: size)
        for index in range(block.first, block.first + block.count)
    ]


@pytest.mark.parametrize("chunk_steps", [1, 2, 3, 100])
def test_streamed_batches_are_the_resident_ones(chunk_steps):
    keras.utils.set_random_seed(1)
    resident = ArraySource(X, Y, batch_size=16, shuffle=True, epochs=3)
    keras.utils.set_random_seed(1)
    streamed = ArraySource(X, Y, batch_size=16, shuffle=True, epochs=3)
    streamed._data = StreamedRows((X, Y), 16, chunk_bytes=chunk_steps * 16 * (8 * 4 + 8))
    for _ in range(3):
        ours, theirs = batches(streamed), batches(resident)
        assert len(ours) == len(theirs) == 5
        for mine, other in zip(ours, theirs):
            for a, b in zip(mine, other):
                np.testing.assert_array_equal(a, b)


def test_a_restart_within_a_pass_begins_anew():
    source = ArraySource(X, Y, batch_size=16)
    source._data = StreamedRows((X, Y), 16, chunk_bytes=1)
    next(iter(source.blocks(lambda step: 1)))
    source.restart()
    np.testing.assert_array_equal(batches(source)[0][0], X[:16])


@pytest.mark.parametrize(("free", "kind"), [(1e9, ResidentRows), (1000.0, StreamedRows)])
def test_on_an_accelerator_it_depends_on_free_memory_where_rows_are(free, kind, monkeypatch, caplog):
    monkeypatch.setattr(compat, "has_accelerator", lambda: True)
    monkeypatch.setattr(compat, "free_memory", lambda: free)
    with caplog.at_level(logging.WARNING, "customfit"):
        assert type(place_rows((X, Y, None), 16, 0.5)) is kind
    assert ("are streamed to it" in caplog.text) == (kind is StreamedRows)


@pytest.mark.parametrize(("size", "kind"), [(1000, ResidentRows), (2**17, StreamedRows)])
def test_on_a_cpu_only_few_rows_are_copied(size, kind, caplog):
    rows = np.zeros((size, 64), "float64")
    assert type(place_rows((rows, np.zeros(size)), 32, 0.5)) is kind
    assert not caplog.text


def test_what_is_on_the_device_already_stays_there(monkeypatch):
    monkeypatch.setattr(compat, "free_memory", lambda: 0.0)
    assert type(place_rows((tf.constant(X), tf.constant(Y)), 16, 0.5)) is ResidentRows


def test_tensors_beside_rows_that_are_streamed():
    def rows(x, y, **options):
        keras.utils.set_random_seed(1)
        return batches(ArraySource(x, y, batch_size=16, shuffle=True, **options))

    mixed, plain = rows(X, tf.constant(Y), resident_share=0.0), rows(X, Y)
    for mine, other in zip(mixed, plain):
        for a, b in zip(mine, other):
            np.testing.assert_array_equal(a, b)


def test_the_share_is_an_option_of_the_source(monkeypatch, caplog):
    monkeypatch.setattr(compat, "has_accelerator", lambda: True)
    with caplog.at_level(logging.WARNING, "customfit"):
        source = ArraySource(X, Y, batch_size=16, resident_share=0.0)
        ours = train(models.dropout, "custom_fit", {"x": source, "batch_size": None, "shuffle": True})
    assert caplog.text.count("are streamed to it") == 1
    assert_equal(ours, train(models.dropout, "fit", {"x": X, "y": Y}, base=keras.Model))
    with pytest.raises(ValueError, match="`resident_share` must be between 0 and 1. Received: resident_share=2"):
        ArraySource(X, Y, resident_share=2)


class Sliced:
    """What h5py and zarr have: a shape, a dtype and slices of one step. It notes what is read at a time."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.read = rows, rows.shape, rows.dtype, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.read.append(rows.stop - rows.start)
        return self.rows[rows]


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("how", ["few", "many"])
def test_stored_rows_are_trained_on_as_arrays_are(how, shuffle, monkeypatch):
    if how == "many":
        monkeypatch.setattr(placement, "FEW_BYTES", 0)
    rows, labels = Sliced(X), Sliced(Y)
    given = {"batch_size": 16, "shuffle": shuffle, "validation_split": 0.2}
    ours = train(models.dropout, "custom_fit", {"x": rows, "y": labels, **given})
    assert_equal(ours, train(models.dropout, "custom_fit", {"x": X, "y": Y, **given}))
    if how == "many":
        assert max(rows.read) < len(X)


def test_rows_of_an_hdf5_file(tmp_path):
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        x, y = file.create_dataset("x", data=X.astype("float64")), file.create_dataset("y", data=Y)
        ours = train(models.dropout, "custom_fit", {"x": x, "y": y})
        model = models.dense(CustomTrainModel)
        model.compile("sgd", "sparse_categorical_crossentropy")
        assert model.custom_evaluate(x, y, verbose=0) == model.evaluate(X, Y, verbose=0)
    assert_equal(ours, train(models.dropout, "custom_fit", {"x": X, "y": Y}))


def test_scattered_rows_are_read_in_runs():
    stored = Sliced(np.arange(10_000 * 1024, dtype="float32").reshape(10_000, 1024))  # 4 kB a row
    order = np.array([9_999, 3, 4, 5, 4, 20, 5_000, 0])
    np.testing.assert_array_equal(stored_rows(stored)[:].take(order), stored.rows[order])
    assert stored.read == [21, 1, 1]  # the gap from 5 to 20 is read, those of thousands of rows are not


def test_a_frame_of_several_dtypes_is_converted_chunk_by_chunk():
    frame = pandas.DataFrame({"a": X[:, 0], "b": np.arange(70), "c": X[:, 1].astype("float64")})
    whole = as_rows(frame.astype("float64"))
    order = np.random.default_rng(0).permutation(70)
    rows = as_rows(frame)
    assert isinstance(rows, StoredRows)
    np.testing.assert_array_equal(rows.take(order), whole[order])
    np.testing.assert_array_equal(rows[10:20].take(np.arange(10)), whole[10:20])


def test_free_memory_is_known_here():
    assert 1e6 < compat.free_memory() < 1e15


def test_rows_on_disk_are_read_chunk_by_chunk(tmp_path):
    """A memory-mapped file larger than a chunk is never read as a whole."""
    stored = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (1000, 8))
    stored[:] = np.arange(1000)[:, None]
    stored.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = StreamedRows((mapped,), 10, chunk_bytes=10 * 8 * 4 * 4)
    rows.start(tf.range(1000, dtype=tf.int64))
    (arrays, end), first, count = rows.feed(50, 7)
    assert arrays[0].shape == (40, 8)
    assert (int(end), first, count) == (40, 2, 2)  # batch 50 is the third of its chunk, which holds four
    assert float(arrays[0][first * 10][0]) == 500.0
