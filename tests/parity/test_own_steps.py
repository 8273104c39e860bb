"""Models with a `train_step` of their own, as keras.io's guides write them: `custom_fit` trains them as `fit` does."""

import functools
import warnings

import numpy as np
import pytest

from customfit import CustomTrainMixin, CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.guides import (
    GAN,
    AnchorPositivePairs,
    Embedding,
    FunctionalPipeline,
    GradientPenalty,
    RealNVP,
    SubclassedPipeline,
    Trainer,
    mlp,
)

layers = keras.layers
X, Y = models.rows(64)
DISTILLATION = getattr(keras, "distillation", None)


# Each makes a compiled model of a class, and the data for it.


def gan(cls, **options):
    model = cls(mlp(8, 1), mlp(4, 8))
    model.compile("adam", "sgd", keras.losses.BinaryCrossentropy(from_logits=True), **options)
    return model, {"x": tf.data.Dataset.from_tensor_slices(X).batch(16)}


def flow(cls, **options):
    model = cls()
    model.compile("adam", **options)
    return model, {"x": X, "batch_size": 16, "validation_split": 0.5}


def trainer(cls, **options):
    dropout = keras.Sequential([keras.Input((8,)), layers.Dropout(0.3), layers.Dense(3, "softmax")])
    model = cls(dropout)
    model.compile("adam", "sparse_categorical_crossentropy", **options)
    return model, {"x": X, "y": Y, "validation_data": (X, Y), "batch_size": 16}


def gradient_penalty(cls):
    model = cls(mlp(8, 1))
    model.compile("sgd")
    return model, {"x": X, "y": X.sum(axis=1, keepdims=True), "batch_size": 16}


def of_labels(make, data):
    def compiled(cls):
        model = make(cls)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model, data()

    return compiled


def functional(cls):
    inputs = keras.Input((8,))
    return cls(inputs, layers.Dense(3)(inputs))


def distiller(cls):
    return cls(mlp(8, 3), mlp(8, 3), keras.distillation.LogitsDistillation(temperature=2.0))


def pairs():
    return {"x": tf.data.Dataset.from_tensor_slices(np.stack([AnchorPositivePairs()[index] for index in range(8)]))}


def rows(scale):
    return {"x": X * scale, "y": Y, "validation_data": (X * scale, Y)}


CASES = {
    "gan": (GAN, gan),
    "flow": (RealNVP, flow),
    "trainer": (Trainer, trainer),
    "gradient penalty": (GradientPenalty, gradient_penalty),
    "pairs of a Sequence": (Embedding, of_labels(lambda cls: cls(), lambda: {"x": AnchorPositivePairs()})),
    "pairs of a dataset": (Embedding, of_labels(lambda cls: cls(), pairs)),
    "functional pipeline": (FunctionalPipeline, of_labels(functional, lambda: rows(255))),
    "subclassed pipeline": (SubclassedPipeline, of_labels(lambda cls: cls(), lambda: rows(255))),
    "distiller": (getattr(DISTILLATION, "Distiller", None), of_labels(distiller, lambda: rows(1))),
}
MISSING = pytest.mark.skipif(DISTILLATION is None, reason="`keras.distillation` came with Keras 3.12")

# Named as theirs: the names of nodes hold that of the model, and TensorFlow's arithmetic optimizer orders sums by them.
# So does plain Keras: one model of second-order gradients under two names differs in the last bit.
ORDERS = {
    "theirs first": lambda theirs: type(theirs.__name__, (theirs, CustomTrainModel), {}),
    "mixin first": lambda theirs: type(theirs.__name__, (CustomTrainMixin, theirs), {}),
}


def train(case, how, order=None, **options):
    """Weights and History of a case: of the plain class, or combined with ours in an order."""
    theirs, compiled = CASES[case]
    keras.utils.set_random_seed(7)
    model, data = compiled(ORDERS[order](theirs) if order else theirs, **options)
    history = getattr(model, how)(**data, epochs=2, verbose=0, shuffle=False)
    return model.get_weights(), history.history


@functools.cache
def plain(case, **options):
    return train(case, "fit", **options)


def assert_as_plain(case, order, **options):
    weights, history = train(case, "custom_fit", order, **options)
    their_weights, their_history = plain(case, **options)
    assert len(weights) == len(their_weights) > 0
    for mine, other in zip(weights, their_weights):
        np.testing.assert_array_equal(mine, other)
    assert history == their_history
    assert history


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", [pytest.param(case, marks=[MISSING] * (case == "distiller")) for case in CASES])
def test_their_step_trains_as_under_fit(case, order):
    assert_as_plain(case, order)


@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"jit_compile": False}], ids=str)
@pytest.mark.parametrize("case", ["gan", "trainer"])
def test_their_step_trains_as_under_fit_however_it_is_compiled(case, options):
    assert_as_plain(case, "theirs first", **options)


class Returning:
    """A step that returns its loss, and maybe tracks it."""

    tracks = False

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables))
        if self.tracks:
            self.track_loss(loss, x)
        return {"loss": loss}


@pytest.mark.parametrize("options", [{}, {"loss": "sparse_categorical_crossentropy"}], ids=str)
def test_a_loss_that_a_step_returns_and_does_not_track_is_logged_as_in_fit_and_said_where_it_is_0(options):
    """Keras 3 logs its metric "loss", which such a step does not update."""

    class Ours(Returning, CustomTrainModel):
        pass

    class Theirs(Returning, keras.Model):
        pass

    class Tracking(Ours):
        tracks = True

    losses, said = {}, {}
    for how, cls in {"fit": Theirs, "custom_fit": Ours, "tracked": Tracking}.items():
        if how == "tracked" and not compat.IS_KERAS_3:
            continue  # Keras 2 tracks in `compute_loss`
        keras.utils.set_random_seed(7)
        inputs = keras.Input((8,))
        model = cls(inputs, layers.Dense(3, activation="softmax")(inputs))
        model.compile("sgd", **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train = model.fit if how == "fit" else model.custom_fit
            losses[how] = train(X, Y, batch_size=16, shuffle=False, verbose=0).history["loss"]
        said[how] = [warning for warning in caught if "does not update the metric" in str(warning.message)]
    assert losses["custom_fit"] == losses["fit"]
    is_zero = compat.IS_KERAS_3
    assert (losses["fit"] == [0]) == is_zero
    assert {how: len(found) for how, found in said.items() if found} == ({"custom_fit": 1} if is_zero else {})
    assert losses.get("tracked", [1]) != [0]


class Validating(CustomTrainModel):
    """Trains as ours; a step of its own validates, and its loss may be of any kind."""

    loss_of = staticmethod(tf.reduce_mean)

    def test_step(self, data):
        return {"loss": self.loss_of(self(data[0], training=False))}


def test_a_test_step_that_does_not_track_its_loss_is_named_too():
    inputs = keras.Input((8,))
    model = Validating(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.custom_fit(X, Y, verbose=0)
        assert not caught
        model.custom_fit(X, Y, validation_data=(X, Y), verbose=0)
    said = [str(warning.message) for warning in caught if "does not update" in str(warning.message)]
    assert [message.split()[0] for message in said] == ["`test_step`"]


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="Keras 2 logs what the step returns, and expects a number")
def test_a_returned_loss_may_be_of_any_kind():
    inputs = keras.Input((8,))
    model = Validating(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.loss_of = lambda outputs: tf.RaggedTensor.from_row_lengths(outputs[:3, 0], [1, 2])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.warns(UserWarning, match="does not update"):
        logs = model.custom_evaluate(X, Y, verbose=0, return_dict=True)
    assert logs == {"loss": 0}
