"""Every kind of data that `fit` takes gives the same weights and History under `custom_fit`; and what else it takes."""

import functools
import multiprocessing

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED, assert_equal, compiled, train
from tests.parity.compare import assert_parity as compare_both_loops

layers = keras.layers
assert_parity = functools.partial(compare_both_loops, fit_of_ours=False)  # it is the data that could differ
X, Y = models.rows()
SPARSE = X * (X > 0.6)
RNG = np.random.RandomState(1)
WORDS = [list(RNG.randint(0, 10, RNG.randint(1, 6))) for _ in X]
supports = pytest.mark.supports
# Where the data ends with an epoch of `steps_per_epoch`, `fit` of these trains the next epoch on no batch at all.
LOSES_EPOCHS = compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 7)


def from_sparse(cls):
    inputs = keras.Input((8,), sparse=True)
    hidden = layers.Dense(16, activation="relu")(inputs)
    return cls(inputs, layers.Dense(3, activation="softmax")(hidden))


def from_ragged(cls):
    inputs = keras.Input((None,), ragged=True, dtype="int32")
    mean = layers.Lambda(lambda words: tf.reduce_mean(words, axis=1), output_shape=(4,))
    return cls(inputs, layers.Dense(3, activation="softmax")(mean(layers.Embedding(10, 4)(inputs))))


def batches(**options):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


# ---------------------------------------------------------------------------------------------------------- rows


@supports("Data", "NumPy arrays of any dtype, `tf.Tensor`")
@pytest.mark.parametrize(
    "x",
    [
        X.astype("float64"),
        X.astype("float16"),
        X > 0.5,
        (X * 255).astype("uint8"),
        tf.constant(X),
        tf.constant(X, "float64"),
    ],
    ids=["float64", "float16", "bool", "uint8", "tensor", "tensor64"],
)
def test_dtypes(x):
    assert_parity(models.dense, {"x": x, "y": Y})


@supports("Data", "pandas `DataFrame` and `Series`")
@pytest.mark.parametrize("shuffle", [False, True])
def test_pandas(shuffle):
    pandas = pytest.importorskip("pandas")
    data = {"x": pandas.DataFrame(X), "y": pandas.Series(Y), "sample_weight": pandas.Series(np.linspace(0, 1, len(X)))}
    epochs = 1 if shuffle and compat.IS_KERAS_3 else 3
    assert_parity(models.dense, {**data, "validation_split": 0.2, "shuffle": shuffle, "epochs": epochs})


@supports("Data", "scipy sparse matrices and `tf.SparseTensor`")
@pytest.mark.skipif(compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 1), reason="`fit` of Keras 3.0 takes none")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", ["scipy", "tf"])
def test_sparse(kind, shuffle):
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.csr_matrix(SPARSE) if kind == "scipy" else tf.sparse.from_dense(SPARSE)
    epochs = 1 if shuffle and compat.IS_KERAS_3 else 3
    assert_parity(from_sparse, {"x": x, "y": Y, "shuffle": shuffle, "epochs": epochs})


@supports("Data", "`tf.RaggedTensor`")
@pytest.mark.skipif(
    compat.IS_KERAS_3 and not hasattr(keras.KerasTensor, "ragged"), reason="this Keras has no ragged inputs"
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_ragged(shuffle):
    epochs = 1 if shuffle and compat.IS_KERAS_3 else 3
    x = tf.ragged.constant(WORDS, dtype=tf.int32)
    assert_parity(from_ragged, {"x": x, "y": Y, "shuffle": shuffle, "epochs": epochs})


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_sparse_rows_are_gathered_as_dense_ones_are(shuffle):
    """Also where Keras 3's `fit` repeats an order, and for a validation split of sparse data."""
    if not compat.IS_KERAS_3:
        pytest.skip("Keras 2 shuffles sparse tensors in another order than dense ones")
    arguments = {"y": Y, "shuffle": shuffle, "validation_split": 0.2}
    sparse = train(from_sparse, "custom_fit", {"x": tf.sparse.from_dense(SPARSE), **arguments})
    dense = train(models.dense, "custom_fit", {"x": SPARSE, **arguments})
    for ours, theirs in zip(sparse[0].get_weights(), dense[0].get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)  # sparse products add up in another order


@supports("Data", "Python lists of numbers", fit="Keras 2")
def test_lists_of_numbers():
    arrays = train(models.dense, "custom_fit", {"x": X, "y": Y, "sample_weight": np.ones(len(X))})
    lists = {"x": X.tolist(), "y": Y.tolist(), "sample_weight": [1.0] * len(X)}
    assert_equal(train(models.dense, "custom_fit", lists), arrays)


def three_inputs(cls, nested):
    left, right, more = keras.Input((4,), name="left"), keras.Input((2,), name="right"), keras.Input((2,), name="more")
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()([left, right, more]))
    out = layers.Dense(3, activation="softmax", name="kind")(hidden), layers.Dense(1, name="size")(hidden)
    return cls([left, [right, more]] if nested else [left, right, more], list(out))


@supports("Data", "nested dicts, lists and tuples of them")
@pytest.mark.parametrize("nested", [False, True])
def test_nested_structures(nested):
    if nested and LOSES_EPOCHS:
        pytest.skip("functional models of this Keras take no nested inputs")
    x = [X[:, :4], [X[:, 4:6], X[:, 6:]]] if nested else (X[:, :4], X[:, 4:6], X[:, 6:])
    arguments = {"x": x, "y": [Y, X[:, :1]], "validation_split": 0.2}
    options = {"loss": ["sparse_categorical_crossentropy", "mse"], "metrics": [["accuracy"], ["mae"]]}
    assert_parity(functools.partial(three_inputs, nested=nested), arguments, **options)


@supports("Data", "one `sample_weight` for several outputs, or one each")
@pytest.mark.parametrize("each", [False, True])
def test_sample_weight_of_several_outputs(each):
    weight = np.linspace(0, 1, len(X)).astype("float32")
    if not each and not compat.IS_KERAS_3:
        pytest.skip("`fit` of Keras 2 wants one for each")
    arguments = {
        "x": X,
        "y": {"kind": Y, "size": X[:, :1]},
        "sample_weight": {"kind": weight, "size": 1 - weight} if each else weight,
    }
    options = {"loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"}, "metrics": None}
    # Keras 3.0 adds up a ragged batch's weighted loss in another order: the reported loss differs in its last bit.
    rtol = 5e-7 if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 1) else 0.0
    assert_parity(models.two_outputs, arguments, rtol=rtol, **options)


@supports("Data", "`batch_size` from `steps_per_epoch`")
@pytest.mark.parametrize("steps", [4, 5])
def test_steps_without_a_batch_size_divide_the_rows(steps):
    epochs = 1 if LOSES_EPOCHS else 3
    assert_parity(models.dense, {"x": X, "y": Y, "steps_per_epoch": steps, "batch_size": None, "epochs": epochs})


# ------------------------------------------------------------------------------------------------------- batches


class Batches(keras.utils.Sequence):
    """Batches that change from epoch to epoch."""

    def __init__(self, **options):
        if compat.IS_KERAS_3:
            super().__init__(**options)
        self.epoch = 0

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rows = slice(index * 16, index * 16 + 16)
        return X[rows] + self.epoch, Y[rows]

    def on_epoch_end(self):
        self.epoch += 1


@supports("Data", "`keras.utils.Sequence` and `PyDataset`, with `on_epoch_end`")
def test_sequence():
    assert_parity(
        models.dropout,
        lambda: {"x": Batches(), "validation_data": Batches(), "batch_size": None},
    )


class Still(Batches):
    """Batches that do not change, which workers may fetch before or after `on_epoch_end`."""

    def on_epoch_end(self):
        pass


@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_sequence_by_steps(steps):
    epochs = 1 if LOSES_EPOCHS else 2
    assert_parity(
        models.dropout, lambda: {"x": Still(), "steps_per_epoch": steps, "batch_size": None, "epochs": epochs}
    )


@pytest.fixture
def forks_of_a_clean_process():
    """A fork of a process whose threads hold locks, as TensorFlow's do, may wait for them for ever."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@supports("Data", "`Sequence` workers, as threads or processes")
@pytest.mark.parametrize("use_multiprocessing", [False, True])
def test_workers(use_multiprocessing, forks_of_a_clean_process):
    options = {"workers": 2, "use_multiprocessing": use_multiprocessing}
    rest = {"batch_size": None, "epochs": 1}  # Keras 2 waits five seconds for its workers to end, each epoch

    def arguments():
        if compat.IS_KERAS_3:
            return {"x": Still(**options), **rest}
        return {"x": Still(), **rest, **options}

    assert_parity(models.dense, arguments)


def test_workers_are_refused_where_fit_does_not_take_them():
    model = compiled(models.dense)
    with pytest.raises(TypeError, match="unexpected keyword argument 'worker'"):
        model.custom_fit(X, Y, worker=2)
    if compat.IS_KERAS_3:
        with pytest.raises(ValueError, match="must be given to the `keras.utils.PyDataset`.* Received: .*workers"):
            model.custom_fit(Still(), workers=2)


@supports("Data", "a `PyDataset` of unknown length, with `steps_per_epoch`", keras=3)
def test_pydataset_of_unknown_length():
    if not compat.IS_KERAS_3 or compat.KERAS_VERSION < (3, 1):
        pytest.skip("this Keras has no PyDataset of unknown length")

    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return Still.__getitem__(self, index % 5)

        epoch = 0

    assert_parity(models.dense, lambda: {"x": Endless(), "steps_per_epoch": 4, "batch_size": None})


def generate(count):
    for step in range(count):
        rows = slice(step % 5 * 16, step % 5 * 16 + 16)
        yield X[rows], Y[rows]


@supports("Data", "Python generators, to their end or by `steps_per_epoch`")
@pytest.mark.parametrize("epochs", [1, 3])
def test_generator_that_holds_enough(epochs):
    assert_parity(
        models.dense,
        lambda: {"x": generate(50), "steps_per_epoch": 4, "epochs": epochs, "batch_size": None},
    )


def test_generator_for_one_epoch():
    theirs = train(
        models.dense, "fit", lambda: {"x": generate(5), "epochs": 1, "batch_size": None}, keras.Model, optimizer="sgd"
    )
    ours = train(
        models.dense, "custom_fit", lambda: {"x": generate(5), "epochs": 1, "batch_size": None}, optimizer="sgd"
    )
    if not compat.IS_KERAS_3 or compat.KERAS_VERSION >= (3, 2):  # before, the end of the data counted in the loss
        assert_equal(ours, theirs)
    assert int(ours[0].optimizer.iterations.numpy()) == 5


@supports("Data", "validation by a generator with `validation_steps`")
def test_validation_generator():
    def endless():
        while True:
            yield from generate(5)

    # In one epoch: how far Keras's prefetching thread has read ahead when a pass ends, is a matter of time.
    arguments = lambda: {"x": X, "y": Y, "validation_data": endless(), "validation_steps": 3}
    assert_parity(models.dense, lambda: {**arguments(), "epochs": 1})
    _, history = train(models.dense, "custom_fit", arguments)
    assert np.isfinite(history.history["val_loss"]).all()
    assert len(history.history["val_loss"]) == 3


@supports("Data", "a `tf.data.Dataset` whose passes are not whole epochs of `steps_per_epoch`")
@pytest.mark.parametrize(("steps", "epochs"), [(3, 4), (2, 5), (4, 3)])
def test_a_dataset_whose_passes_are_no_whole_epochs(steps, epochs):
    """With dropout: on Keras 2 its random state is in the op, so that all epochs have to share one trace.

    Of `iterations` we say nothing: on Keras 2 the step of `fit` that finds no data moves them.
    """
    if LOSES_EPOCHS:
        pytest.skip("fit of this Keras loses the epoch after the data's end")
    given = lambda: {"x": batches(), "batch_size": None, "steps_per_epoch": steps, "epochs": epochs}
    assert_equal(train(models.dropout, "custom_fit", given), train(models.dropout, "fit", given, base=keras.Model))


class Loader:
    """What `fit` does not take: an object with `__iter__` and nothing more."""

    def __iter__(self):
        return generate(5)


@supports("Data", "any iterable of batches", fit="no")
@pytest.mark.parametrize("arguments", [{}, {"steps_per_epoch": 3}, {"steps_per_epoch": 5}], ids=["all", "3", "5"])
def test_any_iterable(arguments):
    arguments = {"batch_size": None, "epochs": 1 if arguments.get("steps_per_epoch") == 3 else 3, **arguments}
    ours = train(models.dense, "custom_fit", {"x": Loader(), "validation_data": Loader(), **arguments})
    known = train(models.dense, "custom_fit", {"x": batches(), "validation_data": batches(), **arguments})
    assert_equal(ours, known)


def test_any_iterator_of_lists():
    pairs = lambda: map(list, generate(50))
    ours = train(models.dense, "custom_fit", lambda: {"x": pairs(), "steps_per_epoch": 4, "batch_size": None})
    same = train(models.dense, "custom_fit", lambda: {"x": generate(50), "steps_per_epoch": 4, "batch_size": None})
    assert_equal(ours, same)


@supports("Data", "torch `DataLoader`", fit="Keras 3")
def test_torch_data_loader():
    torch = pytest.importorskip("torch", reason="torch is not installed", exc_type=ImportError)
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = lambda: {"x": torch.utils.data.DataLoader(data, batch_size=16), "batch_size": None}
    assert_equal(train(models.dense, "custom_fit", loader), train(models.dense, "custom_fit", {"x": X, "y": Y}))
    if compat.IS_KERAS_3:
        assert_parity(models.dense, loader)


@supports("Data", "a dataset that is distributed already, on one replica")
@pytest.mark.parametrize("strategy", ["OneDeviceStrategy", "MirroredStrategy"])
@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_distributed_dataset(strategy, steps_per_execution):
    def run(how, base):
        keras.utils.set_random_seed(SEED)
        scope = getattr(tf.distribute, strategy)("/cpu:0" if strategy == "OneDeviceStrategy" else ["/cpu:0"])
        with scope.scope():
            model = compiled(models.dropout, base, steps_per_execution=steps_per_execution)
        data = scope.experimental_distribute_dataset(batches())
        steps = {"steps_per_epoch": 5}  # Keras 2 does not ask a distributed dataset for its size
        return model, getattr(model, how)(data, epochs=1, verbose=0, **steps)

    assert_equal(run("custom_fit", CustomTrainModel), run("fit", keras.Model))


# --------------------------------------------------------------------------------- epochs that are not one pass


@supports("Data", "`steps_per_epoch` shorter or longer than the data: as `fit` of that generation")
@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_epochs_that_are_not_one_pass(kind, steps):
    data = {"x": X, "y": Y} if kind == "arrays" else {"x": batches(), "batch_size": None}
    arguments = {**data, "steps_per_epoch": steps, "epochs": 3}
    # Not `check_parity`: where the data ends, `fit` moves `optimizer.iterations` by one step more.
    theirs = train(models.dense, "fit", arguments, base=keras.Model, optimizer="sgd")
    ours = train(models.dense, "custom_fit", arguments, optimizer="sgd")
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 2):  # the end of the data counts in the loss
        assert len(ours[1].history.pop("loss")) == len(theirs[1].history.pop("loss"))
    assert_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "generator"])
def test_too_little_data_warns_and_loses_nothing(kind):
    data = {
        "arrays": {"x": X, "y": Y, "batch_size": 16},
        "dataset": {"x": batches()},
        "generator": {"x": generate(5)},
    }[kind]
    model = compiled(models.dense)
    with pytest.warns(UserWarning, match="ran out of data; the epoch ends after 5 of 7 steps"):
        history = model.custom_fit(
            **data, steps_per_epoch=7, epochs=1, verbose=0, shuffle=False, validation_data=(X, Y)
        )
    assert int(model.optimizer.iterations.numpy()) == 5
    assert np.isfinite(history.history["val_loss"]).all()


def test_a_generator_that_ends_with_an_epoch_ends_training():
    model = compiled(models.dense)
    with pytest.warns(UserWarning, match="ran out of data; the epoch ends after 0 of 4 steps"):
        history = model.custom_fit(generate(8), steps_per_epoch=4, epochs=5, verbose=0)
    assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations.numpy()) == 8


# ---------------------------------------------------------------------------------------------------- validation


@supports("Validation", "several named sets: `val_<name>_loss`", fit="no")
@pytest.mark.parametrize("far", [batches, lambda: (X, Y)], ids=["one is batches", "all are rows"])
def test_named_validation_sets(far):
    sets = {"near": (X[:30], Y[:30]), "far": far()}
    model, history = train(models.dense, "custom_fit", {"x": X, "y": Y, "validation_data": sets, "early_stopping": 2})
    for name, data in {"near": (X[:30], Y[:30]), "far": (X, Y)}.items():
        _, alone = train(models.dense, "custom_fit", {"x": X, "y": Y, "validation_data": data})
        assert history.history[f"val_{name}_loss"] == alone.history["val_loss"]
        assert history.history[f"val_{name}_accuracy"] == alone.history["val_accuracy"]
    assert "val_loss" not in history.history


def test_a_dict_of_arrays_is_inputs_as_in_fit():
    x = {"left": X[:, :4], "right": X[:, 4:]}
    assert_parity(models.two_inputs, {"x": x, "y": Y, "validation_data": (x, Y)})


# ----------------------------------------------------------------------------------------------------- shuffling


def orders(how, shuffle, rows=10, epochs=3):
    """The rows as a model meets them: for each epoch, inputs and targets."""
    seen = []

    class Watch(CustomTrainModel):
        def train_step(self, data):
            tf.py_function(lambda x, y: seen.extend(zip(x.numpy().ravel(), y.numpy().ravel())), data, [])
            return super().train_step(data)

    keras.utils.set_random_seed(3)
    inputs = keras.Input((1,))
    model = Watch(inputs, layers.Dense(1)(inputs))
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.arange(rows, dtype="float32")[:, None]
    getattr(model, how)(x, x, batch_size=4, epochs=epochs, shuffle=shuffle, verbose=0)
    return [[tuple(map(int, pair)) for pair in seen[epoch * rows : (epoch + 1) * rows]] for epoch in range(epochs)]


@supports("Data", '`shuffle="batch"`: new each epoch, inputs and targets together')
def test_shuffle_within_batches():
    """Keras 3 repeats the first epoch's order; 3.0 and 2 shuffle inputs and targets apart, which nobody can want."""
    ours, theirs = orders("custom_fit", "batch"), orders("fit", "batch")
    for epoch in ours:
        assert all(x == y for x, y in epoch)
        assert [sorted(x for x, _ in epoch[begin : begin + 4]) for begin in (0, 4, 8)] == [
            [0, 1, 2, 3],
            [4, 5, 6, 7],
            [8, 9],
        ]
    assert len(set(map(tuple, ours))) == 3
    if compat.IS_KERAS_3 and compat.KERAS_VERSION >= (3, 1):
        assert ours[0] == theirs[0]
    else:
        assert any(x != y for epoch in theirs for x, y in epoch)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: {"x": Loader(), "y": Y}, "put the targets in each batch, not in `y`. Received: x of type Loader"),
        (lambda: {"x": Batches(), "y": Y}, "y"),
        (lambda: {"x": batches(), "y": Y}, "y"),
        (
            lambda: {"x": batches(), "validation_split": 0.2},
            "`validation_split` can be used with arrays.* Received: data",
        ),
        (
            lambda: {"x": X, "y": Y, "shuffle": "epoch"},
            "`shuffle` must be True, False or 'batch'. Received: shuffle='epoch'",
        ),
        (lambda: {"x": X, "y": Y, "steps_per_epoch": 1.5}, "`steps_per_epoch` must be a positive integer"),
        (lambda: {"x": X, "class_weight": {0: 2.0}}, "`class_weight` must .* Received: no targets"),
        (lambda: {"x": X, "y": [Y, Y], "class_weight": {0: 2.0}}, "`class_weight` .* Received: several targets"),
        (lambda: {"x": object()}, "object"),
        (lambda: {"x": iter(())}, "at least one batch|non-empty"),
    ],
)
def test_bad_input_is_refused_before_the_first_update(arguments, message):
    model = compiled(models.dense)
    weights = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.custom_fit(**arguments(), verbose=0)
    for now, before in zip(model.get_weights(), weights):
        np.testing.assert_array_equal(now, before)
    assert int(model.optimizer.iterations.numpy()) == 0
