"""Python control flow on tensors: `custom_fit` trains where `fit` trains, to the bit, and raises where `fit` raises.

On Keras 2 AutoGraph converts some of the places where it can stand, and none of them on Keras 3.
"""

import numpy as np
import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf

X = np.random.RandomState(0).rand(48, 2).astype("float32")
Y = np.zeros((48, 1), "float32")


def with_if(value):
    if tf.reduce_sum(value) > 0.1:
        value = value * 2.0
    return value


def with_for(value):
    for _ in tf.range(tf.constant(2)):
        value = value * 1.1
    return value


def with_while(value):
    count = tf.constant(0)
    while count < 3:
        value = value + 0.01
        count += 1
    return value


def mean_square(y, predicted):
    return tf.reduce_mean(tf.square(y - predicted), axis=-1)


# ---------------------------------------------------------------- places: each returns a compiled model of a base class


def dense(
    base, layer=None, optimizer="sgd", loss="mse", metrics=None, jit_compile=False, compile_options=(), **options
):
    inputs = keras.Input((2,))
    hidden = inputs if layer is None else layer(inputs)
    model = base(inputs, keras.layers.Dense(1, kernel_initializer="ones", **options)(hidden))
    model.compile(optimizer, loss, metrics=metrics, jit_compile=jit_compile, **dict(compile_options))
    return model


def in_a_layer(base, flow, **options):
    class Flow(keras.layers.Layer):
        def call(self, inputs):
            return flow(inputs)

    return dense(base, Flow(), **options)


def in_a_model(base, flow, **options):
    class Flow(base):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1, kernel_initializer="ones")

        def call(self, inputs):
            return flow(self.dense(inputs))

    model = Flow()
    model.compile("sgd", "mse", **options)
    return model


def in_a_loss_function(base, flow, **options):
    return dense(base, loss=lambda y, predicted: flow(mean_square(y, predicted)), **options)


def in_a_loss(base, flow, **options):
    class Flow(keras.losses.Loss):
        def call(self, y, predicted):
            return flow(mean_square(y, predicted))

    return dense(base, loss=Flow(), **options)


def in_a_metric_function(base, flow, **options):
    return dense(base, metrics=[lambda y, predicted: flow(mean_square(y, predicted))], **options)


def in_a_metric(base, flow, **options):
    class Flow(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="flow")
            self.total = self.add_weight(name="total", initializer="zeros")

        def update_state(self, y, predicted, sample_weight=None):
            self.total.assign_add(flow(tf.reduce_mean(predicted)))

        def result(self):
            return flow(tf.convert_to_tensor(self.total))

    return dense(base, metrics=[Flow()], **options)


def in_a_regularizer(base, flow, **options):
    class Flow(keras.regularizers.Regularizer):
        def __call__(self, weights):
            return flow(tf.reduce_sum(tf.square(weights)))

    return dense(base, kernel_regularizer=Flow(), **options)


def in_a_constraint(base, flow, **options):
    class Flow(keras.constraints.Constraint):
        def __call__(self, weights):
            return flow(tf.convert_to_tensor(weights))

    return dense(base, kernel_constraint=Flow(), **options)


def in_a_schedule(base, flow, **options):
    class Flow(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * flow(tf.cast(step, tf.float32))

        def get_config(self):
            return {}

    return dense(base, optimizer=keras.optimizers.SGD(Flow()), **options)


def in_a_train_step(base, flow, **options):
    class Flow(base):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = flow(tf.reduce_mean(tf.square(y - self(x, training=True))))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return {"loss": loss}

    return dense(Flow, **options)


def in_a_test_step(base, flow, **options):
    class Flow(base):
        def test_step(self, data):
            x, y = data
            return {"loss": flow(tf.reduce_mean(tf.square(y - self(x, training=False))))}

    return dense(Flow, **options)


CONVERTED = [in_a_layer, in_a_model, in_a_loss_function, in_a_loss, in_a_metric_function, in_a_metric]
OTHERS = [in_a_regularizer, in_a_constraint, in_a_schedule, in_a_train_step, in_a_test_step]


# --------------------------------------------------------------------------------------------------------------- tests


def outcome(place, flow, base, how, **options):
    """("trained", weights, History), or ("raised", the type of the error)."""
    keras.utils.set_random_seed(1)
    try:
        model = place(base, flow, **options)
        history = getattr(model, how)(
            X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, validation_data=(X[:16], Y[:16])
        )
    except Exception as error:
        return "raised", type(error)
    return "trained", [weights.tolist() for weights in model.get_weights()], history.history


def assert_same_outcome(place, flow, **options):
    theirs = outcome(place, flow, keras.Model, "fit", **options)
    ours = outcome(place, flow, CustomTrainModel, "custom_fit", **options)
    assert ours == theirs
    return ours[0]


@pytest.mark.supports("Models", "Python `if`, `for`, `while` on tensors, converted by AutoGraph", keras=2)
@pytest.mark.parametrize("flow", [with_if, with_for, with_while])
@pytest.mark.parametrize("place", CONVERTED)
def test_what_keras_2_converts(place, flow):
    assert assert_same_outcome(place, flow) == ("raised" if compat.IS_KERAS_3 else "trained")


@pytest.mark.parametrize("place", OTHERS)
def test_what_keras_leaves_as_it_is(place):
    assert_same_outcome(place, with_if)  # Keras 2 converts these with some releases of TensorFlow


@pytest.mark.parametrize("place", [in_a_layer, in_a_metric, in_a_train_step, in_a_test_step])
def test_with_xla_keras_2_converts_the_steps_too(place):
    assert assert_same_outcome(place, with_if, jit_compile=True) == ("raised" if compat.IS_KERAS_3 else "trained")


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 converts nothing")
@pytest.mark.parametrize("place", [in_a_layer, in_a_metric])
def test_steps_that_may_be_undone_are_converted(place):
    def guarded(base, flow):
        return place(base, flow, compile_options={"nonfinite": "skip"} if base is CustomTrainModel else {})

    assert assert_same_outcome(guarded, with_if) == "trained"


def test_eager_steps_need_no_conversion():
    assert assert_same_outcome(in_a_model, with_if, run_eagerly=True) == "trained"


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 converts nothing")
def test_a_converted_step_is_traced_as_often_as_under_fit():
    def traced(base, how):
        calls = []

        def flow(value):
            calls.append(value)
            return with_if(value)

        model = in_a_layer(base, flow)
        calls.clear()
        for _ in range(2):
            getattr(model, how)(X, Y, batch_size=16, epochs=3, verbose=0)
        return len(calls)

    assert 0 < traced(CustomTrainModel, "custom_fit") <= traced(keras.Model, "fit")


def test_an_error_in_a_layer_is_reported_with_the_line_that_raised_it():
    def flow(value):
        if value.shape[0] != 16:  # not while the model is built
            return value
        raise ValueError("these rows do not fit")

    messages = []
    for base, how in ((keras.Model, "fit"), (CustomTrainModel, "custom_fit")):
        with pytest.raises(ValueError, match="these rows do not fit") as raised:
            getattr(in_a_layer(base, flow), how)(X, Y, batch_size=16, verbose=0)
        messages.append(str(raised.value))
    if not compat.IS_KERAS_3:  # whose message holds the user's frames
        assert all("test_autograph.py" in message and "in flow" in message for message in messages)
