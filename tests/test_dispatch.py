"""Single steps: called directly, they do what the polymorphic call does."""

import numpy as np
import pytest

from customfit import CustomTrainModel, TrainingSession, compat
from customfit.compat import keras, tf
from customfit.execution import dispatch
from customfit.execution.dispatch import DirectFunction, as_tensors
from customfit.execution.random_ops import keeps_random_state
from tests.parity import models
from tests.parity.compare import SEED, compiled

X, Y = models.rows()
X, Y = X[:48], Y[:48]


def batches():
    """Of two sizes: Keras 2's dropout would draw its first numbers again in the trace of the second."""
    sizes = [0, 16, 32, 40, 48] if compat.IS_KERAS_3 else [0, 16, 32, 48]
    return [(X[begin:end], Y[begin:end]) for begin, end in zip(sizes, sizes[1:])]


# ------------------------------------------------------------------------------------------------------- functions

STRUCTURES = {
    "a tensor": (tf.ones([2, 3]),),
    "a tuple": ((tf.ones([2, 3]), tf.ones([2])),),
    "None": ((tf.ones([2, 3]), None, tf.ones([2])),),
    "a dict": ({"b": tf.ones([2, 3]), "a": 2 * tf.ones([2])},),
    "nested": (({"b": [tf.ones([2]), 3 * tf.ones([1])], "a": (tf.ones([2]),)}, tf.ones([4])),),
    "strings": (tf.constant(["a", "b"]),),
    "ragged": (tf.ragged.constant([[1.0], [2.0, 3.0]]),),
    "sparse": (tf.sparse.from_dense([[0.0, 1.0], [2.0, 0.0]]),),
    "several": (tf.ones([2]), {"a": tf.ones([3])}),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_comes_back_as_it_went_in(name):
    arguments = STRUCTURES[name]
    returned = DirectFunction(lambda *given: given)(*arguments)
    tf.nest.assert_same_structure(returned, arguments, expand_composites=True)
    for ours, theirs in zip(*(tf.nest.flatten(each, expand_composites=True) for each in (returned, arguments))):
        assert ours is theirs is None or (ours.dtype == theirs.dtype and np.array_equal(ours, theirs))


def test_logs_keep_their_order():
    direct = DirectFunction(lambda x: {"loss": x, "accuracy": 2 * x, "b": {"c": x}})
    assert list(direct(tf.constant(1.0))) == ["loss", "accuracy", "b"]
    flat = DirectFunction(lambda x: {"loss": x, "accuracy": 2 * x})
    assert {name: float(value) for name, value in flat(tf.constant(1.0)).items()} == {"loss": 1.0, "accuracy": 2.0}
    assert list(flat(tf.constant(1.0))) == ["loss", "accuracy"]


def test_there_are_few_traces():
    traced = []
    direct = DirectFunction(lambda x: traced.append(x.shape) or tf.reduce_sum(x))
    for rows in (1, 2, 3, 4, 5, 1, 2):
        assert float(direct(tf.ones([rows, 3]))) == 3 * rows
    assert len(traced) == 2  # the second one leaves the number of rows open
    assert len(direct._by_function) == 2
    assert float(direct(tf.ones([2, 3], tf.float64))) == 6.0


def test_signatures_without_end_take_no_memory_without_end(monkeypatch):
    monkeypatch.setattr(dispatch, "MOST_SIGNATURES", 10)
    direct = DirectFunction(tf.reduce_sum)
    for rows in range(1, 50):
        assert float(direct(tf.ones([rows]))) == rows
    assert len(direct._by_signature) <= 10
    assert len(direct._by_function) == 2


def test_a_structure_of_another_kind_is_not_taken_for_a_known_one():
    direct = DirectFunction(lambda x: x[0] - x[1] if isinstance(x, tuple) else x["a"] + x["b"])
    first, second = tf.constant(3.0), tf.constant(1.0)
    assert float(direct((first, second))) == 2.0
    assert float(direct({"a": first, "b": second})) == 4.0
    assert float(direct({"b": first, "a": second})) == 4.0
    assert float(direct((second, first))) == -2.0


def test_an_error_says_where_its_operation_was_made():
    @tf.function
    def fails(x):
        tf.debugging.assert_positive(x, message="of the test")
        return x

    with pytest.raises(tf.errors.InvalidArgumentError) as ours:
        DirectFunction(fails)(tf.constant(-1.0))
    assert "of the test" in str(ours.value)
    assert "test_dispatch.py" in str(ours.value)


def test_the_faster_executor_stays(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(dispatch.time, "perf_counter", lambda: now[0])
    took, used, call = {"DEFAULT": 2.0, "": 1.0}, [], dispatch._Trace._call

    def timed(self, tensors, executor):
        used.append(executor)
        now[0] += took[executor]
        return call(self, tensors, executor)

    monkeypatch.setattr(dispatch._Trace, "_call", timed)
    direct, other = (DirectFunction(lambda x: x + 1.0) for _ in range(2))
    assert [float(direct(tf.constant(float(number)))) for number in range(20)] == list(range(1, 21))
    assert used[0] == "DEFAULT"  # which says where an error comes from
    assert used[:12].count("") == 6
    assert set(used[12:]) == {""}
    took["DEFAULT"], used[:] = 0.5, []
    assert [float(other(tf.constant(float(number)))) for number in range(20)] == list(range(1, 21))
    assert set(used[12:]) == {"DEFAULT"}


def test_functions_that_run_eagerly_do_so():
    eager = []
    direct = DirectFunction(lambda x: eager.append(tf.executing_eagerly()) or x)
    direct(tf.constant(1.0))
    tf.config.run_functions_eagerly(True)
    try:
        direct(tf.constant(1.0))
    finally:
        tf.config.run_functions_eagerly(False)
    assert eager == [False, True]


@pytest.mark.parametrize("leaf", [np.ones(2), [1.0, 2.0], 3, np.float32(1.0), tf.ones(2)], ids=repr)
def test_leaves_become_tensors(leaf):
    tensors = as_tensors({"x": leaf, "y": None})
    assert tensors["y"] is None
    for ours, theirs in zip(tf.nest.flatten(tensors["x"]), tf.nest.flatten(leaf)):
        assert tf.is_tensor(ours)
        assert ours.dtype == tf.convert_to_tensor(theirs).dtype


# ----------------------------------------------------------------------------------------------------- single steps


def by_session(model):
    with TrainingSession(model, verbose=0) as session:
        for _ in session.epochs():
            logs = [session.train_on(batch) for batch in batches()]
    return compat.pythonify_logs(logs[-1])


def by_batch(model):
    model.reset_metrics()
    logs = [model.train_on_batch(x, y, return_dict=True) for x, y in batches()]
    if isinstance(model, CustomTrainModel):
        model.apply_accumulated_gradients()
    return logs[-1]


def by_fit(model):
    data = tf.data.Dataset.from_generator(
        batches,
        output_signature=(tf.TensorSpec([None, *X.shape[1:]], X.dtype), tf.TensorSpec([None, *Y.shape[1:]], Y.dtype)),
    )
    return {name: values[-1] for name, values in model.fit(data, verbose=0).history.items()}


def trained(train, build=models.dropout, base=CustomTrainModel, **options):
    keras.utils.set_random_seed(SEED)
    model = compiled(build, base, **options)
    return train(model), model.get_weights()


def assert_same(ours, theirs):
    """Logs and weights."""
    assert ours[0] == theirs[0]
    np.testing.assert_equal(ours[1], theirs[1])


@pytest.mark.parametrize("build", [models.dense, models.dropout, models.batch_norm])
def test_single_steps_are_those_of_fit(build):
    """Also where Keras 2's dropout keeps its random state in the graph."""
    assert_same(trained(by_session, build), trained(by_fit, build, keras.Model))


@pytest.mark.parametrize("build", [models.dense, models.dropout, models.batch_norm])
@pytest.mark.parametrize("options", [{}, {"clipnorm": 0.1, "gradient_accumulation_steps": 2}], ids=["plain", "options"])
def test_train_on_batch_is_keras_own(build, options):
    if options:
        np.testing.assert_equal(trained(by_batch, build, **options)[1], trained(by_session, build, **options)[1])
        return
    assert_same(trained(by_batch, build), trained(by_batch, build, keras.Model))


def test_train_on_batch_and_fit_take_turns():
    def both(model):
        logs = by_batch(model)
        by_fit(model)
        return logs, by_batch(model)

    assert_same(trained(both), trained(both, base=keras.Model))


def test_a_train_function_of_the_users_is_left_alone():
    class Own(CustomTrainModel):
        def make_train_function(self, force=False):
            self.train_function = lambda iterator: {"loss": tf.constant(7.0)}
            return self.train_function

    assert trained(by_batch, base=Own)[0]["loss"] == 7.0


def compiled_part(x):
    return tf.function(lambda x: 2.0 * x + 1.0, jit_compile=True)(x)


def python_part(x):
    return tf.ensure_shape(tf.numpy_function(lambda value: 2 * value, [x], tf.float32), x.shape)


def control_flow(x):
    x = tf.cond(tf.reduce_sum(x) > 0, lambda: 2.0 * x, lambda: x)
    return tf.while_loop(lambda index, _: index < 3, lambda index, y: (index + 1, y + x), (0, x))[1]


def lookup(x):
    with tf.init_scope():
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant([0.5, 2.0]))
        table = tf.lookup.StaticHashTable(pairs, 1.0)
    lookup.tables.append(table)  # a graph does not keep it
    return x * table.lookup(tf.cast(x > 0, tf.int64))


lookup.tables = []


@pytest.mark.parametrize("part", [compiled_part, python_part, control_flow, lookup])
def test_whatever_a_step_does_is_the_same(part):
    class Own(CustomTrainModel):
        def train_step(self, data):
            x, y = data
            return super().train_step((part(x), y))

    def by_session_often(model):
        with TrainingSession(model, verbose=0) as session:
            for _ in session.epochs():
                for _ in range(15):  # beyond the trials of the executors
                    logs = session.train_on((X[:16], Y[:16]))
        return compat.pythonify_logs(logs)

    def by_fit_often(model):
        data = tf.data.Dataset.from_tensors((X[:16], Y[:16])).repeat(15)
        return {name: values[-1] for name, values in model.fit(data, verbose=0).history.items()}

    assert_same(trained(by_session_often, models.dense, Own), trained(by_fit_often, models.dense, Own))


def test_random_state_in_the_graph_is_found():
    def of(function):
        return keeps_random_state(tf.function(function).get_concrete_function(tf.TensorSpec([2])))

    nested = tf.function(lambda x: x + tf.random.uniform([2]))
    assert of(lambda x: x + tf.random.uniform([2], seed=3))
    assert of(lambda x: tf.cond(x[0] > 0, lambda: nested(x), lambda: x))
    assert of(tf.random.shuffle)
    assert not of(lambda x: x + tf.random.stateless_uniform([2], [1, 2]))
