"""What each worker reads, and that all of them together train as one process does. Each test is a line of the table in
`customfit/execution/REPLICAS.md`. One job of two workers trains on every kind of input."""

import math

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.distributed import inputs, job
from tests.distributed.inputs import BATCH, ROWS, X, Y, train
from tests.parity import models

pytestmark = pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="Keras 3 before 3.8 is refused")
supports = pytest.mark.supports
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """What two workers have found, by scenario."""
    one, other = job.results("tests.distributed.inputs", deadline=400)
    for name, result in one.items():
        same = {key: value for key, value in result.items() if key != "read"}
        assert same == {key: value for key, value in other[name].items() if key != "read"}, name
    return one, other


def assert_same(found, expected):
    """Sums in another order are rounded in another way."""
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-5, atol=1e-6, err_msg=key)


def in_order(strategy, rows=148, **arguments):
    return train(strategy, X[:rows], Y[:rows], batch_size=BATCH, shuffle=False, **arguments)


# ------------------------------------------------------------------------------------------- the rows of one process


@slow
@supports("Distribution", "several workers: each reads its rows of arrays only, in the order of one process")
@pytest.mark.parametrize("name", ["shuffled_arrays", "few_rows", "single_rows", "streamed_arrays"])
def test_rows_of_arrays(found, strategy, name):
    assert_same(found[0][name], getattr(inputs, name)(strategy))


@slow
@pytest.mark.parametrize("name", ["plain_dataset", "by_data"])
def test_every_worker_reads_all_of_a_dataset_that_says_nothing(found, strategy, name):
    """And of one that says DATA: under `fit`, too, each worker then reads all of it and drops what is not its share."""
    assert_same(found[0][name], in_order(strategy, ROWS))
    assert [each["by_data"]["read"] for each in found] == [2 * ROWS, 2 * ROWS]


@slow
@supports("Distribution", "several workers: a dataset whose `AutoShardPolicy` is FILE, HINT or OFF", fit="Keras 2")
def test_by_file_each_row_is_read_by_one_worker(found, strategy):
    """The order is another one: each batch has rows of different files."""
    assert [each["by_file"]["read"] for each in found] == [74, 74]
    first, second = (
        np.concatenate([np.arange(37 * file, 37 * (file + 1)) for file in files]) for files in [(0, 2), (1, 3)]
    )
    order = np.concatenate([np.r_[first[begin : begin + 8], second[begin : begin + 8]] for begin in range(0, 74, 8)])
    assert_same(
        found[0]["by_file"],
        train(strategy, X[order], Y[order], batch_size=BATCH, shuffle=False, epochs=1),
    )


@slow
def test_by_hint_each_row_is_read_by_one_worker(found, strategy):
    assert [each["by_hint"]["read"] for each in found] == [74, 74]
    assert_same(found[0]["by_hint"], in_order(strategy, epochs=1))


@slow
def test_off_each_worker_trains_on_the_dataset_that_it_has_made(found, strategy):
    assert_same(found[0]["off"], in_order(strategy, epochs=1))


@slow
@supports(
    "Distribution", "a function of a `tf.distribute.InputContext`, on any number of replicas and workers", fit="no"
)
def test_a_function_makes_the_share_of_each_worker(found, strategy):
    assert_same(found[0]["by_function"], in_order(strategy, epochs=1))


@slow
@supports("Distribution", "a dataset that is distributed already, on replicas and workers", fit="some")
@pytest.mark.parametrize("name", ["distributed", "distributed_of_unknown_size"])
def test_a_distributed_dataset(found, strategy, name):
    assert_same(found[0][name], in_order(strategy, ROWS))


# ------------------------------------------------------------------------------------------------------ uneven shares


def elements(sizes):
    """Batches of so many rows, one behind the other."""
    begins = np.cumsum([0, *sizes])
    parts = [(X[begin : begin + size], Y[begin : begin + size]) for begin, size in zip(begins, sizes)]
    spec = (tf.TensorSpec([None, 8], X.dtype), tf.TensorSpec([None], Y.dtype))
    return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=spec)


def uneven_elements(_):
    """The batches of `inputs.uneven`: of the first worker, the second one, and so on."""
    first = [(X[begin : begin + 8], Y[begin : begin + 8]) for begin in range(0, 40, 8)]
    second = [(X[begin : min(59, begin + 8)], Y[begin : min(59, begin + 8)]) for begin in range(40, 80, 8)]
    parts = [part for pair in zip(first, second) for part in pair]
    spec = (tf.TensorSpec([None, 8], X.dtype), tf.TensorSpec([None], Y.dtype))
    return tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=spec)


@slow
@pytest.mark.parametrize("name", ["by_uneven_function", "by_uneven_function_of_known_size", "distributed_by_function"])
def test_uneven_shares_end_an_epoch_together(found, strategy, name):
    """No row is lost: a worker whose share has ended trains on no rows while the other one goes on."""
    assert_same(found[0][name], train(strategy, uneven_elements, epochs=3))


@slow
def test_epochs_of_so_many_steps(found, strategy):
    assert_same(found[0]["endless"], in_order(strategy, steps_per_epoch=5))


@slow
def test_validation_and_evaluation(found, strategy):
    expected = in_order(strategy, ROWS, validation_data=uneven_elements)
    assert_same(found[0]["validated"], expected)
    loss = found[0]["evaluated"]["loss"]
    assert not math.isclose(loss[0], loss[1])
    assert loss == pytest.approx(evaluated(strategy), rel=1e-5)


def evaluated(strategy):
    compiled = model(strategy)
    return [
        compiled.custom_evaluate(uneven_elements, verbose=0),
        compiled.custom_evaluate(X[:ROWS], Y[:ROWS], verbose=0),
    ]


# ------------------------------------------------------------------------------------------------------ three workers


@slow
@pytest.mark.long
def test_three_workers():
    """Batches that cannot be split evenly, fewer rows than workers, and four files for three of them."""
    names = ["shuffled_arrays", "few_rows", "single_rows", "plain_dataset"]
    found = job.results("tests.distributed.inputs", *names, "by_file", workers=3)
    (expected,) = job.results("tests.distributed.inputs", *names, "three_replicas", workers=1)
    for name in names:
        assert_same(found[0][name], expected[name])
        assert found[0][name] == found[1][name] == found[2][name]
    assert [each["by_file"]["read"] for each in found] == [74, 37, 37]


# ------------------------------------------------------------------------------------------------------- one process


def model(strategy):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        compiled = models.dense(CustomTrainModel)
        compiled.compile("sgd", "sparse_categorical_crossentropy")
    return compiled


def test_on_one_device_a_function_is_its_dataset(one_device):
    assert train(one_device, lambda context: inputs.share(context, ROWS)) == train(one_device, inputs.plain())


def test_replicas_of_one_process_take_elements_by_turns(strategy):
    contexts = []

    def function(context):
        contexts.append(context)
        return elements([8, 8, 8, 8, 3, 2])

    assert_same(train(strategy, function), in_order(strategy, ROWS))
    (context,) = contexts
    assert (context.num_input_pipelines, context.num_replicas_in_sync) == (1, 2)


@pytest.mark.parametrize("filtered", [False, True])
def test_a_distributed_dataset_needs_no_steps(strategy, filtered):
    """Also of unknown size, and with a smaller last batch. On Keras 2 `fit` needs `steps_per_epoch`."""
    data = tf.data.Dataset.from_tensor_slices((X[:ROWS], Y[:ROWS]))
    data = (data.filter(lambda x, y: True) if filtered else data).batch(BATCH)
    ours = train(strategy, strategy.experimental_distribute_dataset(data))
    assert_same(ours, train(strategy, lambda context: elements([8, 8, 8, 8, 3, 2])))


def test_eagerly(strategy):
    def run(x, **arguments):
        compiled = model(strategy)
        with strategy.scope():
            compiled.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        return compiled.custom_fit(x, verbose=0, **arguments).history

    assert run(uneven_elements)["loss"] == pytest.approx(train(strategy, uneven_elements, epochs=1)["loss"], rel=1e-5)


def test_traces_do_not_grow(strategy):
    traced = []

    def build(base):
        class Counts(base):
            def train_step(self, data):
                traced.append(1)
                return super().train_step(data)

        return models.dense(Counts)

    with strategy.scope():
        compiled = build(CustomTrainModel)
        compiled.compile("sgd", "sparse_categorical_crossentropy")
    compiled.custom_fit(uneven_elements, verbose=0)
    once = len(traced)
    compiled.custom_fit(uneven_elements, epochs=3, verbose=0)
    assert len(traced) == once


def test_what_a_function_must_return(one_device):
    with pytest.raises(ValueError, match=r"must return a `tf.data.Dataset`.* Received: a function that returns a list"):
        train(one_device, lambda context: [1, 2])


def test_class_weights_of_a_distributed_dataset(strategy):
    data = strategy.experimental_distribute_dataset(inputs.plain())
    with pytest.raises(ValueError, match="`class_weight` must not be given with a distributed dataset"):
        train(strategy, data, class_weight={0: 1.0, 1: 2.0, 2: 1.0})


def test_predictions_need_their_order(strategy):
    with pytest.raises(ValueError, match="`custom_predict` returns rows in their order"):
        model(strategy).custom_predict(lambda context: elements([8]), verbose=0)
