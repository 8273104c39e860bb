"""Properties, for whatever gradients, batches and positions Hypothesis thinks of."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from customfit.compat import tf
from customfit.data import ArraySource
from customfit.every import as_seconds
from customfit.gradients.accumulation import Accumulator
from customfit.gradients.clipping import (
    PercentileClipping,
    clip_adaptively,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    global_norm,
    sum_duplicates,
)
from customfit.training.limits import Limits

settings.register_profile("default", deadline=None, max_examples=40)
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)  # the same ones each time
settings.load_profile("ci" if os.environ.get("CI") else "default")

ROUNDING = 1e-5
numbers = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)  # which TensorFlow takes for 0
shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
arrays = hnp.arrays("float32", shapes, elements=numbers)
gradient_lists = st.lists(st.one_of(st.none(), arrays), min_size=1, max_size=4)
thresholds = st.floats(0.015625, 100, width=32)


@pytest.fixture(autouse=True, scope="module")
def _fresh_keras():
    """There is no Keras in here to make afresh."""


def tensors(values):
    return [None if value is None else tf.constant(value) for value in values]


def bits(gradients):
    return [None if each is None else np.asarray(tf.convert_to_tensor(each)).tobytes() for each in gradients]


@st.composite
def slices(draw):
    """`tf.IndexedSlices` of up to 6 lookups in a table of 4 rows, and the dense gradient that they stand for."""
    rows = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    values = draw(hnp.arrays("float32", (len(rows), 3), elements=numbers))
    dense = np.zeros((4, 3), "float32")
    np.add.at(dense, rows, values)
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([4, 3])), dense


# ---------------------------------------------------------------------------------------------------------- clipping


@given(gradient_lists, thresholds)
def test_no_element_is_above_clipvalue_and_those_below_keep_their_bits(values, threshold):
    for value, clipped in zip(values, clip_by_value(tensors(values), threshold)):
        if value is not None:
            np.testing.assert_array_equal(clipped, np.clip(value, -np.float32(threshold), np.float32(threshold)))


@given(gradient_lists, thresholds)
def test_no_norm_is_above_clipnorm(values, threshold):
    for clipped in clip_by_norm(tensors(values), threshold):
        assert clipped is None or np.linalg.norm(np.asarray(clipped, "float64")) <= threshold * (1 + ROUNDING)


@given(gradient_lists, thresholds)
def test_the_global_norm_is_at_most_the_clip_and_the_direction_stays(values, threshold):
    clipped = clip_by_global_norm(tensors(values), threshold)
    if all(value is None for value in values):
        assert clipped == values
        return
    assert float(global_norm(clipped)) <= threshold * (1 + ROUNDING)
    before, after = (
        np.concatenate([np.ravel(each).astype("float64") for each in gradients if each is not None])
        for gradients in (values, clipped)
    )
    np.testing.assert_allclose(
        after * np.linalg.norm(before), before * np.linalg.norm(after), rtol=1e-4, atol=1e-4 * np.linalg.norm(before)
    )


@given(gradient_lists, st.floats(1.01, 1e3))
def test_gradients_below_the_threshold_keep_their_bits(values, factor):
    given_ = tensors(values)
    largest = max([1e-3, *(float(np.linalg.norm(np.ravel(v).astype("float64"))) for v in values if v is not None)])
    threshold = largest * factor * 2  # of up to four gradients together
    for clip in (clip_by_value, clip_by_norm, clip_by_global_norm):
        assert bits(clip(given_, threshold)) == bits(given_)


@given(st.data(), shapes, st.floats(0.015625, 1, width=32))
def test_no_unit_is_above_its_ratio(data, shape, ratio):
    gradient, weights = (data.draw(hnp.arrays("float32", shape, elements=numbers)) for _ in range(2))
    (clipped,) = clip_adaptively([tf.constant(gradient)], [tf.constant(weights)], ratio)
    axes = tuple(range(len(shape) if sum(size != 1 for size in shape) < 2 else len(shape) - 1))
    norms = [np.sqrt(np.sum(np.square(np.asarray(each, "float64")), axis=axes)) for each in (clipped, weights)]
    assert np.all(norms[0] <= ratio * np.maximum(norms[1], 1e-3) * (1 + ROUNDING) + 1e-30)


@given(slices(), thresholds)
def test_slices_are_clipped_as_the_dense_gradient(pair, threshold):
    sparse, dense = pair
    for clip in (clip_by_value, clip_by_norm, clip_by_global_norm):
        ours, theirs = (tf.convert_to_tensor(clip([each], threshold)[0]) for each in (sparse, tf.constant(dense)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)  # sums of float32 in another order
    np.testing.assert_allclose(tf.convert_to_tensor(sum_duplicates([sparse])[0]), dense, rtol=1e-4, atol=1e-3)


@given(st.lists(st.floats(0.0, 1e3, width=32), min_size=1, max_size=12), st.floats(1, 100))
@settings(max_examples=15)
def test_a_percentile_clip_lets_through_the_percentile_of_the_norms_so_far(norms, percentile):
    clip = PercentileClipping(percentile)
    clip.build(None)
    for index, norm in enumerate(norms):
        (clipped,) = clip([tf.constant([norm])], [None])
        expected = min(norm, np.percentile(np.asarray(norms[: index + 1], "float32"), percentile))
        assert float(clipped[0]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


# ------------------------------------------------------------------------------------------------------ accumulation


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=25)
def test_micro_batches_of_any_sizes_are_the_large_batch(data, sizes):
    """The gradient of a batch is the mean over its rows; slices are summed into it, wherever they come."""
    rows = data.draw(
        hnp.arrays("float32", (sum(sizes), 4, 3), elements=st.floats(-10, 10, width=32, allow_subnormal=False))
    )
    as_slices = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    accumulator = Accumulator([tf.Variable(tf.zeros([4, 3])), tf.Variable(tf.zeros([]))], steps=len(sizes))
    begin = 0
    for size, is_slices in zip(sizes, as_slices):
        mean = tf.constant(rows[begin : begin + size].mean(0))
        assert not bool(accumulator.is_full())
        accumulator.add([tf.IndexedSlices(mean, tf.range(4), [4, 3]) if is_slices else mean, None], tf.constant(size))
        begin += size
    assert bool(accumulator.is_full())
    total, nothing = accumulator.pop([True, None])
    assert nothing is None
    np.testing.assert_allclose(total, rows.astype("float64").mean(0), rtol=1e-4, atol=1e-4)
    assert not any(np.any(variable.numpy()) for variable in accumulator.variables)  # empty again


# ------------------------------------------------------------------------------------------------------ data, limits


def batches(source, epochs, size):
    """The rows of each step: one list an epoch."""
    seen = []
    for _ in range(epochs):
        epoch = []
        for block in source.blocks(size):
            epoch += [np.asarray(block.fetch(block.feed, block.first + i)[0]) for i in range(block.count)]
        seen.append(epoch)
    return seen


@given(st.integers(1, 20), st.integers(1, 7), st.integers(1, 4), st.sampled_from([False, True]), st.data())
@settings(max_examples=25)
def test_an_epoch_has_each_row_once_in_whatever_blocks_and_goes_on_where_it_was(rows, batch_size, block, shuffle, data):
    x = np.arange(rows, dtype="float32")
    make = lambda: ArraySource(x, x, batch_size=batch_size, shuffle=shuffle, epochs=3)
    tf.random.set_seed(5)
    whole = batches(make(), 3, lambda step: block)
    for epoch in whole:
        assert sorted(np.concatenate(epoch).tolist()) == x.tolist()
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
    cut = data.draw(st.integers(0, len(whole[1])))  # within the second epoch
    first = make()
    batches(first, 1, lambda step: block)
    begun = first.blocks(lambda step: min(block, cut - step))
    for _ in begun:
        pass
    resumed = make()
    resumed.seek(first.position(), cut, None)
    if cut < len(whole[1]):
        rest = batches(resumed, 2, lambda step: block)
        expected = [whole[1][cut:], whole[2]]
        assert [np.concatenate(epoch).tolist() for epoch in rest] == [np.concatenate(e).tolist() for e in expected]


@given(st.integers(1, 50), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_blocks_never_cross_the_limit_of_steps(limit, wanted):
    limits, done = Limits(max_steps=limit), 0
    for size in wanted:
        done += min(size, int(limits.steps_left(done)))
    assert done == min(limit, sum(wanted))
    assert (limits.reached(done) is not None) == (done == limit)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_hours_minutes_and_seconds_are_seconds(hours, minutes, seconds):
    text = f"{hours:02}:{minutes:02}:{seconds:02}"
    expected = 3600 * hours + 60 * minutes + seconds
    if expected:
        assert as_seconds("max_time", text) == expected
