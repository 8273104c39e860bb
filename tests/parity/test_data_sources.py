"""A `Source` as data: ours, a class of the user's, and what may not be set beside one."""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from customfit.data import ArraySource, Block, SingleBatch, make_source
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train

X, Y = models.rows()
supports = pytest.mark.supports


class Slices:
    """A user's own source: batches of 16 rows, one block a batch. No base class."""

    steps = 5

    def __init__(self):
        self.restarts_seen = 0

    def restart(self):
        self.restarts_seen += 1

    def has_more(self):
        return True

    def blocks(self, size):
        for step in range(self.steps):
            if size(step) == 0:
                return
            rows = slice(step * 16, step * 16 + 16)
            yield Block(step, 1, 1, SingleBatch(), (X[rows], Y[rows]))


class ResumableSlices(Slices):
    """The same, with a position."""

    begin = 0

    @property
    def element_spec(self):
        return tf.TensorSpec([None, 8], tf.float32), tf.TensorSpec([None], tf.int64)

    def describe(self):
        return {"rows": len(X)}

    def position(self):
        return {}

    def save_iterator(self, path):
        return False

    def seek(self, position, step, iterator_path):
        self.begin = step

    def skip_passes(self, passes):
        pass

    def blocks(self, size):
        begin, self.begin = self.begin, 0
        yield from (block for block in super().blocks(size) if block.begin >= begin)


@supports("Data", "a `customfit.data.Source`: `ArraySource`, or a class of your own", fit="no")
@pytest.mark.parametrize("make", [lambda: ArraySource(X, Y, batch_size=16), Slices], ids=["ArraySource", "own"])
def test_a_source_trains_and_validates_as_the_arrays_do(make):
    # Keras 2's dropout starts again in each trace, and batches of two static shapes make two.
    build = models.dropout if compat.IS_KERAS_3 else models.dense
    arrays = train(build, "custom_fit", {"x": X, "y": Y, "validation_data": (X, Y)})
    given = {"x": make(), "validation_data": make(), "batch_size": None, "shuffle": True}
    assert_equal(train(build, "custom_fit", given), arrays)
    evaluated = arrays[0].custom_evaluate(make(), verbose=0)
    np.testing.assert_array_equal(evaluated, arrays[0].custom_evaluate(X, Y, batch_size=16, verbose=0))


def test_an_array_source_shuffles_and_lasts_for_all_epochs():
    arrays = train(models.dense, "custom_fit", {"x": X, "y": Y, "shuffle": True})
    source = lambda: {"x": ArraySource(X, Y, batch_size=16, shuffle=True), "batch_size": None, "shuffle": True}
    assert_equal(train(models.dense, "custom_fit", source), arrays)


def test_an_array_source_takes_what_custom_fit_takes():
    pandas = pytest.importorskip("pandas")
    source = ArraySource(pandas.DataFrame(X), pandas.Series(Y), batch_size=np.int64(16), steps_per_epoch=np.int32(5))
    assert (source.rows, source.batch_size, source.steps) == (70, 16, 5)
    with pytest.raises(ValueError, match="must be arrays or tensors. Received: x of type .*generator"):
        ArraySource(batch for batch in ())


def test_one_source_for_two_calls_begins_again():
    source, model = Slices(), compiled(models.dense)
    model.custom_fit(source, epochs=2, verbose=0)
    model.custom_fit(source, epochs=2, verbose=0)
    assert source.restarts_seen == 2
    assert int(model.optimizer.iterations.numpy()) == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("y", Y),
        ("sample_weight", np.ones(len(X))),
        ("batch_size", 16),
        ("class_weight", {0: 2.0}),
        ("steps_per_epoch", 3),
        ("shuffle", False),
        ("shuffle", "batch"),
    ],
)
def test_what_a_source_decides_is_refused_by_name(name, value):
    model = compiled(models.dense)
    with pytest.raises(
        ValueError, match=rf"`{name}` must not be given when `x` is a `Source`.*of type Slices, {name}="
    ):
        model.custom_fit(Slices(), verbose=0, **{name: value})
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize(("name", "value"), [("validation_steps", 2), ("validation_batch_size", 8)])
def test_what_a_source_of_validation_data_decides_is_refused_by_name(name, value):
    model = compiled(models.dense)
    with pytest.raises(ValueError, match=rf"`{name}` must not be given when `validation_data` is a `Source`"):
        model.custom_fit(X, Y, batch_size=16, validation_data=Slices(), verbose=0, **{name: value})
    model.custom_fit(X, Y, batch_size=16, validation_data={"far": Slices(), "near": (X, Y)}, verbose=0)


@pytest.mark.parametrize(("name", "value"), [("y", Y), ("batch_size", 8), ("steps", 2)])
def test_what_a_source_to_evaluate_decides_is_refused_by_name(name, value):
    model = compiled(models.dense)
    with pytest.raises(ValueError, match=rf"`{name}` must not be given when `x` is a `Source`"):
        model.custom_evaluate(Slices(), verbose=0, **{name: value})


def test_a_source_is_taken_as_it_is():
    source = Slices()
    assert make_source(source, shuffle=True, model=compiled(models.dense)) is source


def test_half_a_source_is_refused_by_what_it_lacks():
    class Half:
        def blocks(self, size):
            return iter(())

    with pytest.raises(ValueError, match=r"A `Source` must have .* Received: a Half without `steps`, `has_more`, `res"):
        compiled(models.dense).custom_fit(Half(), verbose=0)


def test_checkpoints_need_a_position(tmp_path):
    model = compiled(models.dense)
    with pytest.raises(
        ValueError, match=r"given as `x` must be a `ResumableSource`.* Received: a Slices without .*`seek`"
    ):
        model.custom_fit(Slices(), verbose=0, checkpoint=tmp_path)
    with pytest.raises(
        ValueError, match=r"given as `validation_data` must .* Received: a Slices without `skip_passes`"
    ):
        model.custom_fit(X, Y, validation_data=Slices(), verbose=0, checkpoint=tmp_path)
    assert int(model.optimizer.iterations.numpy()) == 0


def test_a_users_resumable_source_resumes(tmp_path):
    """Cut off within the second epoch and trained to the end: as if it had not been cut off."""
    whole = train(models.dropout, "custom_fit", {"x": ResumableSlices(), "batch_size": None, "shuffle": True})

    def cut(**arguments):
        keras.utils.set_random_seed(7)
        model = compiled(models.dropout, CustomTrainModel)
        given = {"x": ResumableSlices(), "validation_data": ResumableSlices(), "epochs": 3, "verbose": 0}
        return model, model.custom_fit(**given, checkpoint=tmp_path, **arguments)

    cut(max_steps=7)
    resumed = cut()
    for ours, theirs in zip(resumed[0].get_weights(), whole[0].get_weights()):
        np.testing.assert_array_equal(ours, theirs)
    assert resumed[1].history["loss"] == whole[1].history["loss"]
    assert len(resumed[1].history["val_loss"]) == 3
