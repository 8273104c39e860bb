"""Several optimizers in one model: against a step written by hand, against Keras's own, saved, scaled and scheduled."""

import numpy as np
import pytest

from customfit import CustomTrainModel, OptimizerGroups
from customfit.compat import IS_KERAS_3, keras, optimizer_variables, tf, variable_path
from customfit.gradients import as_optimizer

METHODS = ("fit", "custom_fit")
Adam, SGD = keras.optimizers.Adam, keras.optimizers.SGD
RNG = np.random.RandomState(0)
X, Y = RNG.randint(0, 9, (40, 4)).astype("int32"), RNG.randn(40, 2).astype("float32")
SAVE = {} if IS_KERAS_3 else {"save_format": "keras_v3"}


def make(cls=CustomTrainModel, **head):
    """An encoder, which is a model with an embedding (whose gradients are slices) in it, and a head."""
    tokens = keras.Input((4,), dtype="int32")
    embedded = keras.layers.Embedding(9, 5, name="embedding")(tokens)
    encoder = keras.Model(tokens, keras.layers.Dense(3, name="dense")(keras.layers.Flatten()(embedded)), name="encoder")
    inputs = keras.Input((4,), dtype="int32")
    model = cls(inputs, keras.layers.Dense(2, name="head", **head)(encoder(inputs)))
    rng = np.random.RandomState(1)
    model.set_weights([rng.uniform(-1, 1, weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def train(model, method="fit", epochs=2, **options):
    return getattr(model, method)(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)


def assert_same(model, other):
    for mine, its in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(mine, its)


class ByHand(keras.Model):
    """A step with an optimizer for all that is not the head, and one for the head."""

    encoder_optimizer = head_optimizer = None

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        encoder, head = self.get_layer("encoder"), self.get_layer("head")
        variables = encoder.trainable_variables + head.trainable_variables
        gradients = tape.gradient(loss, variables)
        pairs, split = list(zip(gradients, variables)), len(encoder.trainable_variables)
        self.encoder_optimizer.apply_gradients(pairs[:split])
        self.head_optimizer.apply_gradients(pairs[split:])
        return {"loss": loss}


def by_hand(encoder_optimizer, head_optimizer):
    model = make(ByHand)
    model.compile("sgd", "mse")
    model.encoder_optimizer, model.head_optimizer = encoder_optimizer, head_optimizer
    encoder_optimizer.build(model.get_layer("encoder").trainable_variables)
    head_optimizer.build(model.get_layer("head").trainable_variables)
    return model


# -------------------------------------------------------------------------------------------------------- the numbers


GROUPINGS = {
    "layers": lambda encoder, head: {"encoder": encoder, "head": head},
    "reversed": lambda encoder, head: {"head": head, "encoder": encoder},
    "deep": lambda encoder, head: {"dense": encoder, "embedding": type(encoder)(0.01), "head": head},
    "patterns": lambda encoder, head: [("^embedding|^dense|^encoder/", encoder), ("^head", head)],
}


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "xla", "eager"])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_to_the_bit_a_step_by_hand_with_two_optimizers(method, options):
    ours, by = make(), by_hand(Adam(0.01), SGD(0.1, momentum=0.9))
    ours.compile({"encoder": Adam(0.01), "head": SGD(0.1, momentum=0.9)}, "mse", **options)
    train(ours, method)
    by.compile("sgd", "mse", **options)
    train(by)
    if options.get("jit_compile"):  # XLA fuses the two programs differently
        for mine, its in zip(ours.get_weights(), by.get_weights()):
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-6)
    else:
        assert_same(ours, by)
    assert ours.optimizer.iterations.numpy() == 10


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_layers_and_patterns_say_the_same_in_any_order(grouping):
    ours, by = make(), by_hand(Adam(0.01), SGD(0.1))
    ours.compile(optimizer=GROUPINGS[grouping](Adam(0.01), SGD(0.1)), loss="mse")
    train(ours, "custom_fit")
    train(by)
    assert_same(ours, by)


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer")
@pytest.mark.parametrize("method", METHODS)
def test_it_is_to_the_bit_keras_s_multi_optimizer(method):
    def chosen(variable, head=SGD(0.1, momentum=0.9), encoder=Adam(0.01)):  # noqa: B008
        return head if variable.path.startswith("head") else encoder

    ours, theirs = make(), make(keras.Model)
    ours.compile({"encoder": Adam(0.01), "head": SGD(0.1, momentum=0.9)}, "mse")
    theirs.compile(keras.optimizers.MultiOptimizer(chosen), "mse")
    assert train(ours, method).history["loss"] == train(theirs).history["loss"]
    assert_same(ours, theirs)


def test_one_group_is_to_the_bit_its_optimizer():
    ours, theirs = make(), make(keras.Model)
    ours.compile([("", Adam(0.01, use_ema=True, ema_momentum=0.5, weight_decay=0.01))], "mse")
    theirs.compile(Adam(0.01, use_ema=True, ema_momentum=0.5, weight_decay=0.01), "mse")
    train(ours)
    train(theirs)
    assert_same(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_a_group_with_a_moving_average_ends_at_it_and_the_others_do_not(method):
    plain, averaged = make(), make()
    plain.compile({"encoder": SGD(0.0), "head": SGD(0.1)}, "mse")
    averaged.compile({"encoder": SGD(0.0), "head": SGD(0.1, use_ema=True, ema_momentum=0.9)}, "mse")
    for model in (plain, averaged):
        train(model, method)
    for mine, its in zip(plain.get_layer("encoder").get_weights(), averaged.get_layer("encoder").get_weights()):
        np.testing.assert_array_equal(mine, its)
    assert np.abs(plain.get_layer("head").get_weights()[0] - averaged.get_layer("head").get_weights()[0]).max() > 1e-4


def test_constraints_hold():
    model = make(kernel_constraint=keras.constraints.NonNeg())
    model.compile({"encoder": "adam", "head": SGD(0.5)}, "mse")
    train(model)
    assert model.get_layer("head").get_weights()[0].min() == 0


def test_a_schedule_follows_the_steps_of_its_group():
    halved = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.1, 0.0])
    ours, by = make(), by_hand(Adam(0.01), SGD(halved))
    ours.compile({"encoder": Adam(0.01), "head": SGD(halved)}, "mse")
    train(ours)
    train(by)
    assert_same(ours, by)


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_holds_for_all_groups_together(method):
    model = make()
    model.compile({"encoder": SGD(1.0), "head": SGD(1.0)}, "mse", global_clipnorm=0.5)
    before = model.get_weights()
    getattr(model, method)(X[:8], Y[:8], epochs=1, verbose=0)
    moved = np.sqrt(sum(np.sum((new - old) ** 2) for new, old in zip(model.get_weights(), before)))
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)


def test_a_clip_beside_a_group_that_clips_is_refused():
    with pytest.raises(
        ValueError, match="`clipnorm` must not be set in `compile..`, because the optimizer already clips"
    ):
        make().compile({"encoder": "sgd", "head": SGD(0.1, clipvalue=1.0)}, "mse", clipnorm=1.0)


# ---------------------------------------------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("method", METHODS)
def test_under_mixed_float16_keras_scales_the_loss_of_the_groups(method):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = make()
        before = model.get_weights()
        model.compile({"encoder": Adam(0.01), "head": SGD(0.1)}, "mse")
        groups = model.optimizer.inner_optimizer
        assert isinstance(groups, OptimizerGroups)
        train(model, method, epochs=4)  # enough for the scale to come down to where nothing overflows
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert all(np.abs(new - old).max() > 1e-4 for new, old in zip(model.get_weights(), before))
    done = {int(optimizer.iterations.numpy()) for optimizer in groups.groups.values()}
    assert len(done) == 1


def test_a_loss_scale_of_a_power_of_two_changes_nothing():
    plain, scaled = make(), make()
    groups = lambda: OptimizerGroups({"encoder": SGD(0.01), "head": SGD(0.1)})
    wrapper = keras.optimizers.LossScaleOptimizer if IS_KERAS_3 else keras.mixed_precision.LossScaleOptimizer
    plain.compile(groups(), "mse")
    scaled.compile(wrapper(groups(), initial_scale=2.0**8), "mse")
    for model in (plain, scaled):
        train(model)
    for mine, its in zip(plain.get_weights(), scaled.get_weights()):
        np.testing.assert_allclose(mine, its, rtol=1e-6, atol=1e-7)


# ------------------------------------------------------------------------------------------------------- which group


class Subclassed(CustomTrainModel):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = keras.layers.Dense(3)
        self.heads = [keras.layers.Dense(2), keras.layers.Dense(2)]
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, x):
        hidden = self.body(tf.cast(x, tf.float32))
        return self.scale * sum(head(hidden) for head in self.heads)


@pytest.mark.parametrize("method", METHODS)
def test_attributes_of_a_subclassed_model_are_groups(method):
    model = Subclassed()
    model.compile({"body": SGD(0.0), "heads": SGD(0.01), "scale": SGD(0.0)}, "mse")
    train(model, method, epochs=1)
    before = model.body.get_weights(), [head.get_weights() for head in model.heads]
    train(model, method, epochs=1)
    np.testing.assert_array_equal(model.body.get_weights()[0], before[0][0])
    assert float(np.asarray(model.scale)) == 1.0
    assert all(np.any(head.get_weights()[0] != old[0]) for head, old in zip(model.heads, before[1]))


def test_a_variable_in_no_group_is_named():
    model = make()
    model.compile({"head": "sgd"}, "mse")
    with pytest.raises(ValueError, match="exactly one group.*embedding.* in none.*dense/kernel in none"):
        train(model)


def test_a_variable_in_two_groups_is_named_with_both():
    model = make()
    model.compile([("kernel|embed", "sgd"), ("bias", "sgd"), ("head", "sgd")], "mse")
    with pytest.raises(ValueError, match="head/kernel in 'kernel|embed' and 'head', head/bias in 'bias' and 'head'"):
        train(model)


def test_a_group_of_an_unknown_name_is_refused_with_the_names_that_exist():
    model = make()
    model.compile({"encoder": "sgd", "tail": "sgd"}, "mse")
    with pytest.raises(ValueError, match="must name layers of the model: dense, embedding, encoder.*head.*'tail'"):
        train(model)
    model.compile([("", "sgd"), ("tail", "sgd")], "mse")
    with pytest.raises(ValueError, match="must have patterns that match some variable of .*head/kernel.*'tail'"):
        train(model)


def test_layers_that_are_frozen_need_no_group_and_a_group_may_be_frozen():
    for groups in ({"head": SGD(0.1)}, {"encoder": "adam", "head": SGD(0.1)}):
        model = make()
        model.get_layer("encoder").trainable = False
        before = model.get_weights()
        model.compile(groups, "mse")
        train(model)
        changed = [np.any(new != old) for new, old in zip(model.get_weights(), before)]
        assert changed == [False, False, False, True, True]


def test_a_group_without_a_gradient_stays_where_it_is_with_a_warning():
    first, second = tf.Variable([1.0], name="first"), tf.Variable([1.0], name="second")
    groups = OptimizerGroups([("first", SGD(1.0)), ("second", SGD(1.0))])
    with pytest.warns(UserWarning, match="Gradients do not exist for variables.*second"):
        groups.apply_gradients([(tf.constant([0.25]), first), (None, second)])
    assert (float(first[0]), float(second[0])) == (0.75, 1.0)
    with pytest.raises(ValueError, match="No gradients provided for any variable"):
        groups.apply_gradients([(None, first), (None, second)])


@pytest.mark.parametrize(
    "wrong", [{}, [], {"head": 3}, {3: "sgd"}, [("head", "sgd", "more")], ["sgd"], {"head": "sdg"}]
)
def test_anything_but_groups_is_refused(wrong):
    with pytest.raises(ValueError, match="`optimizer` must"):
        make().compile(wrong, "mse")


def test_an_optimizer_may_not_be_in_two_groups_or_scale_the_loss():
    shared = SGD(0.1)
    with pytest.raises(ValueError, match="a key and an optimizer of its own"):
        OptimizerGroups({"a": shared, "b": shared})
    wrapper = keras.optimizers.LossScaleOptimizer if IS_KERAS_3 else keras.mixed_precision.LossScaleOptimizer
    with pytest.raises(ValueError, match="do not scale the loss"):
        OptimizerGroups({"a": wrapper(SGD(0.1))})


def test_what_keras_takes_is_left_to_keras():
    for optimizer in ("adam", Adam(0.25), keras.optimizers.serialize(Adam(0.25)), None):
        assert as_optimizer(optimizer, make()) is optimizer


# ------------------------------------------------------------------------------------------------------ learning rate


def rates(model):
    return [float(np.asarray(optimizer.learning_rate)) for optimizer in model.optimizer.groups.values()]


def scheduled(method, groups, *callbacks, epochs=2):
    model = make()
    model.compile(groups, "mse")
    history = train(model, method, epochs=epochs, callbacks=list(callbacks)).history
    return model, history.get("learning_rate", history.get("lr"))


@pytest.mark.parametrize("method", METHODS)
def test_a_learning_rate_scheduler_scales_all_groups(method):
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    model, logged = scheduled(method, {"encoder": SGD(0.5), "head": SGD(0.25)}, callback)
    assert rates(model) == [0.125, 0.0625]
    assert [float(rate) for rate in logged] == [0.25, 0.125]


def test_a_learning_rate_can_go_to_zero_and_back():
    callback = keras.callbacks.LearningRateScheduler(lambda epoch, rate: [0.0, 0.25, 0.5][epoch])
    model, _ = scheduled("fit", {"encoder": SGD(0.5), "head": SGD(0.25)}, callback, epochs=3)
    assert rates(model) == [0.5, 0.25]


@pytest.mark.parametrize("method", METHODS)
def test_a_plateau_lowers_all_groups(method):
    callback = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9, min_lr=0)
    model, logged = scheduled(method, {"encoder": SGD(0.5), "head": SGD(0.25)}, callback, epochs=3)
    assert rates(model)[1] == rates(model)[0] / 2
    assert rates(model)[0] < 0.5
    assert float(logged[0]) == 0.5


def test_setting_the_rate_that_is_there_changes_no_bit():
    groups = OptimizerGroups({"a": SGD(0.3), "b": SGD(0.7)})
    before = [np.asarray(optimizer.learning_rate) for optimizer in groups.groups.values()]
    groups.learning_rate = 0.3
    groups.learning_rate.assign(groups.learning_rate.numpy())
    assert [np.asarray(optimizer.learning_rate) for optimizer in groups.groups.values()] == before


def test_a_rate_that_cannot_be_set_says_what_to_do():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    groups = OptimizerGroups({"a": SGD(0.5), "b": SGD(schedule)})
    with pytest.raises(TypeError, match="because some have a schedule.*'b'"):
        groups.learning_rate = 0.25
    assert float(groups.learning_rate) == 0.5
    with pytest.raises(ValueError, match="`learning_rate` must be a number"):
        groups.learning_rate = schedule
    with pytest.raises(ValueError, match="the first group's has been 0 from the start"):
        OptimizerGroups({"a": SGD(0.0), "b": SGD(0.5)}).learning_rate = 0.25


# -------------------------------------------------------------------------------------------------------------- saving


def grouped(kind="layers"):
    model = make()
    model.compile(GROUPINGS[kind](Adam(0.01), SGD(0.1, momentum=0.9)), "mse")
    return model


@pytest.mark.parametrize("kind", GROUPINGS)
def test_a_saved_model_continues_to_the_bit(kind, tmp_path):
    model = grouped(kind)
    train(model)
    model.save(tmp_path / "model.keras", **SAVE)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for mine, its in zip(optimizer_variables(model.optimizer), optimizer_variables(loaded.optimizer)):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(its))
    assert len(optimizer_variables(model.optimizer)) == len(optimizer_variables(loaded.optimizer)) > 10
    for one in (model, loaded):
        train(one, "custom_fit")
    assert_same(model, loaded)
    assert [type(group) for group in loaded.optimizer.groups.values()] == [
        type(group) for group in model.optimizer.groups.values()
    ]


def come_back(optimizer, path):
    """Whether two more epochs, after a checkpoint is read into a new model, end where they do without."""
    model, other = make(), make()
    for one in (model, other):
        one.compile(optimizer(), "mse")
        one.optimizer.build(one.trainable_variables)
    train(model)
    tf.train.Checkpoint(model=other).read(tf.train.Checkpoint(model=model).write(str(path)))
    for one in (model, other):
        train(one)
    return all(np.array_equal(mine, its) for mine, its in zip(model.get_weights(), other.get_weights()))


def test_a_checkpoint_of_tensorflow_s_brings_the_groups_state_back(tmp_path):
    if not come_back(lambda: Adam(0.01), tmp_path / "plain"):
        pytest.skip("not even a plain optimizer of this Keras comes back: 3.0's do not")
    groups = lambda: {"encoder": Adam(0.01), "head": SGD(0.1, momentum=0.9)}
    assert come_back(groups, tmp_path / "groups")


def test_the_state_can_be_set_as_arrays():
    model, other = grouped(), grouped()
    train(model)
    other.set_weights(model.get_weights())
    other.optimizer.build(other.trainable_variables)
    other.optimizer.set_weights([np.asarray(variable) for variable in optimizer_variables(model.optimizer)])
    for one in (model, other):
        train(one)
    assert_same(model, other)


def test_the_config_makes_the_groups_again():
    groups = OptimizerGroups([("kernel", Adam(0.25)), ("bias", "sgd")], name="mine")
    again = OptimizerGroups.from_config(groups.get_config())
    assert again.name == "mine"
    assert again.get_config() == groups.get_config()
    assert float(again.learning_rate) == 0.25


def test_variables_are_those_of_all_groups_and_the_count():
    model = grouped()
    model.optimizer.build(model.trainable_variables)
    expected = [model.optimizer.iterations, *(v for group in model.optimizer.groups.values() for v in group.variables)]
    assert [id(variable) for variable in optimizer_variables(model.optimizer)] == [
        id(variable) for variable in expected
    ]
    assert variable_path(model.trainable_variables[-1]) == "head/bias"
