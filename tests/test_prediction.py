"""`custom_predict` returns what `predict` returns, to the bit, in one array and with few traces."""

import collections
import tracemalloc

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, compat
from customfit.compat import keras, tf
from customfit.data import ArraySource
from customfit.execution import CompiledPrediction
from customfit.training import prediction
from tests.parity import models

X, Y = models.rows(70)
supports = pytest.mark.supports
Pair = collections.namedtuple("Pair", "second first")


class Returns(CustomTrainModel):
    """A model without weights that returns `function(x)`."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.traces = []

    def call(self, x):
        self.traces.append(getattr(x, "shape", None))
        return self.function(x)


def described(outputs):
    """Types, shapes and bits of outputs, in a form that can be compared."""
    if isinstance(outputs, dict):
        return type(outputs), [(name, described(output)) for name, output in outputs.items()]
    if isinstance(outputs, (list, tuple)):
        return type(outputs), [described(output) for output in outputs]
    if isinstance(outputs, tf.RaggedTensor):
        splits = [each.numpy().tolist() for each in outputs.nested_row_splits]
        return "ragged", str(outputs.shape), splits, outputs.uniform_row_length, described(outputs.flat_values.numpy())
    if isinstance(outputs, tf.SparseTensor):
        parts = (outputs.indices.numpy(), outputs.values.numpy(), outputs.dense_shape.numpy())
        return "sparse", str(outputs.shape), [described(part) for part in parts]
    array = np.asarray(outputs)
    return type(outputs), str(array.dtype), array.shape, array.tolist() if array.dtype == object else array.tobytes()


def assert_same(function, x=X, compile_options=None, **arguments):
    """`predict` and `custom_predict` of two models alike return the same. A function as `x` makes the data."""
    results = []
    for how in ("predict", "custom_predict"):
        keras.utils.set_random_seed(1)
        model = Returns(function)
        if compile_options is not None:
            model.compile(**compile_options)
        results.append(getattr(model, how)(x() if callable(x) else x, verbose=0, **arguments))
    theirs, ours = results
    assert described(ours) == described(theirs)
    return ours


def cut(x):
    """Of each row as many values as its first says."""
    return tf.RaggedTensor.from_tensor(x, lengths=tf.cast(x[:, 0] * 8, tf.int32))


def as_wide_as_its_first_row_says(x):
    return tf.ones(tf.stack([tf.shape(x)[0], 1 + tf.cast(x[0, 0] * 9, tf.int32), 2])) * x[:, :1, tf.newaxis]


OUTPUTS = {
    "array": lambda x: x * 2,
    "vector": lambda x: x[:, 0],
    "no columns": lambda x: x[:, :0],
    "dict": lambda x: {"b": x, "a": x[:, :2]},
    "list": lambda x: [x, (x[:, :2], {"c": x})],
    "tuple of one": lambda x: (x,),
    "namedtuple": lambda x: Pair(x, x[:, :2]),
    "scalar": tf.reduce_sum,
    "strings": lambda x: tf.strings.as_string(x[:, :2]),
    "dtypes": lambda x: [tf.cast(x * 9, each) for each in (tf.bool, tf.int8, tf.float16, tf.bfloat16, tf.complex64)],
    "other rows than the inputs": lambda x: x[:3] * 2,
    "ragged": cut,
    "sparse": lambda x: tf.sparse.from_dense(tf.where(x > 0.5, x, 0)),
    "as wide as the batch": as_wide_as_its_first_row_says,
    "of unknown rank": lambda x: tf.numpy_function(lambda values: values * 2, [x], tf.float32),
}
# Keras before 3.4 fails with sparse outputs.
REFUSED = {"sparse"} if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 4) else set()


def unknown_size():
    return tf.data.Dataset.from_tensor_slices(X).filter(lambda x: True).batch(16)


@supports("Prediction", "`custom_predict`, as `predict`: nested outputs; strings, ragged and sparse; of any shapes")
@pytest.mark.parametrize("name", [name for name in OUTPUTS if name not in REFUSED])
@pytest.mark.parametrize(
    ("x", "batch_size"), [(X[:5], 32), (X, 7), (unknown_size, None)], ids=["one batch", "batches", "dataset"]
)
def test_outputs(name, x, batch_size):
    assert_same(OUTPUTS[name], x, batch_size=batch_size)


def test_an_output_that_is_none():
    """`predict` of Keras 3 fails, that of Keras 2 does with several batches."""
    rows, nothing = Returns(lambda x: (x, None)).custom_predict(X, verbose=0)
    np.testing.assert_array_equal(rows, X)
    assert nothing is None
    assert Returns(lambda x: (x, None)).custom_predict(X[:3], verbose=0)[1] is None


class Batches(keras.utils.Sequence):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[index * 7 : index * 7 + 7], Y[index * 7 : index * 7 + 7]


def batches(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(16)


INPUTS = {
    "arrays": (X, {}),
    "full batches": (X[:64], {"batch_size": 16}),
    "one full batch": (X[:16], {"batch_size": 16}),
    "steps": (X, {"batch_size": 16, "steps": 2}),
    "steps without batch_size": (X, {"steps": 2}),
    "float64": (X.astype("float64"), {}),
    "int64": ((X * 9).astype("int64"), {}),
    "tensor": (tf.constant(X), {}),
    "few of a tensor": (tf.constant(X[:3].astype("float64")), {}),
    "dataset": (lambda: batches(X), {}),
    "dataset with targets": (lambda: batches(X, Y), {}),
    "dataset with weights": (lambda: batches(X, Y, Y), {"steps": 2}),
    "endless dataset": (lambda: batches(X).repeat(), {"steps": 7}),
    "generator": (lambda: ((X[begin : begin + 9], Y[begin : begin + 9]) for begin in range(0, 70, 9)), {}),
    "generator with steps": (lambda: ((X[:9],) for _ in range(9)), {"steps": 4}),
    "Sequence": (Batches, {}),
}


@supports("Prediction", "inputs: all of the above; targets and weights in batches are ignored")
@pytest.mark.parametrize(("x", "arguments"), INPUTS.values(), ids=INPUTS)
def test_inputs(x, arguments):
    assert_same(lambda x: tf.cast(x, "float32") * 2, x, **arguments)


@pytest.mark.parametrize("rows", [5, 70])
def test_a_data_frame(rows):
    pandas = pytest.importorskip("pandas")
    assert_same(lambda x: x * 2, pandas.DataFrame(X[:rows]))
    assert_same(lambda x: x * 2, pandas.Series(X[:rows, 0]))


def three_inputs(cls):
    inputs = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    return cls(inputs, {"joined": joined, "kind": keras.layers.Dense(3, name="kind")(joined)})


@pytest.mark.parametrize("rows", [5, 70])
@pytest.mark.parametrize("how", [dict, list, tuple])
def test_several_inputs(how, rows):
    left, right = X[:rows, :4], X[:rows, 4:]
    if how is dict:
        model, x = three_inputs(CustomTrainModel), {"right": right, "left": left}
    else:
        inputs = [keras.Input((4,)), keras.Input((4,))]
        model, x = CustomTrainModel(inputs, keras.layers.Concatenate()(inputs)), how([left, right])
    assert described(model.custom_predict(x, verbose=0)) == described(model.predict(x, verbose=0))


@pytest.mark.parametrize("rows", [5, 70])
@pytest.mark.parametrize(
    "x", [{"a": X, "b": [X, X]}, [X, (X, X)], (X, X), Pair(X, [X])], ids=["dict", "list", "tuple", "namedtuple"]
)
def test_inputs_reach_the_model_in_the_structure_that_predict_gives_them(x, rows):
    structures = []

    def note(x):
        structures.append(tf.nest.map_structure(lambda _: 0, x))
        return tf.concat(tf.nest.flatten(x), 1)

    model = Returns(note)
    x = tf.nest.map_structure(lambda leaf: leaf[:rows], x)
    ours, theirs = (getattr(model, how)(x, verbose=0) for how in ("custom_predict", "predict"))
    np.testing.assert_array_equal(ours, theirs)
    assert described(structures[0]) == described(structures[-1])


def test_a_source():
    given = Returns(lambda x: x * 2).custom_predict(ArraySource(X, batch_size=16), verbose=0)
    np.testing.assert_array_equal(given, X * 2)


@pytest.mark.parametrize("build", [models.dense, models.batch_norm, models.two_outputs, models.subclassed])
@pytest.mark.parametrize("rows", [1, 70])
def test_models(build, rows):
    model = build(CustomTrainModel)
    ours = model.custom_predict(X[:rows], verbose=0)
    assert described(ours) == described(model.predict(X[:rows], verbose=0))


@pytest.mark.parametrize("steps", [None, 9])
def test_data_that_end_early(steps):
    with pytest.warns(UserWarning, match="ran out of data"):
        given = Returns(lambda x: x * 2).custom_predict(X, batch_size=16, steps=steps or 6, verbose=0)
    np.testing.assert_array_equal(given, X * 2)


@pytest.mark.skipif(
    not hasattr(getattr(keras, "config", None), "set_max_steps_per_epoch"), reason="this Keras has no global limits"
)
def test_a_global_limit_of_steps():
    keras.config.set_max_steps_per_epoch(2)
    try:
        assert len(assert_same(lambda x: x * 2, batch_size=16)) == 32
        assert len(assert_same(lambda x: x * 2, unknown_size)) == 32
    finally:
        keras.config.set_max_steps_per_epoch(None)


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="`predict` of Keras 2 must be told the number of steps")
def test_an_execution_that_is_not_full():
    assert_same(lambda x: x * 2, unknown_size, {"steps_per_execution": 3})


def test_a_dataset_that_shuffles_itself_comes_in_the_order_of_predict():
    orders = []
    for how in ("predict", "custom_predict"):
        keras.utils.set_random_seed(3)
        data = tf.data.Dataset.from_tensor_slices(X).shuffle(70, seed=3).batch(16)
        model = Returns(lambda x: x * 2)
        orders.append([getattr(model, how)(data, verbose=0) for _ in range(3)])
    np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("how", ["few", "array", "dataset", "generator"])
def test_no_data(how):
    empty = {
        "few": X[:0],
        "array": [X[:0], X[:0]],
        "dataset": tf.data.Dataset.from_tensor_slices(X).filter(lambda x: False).batch(4),
        "generator": (batch for batch in ()),
    }[how]
    with pytest.raises(ValueError, match="at least one"):
        Returns(lambda x: x).custom_predict(empty, verbose=0)


def test_arguments():
    with pytest.raises(TypeError, match=r"custom_predict\(\) .* 'batchsize'. Did you mean 'batch_size'?"):
        Returns(lambda x: x).custom_predict(X, batchsize=3)
    for rows in (5, 70):
        with pytest.raises(ValueError, match="`batch_size` must be a positive integer. Received: batch_size=0"):
            Returns(lambda x: x).custom_predict(X[:rows], batch_size=0, verbose=0)
        with pytest.raises(ValueError, match="`steps` must be a positive integer. Received: steps=0"):
            Returns(lambda x: x).custom_predict(X[:rows], steps=0, verbose=0)


def test_a_mistake_in_the_model_is_reported_for_few_rows_too():
    def mistaken(x):
        raise KeyError("a mistake in the user's model")

    with pytest.raises((KeyError, RuntimeError), match="a mistake"):
        Returns(mistaken).custom_predict(X[:1], verbose=0)


@pytest.mark.parametrize("rows", [5, 70])
def test_what_is_returned_is_the_caller_s(rows):
    model = Returns(lambda x: x * 2)
    first = model.custom_predict(X[:rows], verbose=0)
    first += 1
    np.testing.assert_array_equal(model.custom_predict(X[:rows], verbose=0), X[:rows] * 2)


# ------------------------------------------------------------------------------------------------------ how it runs


@pytest.mark.parametrize("name", ["array", "dict", "ragged", "as wide as the batch", "scalar"])
def test_eagerly(name):
    assert_same(OUTPUTS[name], X[:20], {"run_eagerly": True}, batch_size=7)
    assert_same(OUTPUTS[name], X[:5], {"run_eagerly": True})


@pytest.mark.parametrize("rows", [5, 70])
def test_all_functions_run_eagerly(rows):
    tf.config.run_functions_eagerly(True)
    seen = []
    Returns(lambda x: seen.append(tf.executing_eagerly()) or x).custom_predict(X[:rows], verbose=0)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("rows", [5, 70])
def test_xla(rows):
    ours = assert_same(lambda x: tf.tanh(x) * 2, X[:rows], {"jit_compile": True})
    assert len(ours) == rows


def test_steps_per_execution():
    for name in ("array", "dict", "ragged"):
        assert_same(OUTPUTS[name], X, {"steps_per_execution": 3}, batch_size=7)


def test_compiling_has_effect():
    model, eager = models.dense(CustomTrainModel), []
    for options in ({}, {"run_eagerly": True}, {}):
        model.compile(**options)
        for x in (X[:5], X):
            np.testing.assert_array_equal(model.custom_predict(x, verbose=0), model.predict(x, verbose=0))
        eager.append(model._compiled_prediction.options[0])
    model.run_eagerly = True
    model.custom_predict(X, verbose=0)
    assert [*eager, model._compiled_prediction.options[0]] == [False, True, False, True]
    model.make_predict_function(force=True)
    assert model._compiled_prediction is None


def test_new_weights_are_used():
    model = models.dense(CustomTrainModel)
    for x in (X[:5], X):
        before = model.custom_predict(x, verbose=0)
        model.set_weights([weight + 0.1 for weight in model.get_weights()])
        after = model.custom_predict(x, verbose=0)
        assert not np.array_equal(before, after)
        np.testing.assert_array_equal(after, model.predict(x, verbose=0))


def test_no_retrace_for_any_number_of_rows():
    model = Returns(lambda x: x * 2)
    for rows in (1, 2, 3, 5, 8, 13, 32):
        for x in (X[:rows], tf.constant(X[:rows])):
            np.testing.assert_array_equal(model.custom_predict(x, verbose=0), X[:rows] * 2)
    assert len(model.traces) == 1
    for rows in (33, 40, 50, 61, 70):
        model.custom_predict(X[:rows], verbose=0)
    assert len(model.traces) <= 3


def test_a_trace_for_each_kind_of_inputs():
    model = Returns(lambda x: x if isinstance(x, tf.Tensor) else tf.concat(tf.nest.flatten(x), 1))
    for rows in (1, 2, 3):
        model.custom_predict({"a": X[:rows], "b": X[:rows]}, verbose=0)
        model.custom_predict({"a": X[:rows], "b": X[:rows, :2]}, verbose=0)
        model.custom_predict(X[:rows], verbose=0)
    assert len(model.traces) == 3


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_a_model_that_asks_for_the_number_of_rows(rows):
    """It is traced for each number of rows."""
    model = Returns(lambda x: x + np.ones([x.shape[0], 8], "float32"))
    np.testing.assert_array_equal(model.custom_predict(X[:rows], verbose=0), X[:rows] + 1)


def test_memory_is_that_of_the_result(monkeypatch):
    """A list of batches that is joined in the end would take twice as much."""
    model = Returns(lambda x: tf.tile(x, [1, 100]))
    x = np.tile(X, (80, 1))
    in_blocks, run = [], CompiledPrediction.run

    def recorded(self, block):
        outputs = run(self, block)
        in_blocks.append(outputs.nbytes)
        return outputs

    monkeypatch.setattr(CompiledPrediction, "run", recorded)
    model.custom_predict(x[:600], verbose=0)  # traces
    tracemalloc.start()
    try:
        result = model.custom_predict(x, verbose=0)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * result.nbytes
        tracemalloc.reset_peak()
        del result
        batches = ((x[begin : begin + 32],) for begin in range(0, len(x), 32))
        result = model.custom_predict(batches, verbose=0)  # nobody knows how many
        assert tracemalloc.get_traced_memory()[1] < 1.25 * result.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(result, np.tile(x, (1, 100)))
    assert max(in_blocks) <= prediction.MAX_BLOCK_BYTES  # what TensorFlow holds
    assert len(in_blocks) < 100  # and not step by step


# -------------------------------------------------------------------------------------------------------- callbacks


class Recorder(keras.callbacks.Callback):
    """Notes the calls of predict hooks, with the bits of outputs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_predict_begin(self, logs=None):
        self.calls.append("begin")

    def on_predict_end(self, logs=None):
        self.calls.append("end")

    def on_predict_batch_begin(self, batch, logs=None):
        self.calls.append(("begin", int(batch)))

    def on_predict_batch_end(self, batch, logs=None):
        self.calls.append(("end", int(batch), described(tf.nest.map_structure(np.asarray, logs))))


@supports("Prediction", "callbacks with predict hooks: the same calls and outputs")
@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize("name", ["array", "dict", "dtypes"])
@pytest.mark.parametrize("rows", [7, 56])
def test_callbacks_hear_the_same(name, steps_per_execution, rows):
    calls = []
    for how in ("predict", "custom_predict"):
        model, recorder = Returns(OUTPUTS[name]), Recorder()
        model.compile(steps_per_execution=steps_per_execution)
        getattr(model, how)(X[:rows], batch_size=7, verbose=0, callbacks=[recorder])
        calls.append(recorder.calls)
    assert calls[0] == calls[1]
    assert len(calls[0]) == 2 + 2 * -(-rows // 7 // steps_per_execution)


def test_callbacks_hear_of_ragged_outputs():
    heard = []
    listens = keras.callbacks.Callback()
    listens.on_predict_batch_end = lambda batch, logs=None: heard.append(described(logs["outputs"]))
    for how in ("predict", "custom_predict"):
        getattr(Returns(cut), how)(X, batch_size=16, verbose=0, callbacks=[listens])
    assert heard[:5] == heard[5:]


def test_a_callback_without_batch_hooks_does_not_slow_it_down(monkeypatch):
    class Ends(keras.callbacks.Callback):
        calls = 0

        def on_predict_end(self, logs=None):
            self.calls += 1

    ends, model = Ends(), Returns(lambda x: x * 2)
    for _ in range(4):
        model.custom_predict(X, batch_size=1, verbose=0, callbacks=ends)
    ran, run = [], CompiledPrediction.run
    monkeypatch.setattr(CompiledPrediction, "run", lambda self, block: ran.append(block.count) or run(self, block))
    model.custom_predict(X, batch_size=1, verbose=0, callbacks=ends)
    assert ends.calls == 5
    assert sum(ran) == 70
    assert len(ran) < 10


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="`predict` of Keras 2 cannot be stopped")
@pytest.mark.parametrize("how", ["predict", "custom_predict"])
def test_a_callback_stops_it(how):
    class Stops(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            self.model.stop_predicting = batch == 2

    model = Returns(lambda x: x * 2)
    given = getattr(model, how)(X, batch_size=7, verbose=0, callbacks=[Stops()])
    np.testing.assert_array_equal(given, X[:21] * 2)
    assert len(getattr(model, how)(X, batch_size=7, verbose=0)) == 70


@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("rows", [5, 70])
def test_progress(verbose, rows, capsys):
    printed = []
    for how in ("predict", "custom_predict"):
        getattr(Returns(lambda x: x * 2), how)(X[:rows], verbose=verbose)
        printed.append(capsys.readouterr().out.replace("\b", "").split()[:1])
    assert printed[0] == printed[1] != []


# ------------------------------------------------------------------------------------------- steps, classes and state


class Logits(CustomTrainModel):
    """With a `predict_step` of its own, which notes the structure of its data."""

    def predict_step(self, data):
        x, *others = data if isinstance(data, tuple) else (data,)
        self.structures.append((type(data), len(others)))
        return {"doubled": self(x, training=False) * 2, "x": x}


@supports("Prediction", "a `predict_step`, and a `predict` that preprocesses, of the class's own")
@pytest.mark.parametrize("x", [X[:5], X, batches(X, Y), batches(X)], ids=["few", "arrays", "with targets", "dataset"])
def test_a_predict_step_of_the_user_s(x):
    results, structures = [], []
    for how in ("predict", "custom_predict"):
        keras.utils.set_random_seed(1)
        model = models.dense(Logits)
        model.structures = []
        results.append(getattr(model, how)(x, verbose=0))
        structures.append(set(model.structures))
    assert described(results[0]) == described(results[1])
    assert structures[0] == structures[1]


class Preprocesses(keras.Sequential):
    """As keras_hub's `PipelineModel` does."""

    def predict(self, x, *args, **kwargs):
        self.called = True
        return 1 - super().predict(x / 255, *args, **kwargs)


class Natural(Preprocesses, CustomTrainModel):
    pass


class MixinFirst(CustomTrainMixin, Preprocesses):
    pass


@pytest.mark.parametrize("cls", [Natural, MixinFirst])
@pytest.mark.parametrize("rows", [5, 70])
def test_it_goes_through_predict(cls, rows):
    results = []
    for kind, how in ((Preprocesses, "predict"), (cls, "custom_predict"), (cls, "predict")):
        keras.utils.set_random_seed(1)
        model = kind([keras.Input((8,)), keras.layers.Dense(3)])
        results.append(getattr(model, how)(X[:rows] * 255, verbose=0, batch_size=16))
        assert model.called
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_a_predict_that_never_arrives():
    class Never(CustomTrainModel):
        def predict(self, x, **kwargs):
            return x

    with pytest.raises(RuntimeError, match=r"must call `super\(\).predict\(\)`"):
        models.dense(Never).custom_predict(X, verbose=0)


class Changes(CustomTrainModel):
    """A model that a prediction changes."""

    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x):
        return self.drop(self.norm(x, training=True), training=True)


def state(model):
    return [np.array(variable) for layer in model.layers for variable in layer.variables]


@supports("Prediction", "what a forward pass changes: dropout that stays on, moving averages")
@pytest.mark.parametrize("sizes", [(70,), (5, 7), (70, 75, 5), (64, 5, 70)])
def test_what_a_prediction_changes_ends_the_same(sizes):
    results, states = [], []
    rows = np.tile(X, (2, 1))
    for how in ("predict", "custom_predict"):
        keras.utils.set_random_seed(1)
        model = Changes()
        results.append([getattr(model, how)(rows[:size], verbose=0) for size in sizes])
        states.append(state(model))
    for theirs, ours in zip(*results):
        np.testing.assert_array_equal(ours, theirs)
    for theirs, ours in zip(*states):
        np.testing.assert_array_equal(ours, theirs)


def test_numbers_are_drawn_anew_in_each_call():
    model = Returns(lambda x: x + tf.random.uniform(tf.shape(x)))
    drawn = [model.custom_predict(X[:rows], verbose=0)[:5] for rows in (5, 5, 7, 70, 70, 75)]
    assert len({each.tobytes() for each in drawn}) == len(drawn)


def test_without_a_seed_nobody_knows_what_is_drawn():
    def draw(x):
        tf.compat.v1.get_default_graph().seed = None
        return x + tf.random.uniform(tf.shape(x))

    for rows in (5, 70):
        one, other = (Returns(draw).custom_predict(X[:rows], verbose=0) for _ in range(2))
        assert not np.array_equal(one, other)


def test_in_training_it_changes_nothing():
    weights = []
    for predicts in (False, True):
        keras.utils.set_random_seed(1)
        model = models.dense(CustomTrainModel)
        model.compile("adam", "sparse_categorical_crossentropy")
        hook = lambda epoch, logs: predicts and [model.custom_predict(x, verbose=0) for x in (X[:5], X)]  # noqa: B023
        model.custom_fit(X, Y, epochs=3, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=hook)])
        weights.append(model.get_weights())
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)
