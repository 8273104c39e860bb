"""Arrays live on the device where they fit, and are streamed to it, in the same order, where they do not."""

import logging

import numpy as np
import pytest

from customfit import compat
from customfit.compat import keras, tf
from customfit.data import ArraySource
from customfit.data.placement import ResidentRows, StreamedRows, place_rows
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
def test_where_rows_are_depends_on_free_memory(free, kind, monkeypatch, caplog):
    monkeypatch.setattr(compat, "free_memory", lambda: free)
    with caplog.at_level(logging.WARNING, "customfit"):
        assert type(place_rows((X, Y, None), 16, 0.5)) is kind
    assert ("are streamed to it" in caplog.text) == (kind is StreamedRows)


def test_what_is_on_the_device_already_stays_there(monkeypatch):
    monkeypatch.setattr(compat, "free_memory", lambda: 0.0)
    assert type(place_rows((tf.constant(X), Y), 16, 0.5)) is ResidentRows


def test_the_share_is_an_option_of_the_source_and_streaming_is_said_once(caplog):
    with caplog.at_level(logging.WARNING, "customfit"):
        source = ArraySource(X, Y, batch_size=16, resident_share=0.0)
        ours = train(models.dropout, "custom_fit", {"x": source, "batch_size": None, "shuffle": True})
    assert caplog.text.count("are streamed to it") == 1
    assert_equal(ours, train(models.dropout, "fit", {"x": X, "y": Y}, base=keras.Model))
    with pytest.raises(ValueError, match="`resident_share` must be between 0 and 1. Received: resident_share=2"):
        ArraySource(X, Y, resident_share=2)


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
