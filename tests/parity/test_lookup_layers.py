"""Layers that look words and ids up in tables: what such a model tracks is not all variables.

Keras 2 lists a handler of the vocabulary among a layer's weights, and both generations keep the entries in tables.
"""

import math

import numpy as np
import pytest

from customfit import CustomTrainModel, Every, NonFinite, NonFiniteError, OptimizerGroups, debug
from customfit.compat import keras, tf
from customfit.testing import check_parity
from tests.parity.compare import compiled, train
from tests.resume.cut import assert_resumes
from tests.resume.cut import train as run

WORDS = np.array([["red fox"], ["blue fox"], ["red hen"], ["old hen"]] * 12)
IDS = np.array([[7], [3], [7], [9]] * 12)
Y = np.random.RandomState(0).rand(48, 1).astype("float32")


def string_lookup():
    layer = keras.layers.StringLookup()
    layer.adapt(tf.constant(WORDS))
    return layer


def integer_lookup():
    layer = keras.layers.IntegerLookup()
    layer.adapt(IDS)
    return layer


def text_vectorization():
    layer = keras.layers.TextVectorization(output_sequence_length=2)
    layer.adapt(tf.constant(WORDS))
    return layer


def tf_idf():
    layer = keras.layers.TextVectorization(output_mode="tf_idf")
    layer.adapt(tf.constant(WORDS))
    return layer


LAYERS = [string_lookup, integer_lookup, text_vectorization, tf_idf]
OPTIONS = dict(optimizer="adam", loss="mse", metrics=["mae"])
each_layer = pytest.mark.parametrize("layer", LAYERS)


def build(layer, base):
    inputs = keras.Input((1,), dtype="int64" if layer is integer_lookup else "string")
    found = layer()(inputs)
    if layer is not tf_idf:
        found = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(8, 3)(found))
        found = keras.layers.Dropout(0.5)(found)
    return base(inputs, keras.layers.Dense(1)(found))


def ready(layer, **options):
    return compiled(lambda base: build(layer, base), **OPTIONS, **options)


def arguments(layer):
    x = IDS if layer is integer_lookup else tf.constant(WORDS)
    return dict(x=x, y=Y, validation_data=(x[:16], Y[:16]))


@pytest.mark.supports("Models", "`StringLookup`, `IntegerLookup`, `TextVectorization` in the model")
@each_layer
@pytest.mark.parametrize("nonfinite", [None, "skip"])
def test_it_trains_as_fit_does(layer, nonfinite):
    theirs = train(lambda base: build(layer, base), "fit", arguments(layer), keras.Model, **OPTIONS)
    ours = train(lambda base: build(layer, base), "custom_fit", arguments(layer), nonfinite=nonfinite, **OPTIONS)
    for mine, other in zip(ours[0].trainable_weights, theirs[0].trainable_weights):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    assert ours[1].history == theirs[1].history


@each_layer
def test_a_resumed_run_ends_as_one_left_alone(layer, tmp_path):
    assert_resumes(lambda base: build(layer, base), arguments(layer), tmp_path, cuts=(2, 7), **OPTIONS)


@each_layer
def test_a_step_that_is_not_finite_is_undone(layer):
    given = arguments(layer)
    one_epoch = {**given, "epochs": 1}
    bad = {**one_epoch, "y": np.concatenate([Y[:32], np.full((16, 1), math.nan, "float32")])}
    good = {**one_epoch, "x": given["x"][:32], "y": Y[:32]}
    skipped, _ = train(lambda base: build(layer, base), "custom_fit", bad, nonfinite="skip", **OPTIONS)
    without, _ = train(lambda base: build(layer, base), "custom_fit", good, nonfinite="skip", **OPTIONS)
    assert skipped.skipped_steps == 1
    for mine, other in zip(skipped.trainable_weights, without.trainable_weights):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_early_stopping_and_validation_within_epochs(tmp_path):
    given = {**arguments(string_lookup), "validation_freq": Every(steps=2), "early_stopping": 2, "epochs": 4}
    assert_resumes(lambda base: build(string_lookup, base), given, tmp_path, cuts=(5,), **OPTIONS)


def test_it_trains_on_after_weights_were_set():
    """Keras 2 sets a vocabulary by making a new table, while the compiled step has the old one."""
    model = ready(string_lookup)
    model.custom_fit(**arguments(string_lookup), verbose=0, early_stopping=1)
    model.set_weights(model.get_weights())
    history = model.custom_fit(**arguments(string_lookup), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_optimizers_are_assigned_by_patterns():
    optimizer = OptimizerGroups([("embedding", "adam"), ("dense", "sgd")])
    model = compiled(lambda base: build(string_lookup, base), **{**OPTIONS, "optimizer": optimizer})
    history = model.custom_fit(**arguments(string_lookup), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_a_plan_counts_the_variables():
    plan = ready(string_lookup).plan_fit(**arguments(string_lookup), verbose=0)
    assert plan.parameter_bytes == 4 * (8 * 3 + 3 + 1)


def test_parity_is_checked_for_such_models():
    given = arguments(string_lookup)
    assert check_parity(lambda: ready(string_lookup), (given["x"], Y), validation_data=given["validation_data"])


def test_a_saved_step_of_such_a_model_is_run_again(tmp_path):
    model = ready(tf_idf, nonfinite=NonFinite("raise", dump=tmp_path))
    with pytest.raises(NonFiniteError):
        model.custom_fit(tf.constant(WORDS), np.full_like(Y, math.nan), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        debug.replay(tmp_path, model)


# -------------------------------------------------------------------------------------------------------------- tables


class Counts(keras.layers.Layer):
    """Counts in a table how often each id was seen in training, and passes the counts on."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, default_value=0.0)

    def call(self, ids, training=None):
        found = tf.ensure_shape(self.table.lookup(ids), ids.shape)
        if training:
            self.table.insert(ids, found + 1.0)
        return found


def counting(base):
    inputs = keras.Input((1,), dtype="int64")
    return base(inputs, keras.layers.Dense(1)(Counts()(inputs)))


def entries(model):
    (counts,) = [layer for layer in model.layers if isinstance(layer, Counts)]
    keys, values = counts.table.export()
    return dict(zip(keys.numpy().tolist(), values.numpy().tolist()))


def test_a_table_that_steps_change_is_restored_with_its_run(tmp_path):
    given = dict(x=IDS, y=Y)
    resumed, _ = assert_resumes(counting, given, tmp_path, cuts=(2, 7), **OPTIONS)
    whole, _ = run(counting, given, **OPTIONS)
    assert entries(resumed) == entries(whole)
    assert entries(whole).keys() == {3, 7, 9}


def test_what_a_bad_step_has_changed_in_a_table_is_undone():
    bad = np.concatenate([Y[:32], np.full((16, 1), math.nan, "float32")])
    skipped, _ = train(counting, "custom_fit", dict(x=IDS, y=bad, epochs=1), nonfinite="skip", **OPTIONS)
    without, _ = train(counting, "custom_fit", dict(x=IDS[:32], y=Y[:32], epochs=1), **OPTIONS)
    assert skipped.skipped_steps == 1
    assert entries(skipped) == entries(without)


def test_other_entries_than_those_of_the_checkpoint_are_refused(tmp_path):
    def vocabulary(*words):
        def build_it(base):
            inputs = keras.Input((2,), dtype="string")
            layer = keras.layers.StringLookup()
            layer.adapt(tf.constant([list(words)]))
            found = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(layer(inputs)))
            return base(inputs, keras.layers.Dense(1)(found))

        return build_it

    x = tf.constant([["a", "b"], ["c", "c"]] * 8)
    given = lambda: dict(x=x, y=Y[:16], epochs=1)
    run(vocabulary("a", "b", "b"), given(), tmp_path)
    with pytest.raises(ValueError, match="StringLookup"):
        run(vocabulary("a", "c", "c"), {**given(), "epochs": 2}, tmp_path)
    run(vocabulary("a", "b", "b"), {**given(), "epochs": 2}, tmp_path)


# --------------------------------------------------------------------------------------------------- no float variables


def without_variables(base):
    inputs = keras.Input((1,), dtype="int64")
    return base(inputs, keras.layers.CategoryEncoding(10, output_mode="one_hot")(inputs))


def test_a_model_without_variables_does_what_it_does_under_fit(tmp_path):
    def outcome(base, how, **more):
        try:
            return train(without_variables, how, {**dict(x=IDS, y=Y), **more}, base, **OPTIONS)[1].history
        except Exception as error:
            return type(error)

    theirs = outcome(keras.Model, "fit")
    assert outcome(CustomTrainModel, "custom_fit") == theirs
    assert outcome(CustomTrainModel, "custom_fit", checkpoint=str(tmp_path)) == theirs
