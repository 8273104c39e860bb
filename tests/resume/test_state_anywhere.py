"""What a step reads and writes is resumed wherever it is kept, or refused by name before the first step.

A table of what it is by where it is: each cell ends as if left alone, to the bit, or is refused. None is silent.
"""

import types

import numpy as np
import pytest

from customfit import CustomTrainModel, DryRun, TrainingSession
from customfit.compat import IS_KERAS_3, keras, tf
from tests.parity import models

X, Y = models.rows(24)
KEEPER = types.SimpleNamespace()  # a global of this module


class Module(tf.Module):
    def __init__(self, item):
        super().__init__()
        self.item = item


def on_layer(model, item):
    model.head.item = item
    return lambda: model.head.item


def in_closure(model, item):
    return lambda: item


def in_global(model, item):
    KEEPER.item = item
    return lambda: KEEPER.item


def attribute(wrapped, unwrapped):
    def put(model, item):
        model.kept = wrapped(item)
        return lambda: unwrapped(model.kept)

    return put


PLACES = {
    "an attribute": attribute(lambda item: item, lambda kept: kept),
    "a list": attribute(lambda item: [item], lambda kept: kept[0]),
    "a tuple": attribute(lambda item: (1, item), lambda kept: kept[1]),
    "a dict": attribute(lambda item: {"it": item}, lambda kept: kept["it"]),
    "a list of dicts": attribute(lambda item: [{"it": item}], lambda kept: kept[0]["it"]),
    "a plain object": attribute(lambda item: types.SimpleNamespace(it=item), lambda kept: kept.it),
    "a tf.Module": attribute(Module, lambda kept: kept.item),
    "a layer": on_layer,
    "a closure": in_closure,
    "a global": in_global,
}


class Optimizer:
    """Moves the weights by more than the gradient says: by what it remembers."""

    def make(self):
        return keras.optimizers.Adam(0.05)

    def use(self, optimizer, model, gradients, loss):
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss


class Scales:
    """Scales the gradients by a number that changes from step to step."""

    def use(self, item, model, gradients, loss):
        scale = self.next(item)
        model.optimizer.apply_gradients(zip([g * scale for g in gradients], model.trainable_variables))
        return loss * scale


class Variable(Scales):
    def make(self):
        return tf.Variable(1.0, trainable=False)

    def next(self, variable):
        variable.assign(variable * 1.25)
        return variable.read_value()


class Counter(Scales):
    """It is written in each step and read in some later ones only."""

    def make(self):
        return tf.Variable(0, trainable=False, dtype=tf.int64)

    def next(self, counter):
        counter.assign_add(1)
        return tf.cond(counter > 4, lambda: 2.0, lambda: 1.0)


class KerasVariable(Scales):
    def make(self):
        return keras.Variable(1.0, trainable=False)

    def next(self, variable):
        variable.assign(variable * 1.25)
        return tf.convert_to_tensor(variable)


class Generator(Scales):
    def make(self):
        return tf.random.Generator.from_seed(3)

    def next(self, generator):
        return generator.uniform([])


class SeedGenerator(Scales):
    def make(self):
        return keras.random.SeedGenerator(5)

    def next(self, seeds):
        return keras.random.uniform((), seed=seeds)


class Dropout(Scales):
    def make(self):
        return keras.layers.Dropout(0.5, seed=3)

    def next(self, dropout):
        return tf.reduce_mean(dropout(tf.ones([8]), training=True))


class Metric(Scales):
    def make(self):
        return keras.metrics.Sum(name="sum")

    def next(self, metric):
        metric.update_state(1.0)
        return 1 / metric.result()


class Table(Scales):
    def make(self):
        return tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 1.0)

    def next(self, table):
        key = tf.zeros([1], tf.int64)
        table.insert(key, table.lookup(key) * 1.25)
        return tf.reshape(table.lookup(key), [])


class ConstantTable(Scales):
    def make(self):
        keys = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), [1.0, 1.5, 2.0])
        return tf.lookup.StaticHashTable(keys, 1.0)

    def next(self, table):
        return table.lookup(tf.constant(1, tf.int64))


class Iterator(Scales):
    def make(self):
        return iter(tf.data.Dataset.from_tensor_slices(np.linspace(1, 2, 50, dtype="float32")))

    def next(self, iterator):
        return next(iterator)


KERAS_3 = (KerasVariable, SeedGenerator)
THINGS = [Optimizer, Variable, Counter, Generator, Dropout, Metric, Table, ConstantTable, Iterator]
THINGS += KERAS_3 if IS_KERAS_3 else ()
CANNOT = {Iterator: "position of an iterator.*Dataset.zip", Table: "lookup table.*self.table = table"}
# Where a table is found: Keras 3's own lists and dicts are none of TensorFlow's.
TRACKED = ["an attribute", "a tuple", "a tf.Module", "a layer"]
TRACKED += [] if IS_KERAS_3 else ["a list", "a dict", "a list of dicts"]


class Model(CustomTrainModel):
    def __init__(self, thing, place):
        super().__init__()
        self.head = keras.layers.Dense(3)
        self.thing = thing()
        self.reach = PLACES[place](self, self.thing.make())

    def call(self, inputs):
        return self.head(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x), from_logits=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        return {"error": self.thing.use(self.reach(), self, gradients, loss)}


def train(thing, place, **options):
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    model = Model(thing, place)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=options.pop("run_eagerly", False))
    return model, model.custom_fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0, **options)


@pytest.mark.supports("Resume", "what a step uses, wherever it is kept: in lists, objects, closures, globals", fit="no")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.__name__)
def test_state_is_resumed_wherever_it_is_kept_or_is_refused(thing, place, tmp_path):
    alone = train(thing, place)
    if thing in CANNOT and not (thing is Table and place in TRACKED):
        with pytest.raises(ValueError, match=f"(?s)`checkpoint` cannot save.*{CANNOT[thing]}"):
            train(thing, place, checkpoint=tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.is_dir()]
        return
    train(thing, place, checkpoint=tmp_path, max_steps=5)
    assert_same_run(train(thing, place, checkpoint=tmp_path), alone)


def assert_same_run(ours, theirs):
    assert ours[1].history == theirs[1].history
    for mine, other in zip(ours[0].get_weights(), theirs[0].get_weights()):
        np.testing.assert_array_equal(mine, other)


class Noise(keras.layers.Layer):
    """Draws from a generator that no attribute shows, in training and in validation."""

    def __init__(self, thing):
        super().__init__()
        item = thing.make()
        self.next = lambda: thing.next(item)

    def call(self, inputs):
        return inputs * self.next()


def train_with_noise(thing, how="custom_fit", x=X, y=Y, compile_options=None, **options):
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8,))
    model = CustomTrainModel(inputs, keras.layers.Dense(3)(Noise(thing())(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **(compile_options or {}))
    return model, getattr(model, how)(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, **options)


HIDDEN = [thing for thing in (Variable, Generator, SeedGenerator, Dropout) if thing in THINGS]
# Keras 2's dropout keeps in the op how often it has drawn. That is resumed, but a step that has run cannot be undone.
UNDONE = [thing for thing in HIDDEN if IS_KERAS_3 or thing is not Dropout]


@pytest.mark.parametrize("thing", HIDDEN, ids=lambda thing: thing.__name__)
def test_state_of_validation_is_resumed_too(thing, tmp_path):
    given = {"validation_data": (X, Y)}
    alone = train_with_noise(thing, **given)
    train_with_noise(thing, checkpoint=tmp_path, max_steps=4, **given)
    assert_same_run(train_with_noise(thing, checkpoint=tmp_path, **given), alone)


@pytest.mark.parametrize("thing", UNDONE, ids=lambda thing: thing.__name__)
def test_a_sanity_validation_leaves_no_trace(thing):
    given = {"validation_data": (X, Y)}
    with_it = train_with_noise(thing, dry_run=DryRun(sanity_validation=2), **given)
    assert_same_run(with_it, train_with_noise(thing, **given))


@pytest.mark.parametrize("how", ["fit", "custom_fit"])
@pytest.mark.parametrize("thing", UNDONE, ids=lambda thing: thing.__name__)
def test_a_step_that_is_skipped_leaves_no_trace(thing, how):
    bad = np.array(X)
    bad[8:16] = np.nan
    ours, _ = train_with_noise(thing, how, bad, compile_options={"nonfinite": "skip"})
    rows = np.r_[:8, 16:24]
    without, _ = train_with_noise(thing, "fit", X[rows], Y[rows])
    for mine, other in zip(ours.get_weights(), without.get_weights()):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("thing", [Table, Iterator], ids=lambda thing: thing.__name__)
def test_a_step_that_cannot_be_undone_is_refused(thing):
    with pytest.raises(ValueError, match=f"(?s)`nonfinite` cannot undo.*{CANNOT[thing]}"):
        train_with_noise(thing, compile_options={"nonfinite": "skip"})
    with pytest.raises(ValueError, match=f"(?s)`sanity_validation` cannot undo.*{CANNOT[thing]}"):
        train_with_noise(thing, validation_data=(X, Y), dry_run=DryRun(sanity_validation=1))


class PythonCounter(Scales):
    stateful = True

    def make(self):
        return {"calls": 0}

    def next(self, counter):
        def count():
            counter["calls"] += 1
            return np.float32(1 + counter["calls"] % 3)

        return tf.reshape(tf.numpy_function(count, [], tf.float32, stateful=self.stateful), [])


class PurePython(PythonCounter):
    stateful = False


def test_of_a_python_function_in_the_step_that_is_said(tmp_path, recwarn):
    with pytest.warns(UserWarning, match="cannot save what a Python function keeps.*`tf.numpy_function`"):
        train(PythonCounter, "a closure", checkpoint=tmp_path / "a")
    recwarn.clear()
    train(PurePython, "a closure", checkpoint=tmp_path / "b")
    assert not [each for each in recwarn if "Python function" in str(each.message)]


@pytest.mark.parametrize("thing", [Optimizer, Variable, Generator], ids=lambda thing: thing.__name__)
def test_state_of_eager_steps_is_resumed(thing, tmp_path):
    alone = train(thing, "a closure", run_eagerly=True)
    train(thing, "a closure", run_eagerly=True, checkpoint=tmp_path, max_steps=5)
    assert_same_run(train(thing, "a closure", run_eagerly=True, checkpoint=tmp_path), alone)


def test_of_an_eager_step_that_cannot_be_traced_that_is_said(tmp_path):
    calls = []

    class Eager(Model):
        def train_step(self, data):
            calls.append(data)
            self.shape = data[0].numpy().shape
            return super().train_step(data)

    model = Eager(Variable, "an attribute")
    model.compile("sgd", run_eagerly=True)
    with pytest.warns(UserWarning, match="`train_step` cannot be traced .* Assign what the step changes to attributes"):
        model.custom_fit(X, Y, batch_size=8, verbose=0, checkpoint=tmp_path)
    assert len(calls) == 4  # three steps, and one trace


def test_state_of_a_loop_of_one_s_own_is_resumed(tmp_path):
    def run(**options):
        keras.backend.clear_session()
        keras.utils.set_random_seed(5)
        model = Model(Optimizer, "a closure")
        model.compile("sgd")
        with TrainingSession(model, epochs=3, verbose=0, **options) as session:
            for _ in session.epochs():
                while session.step < 3 and not session.should_stop:
                    rows = slice(8 * session.step, 8 * session.step + 8)
                    session.train_on((X[rows], Y[rows]))
        return model, session.history

    alone = run()
    run(checkpoint=tmp_path, max_steps=5)
    assert_same_run(run(checkpoint=tmp_path), alone)
