"""A training that was cut off, taken up by the same call, ends as if left alone: to the bit, whatever is trained."""

import shutil
import signal

import numpy as np
import pytest

from customfit import Checkpoints, CustomTrainModel, DryRun, EarlyStopping, Every, TrainingSession, compat
from customfit.compat import keras, tf
from customfit.data import ArraySource
from tests.parity import models
from tests.resume.cut import SEED, Interrupts, assert_resumes, assert_same, train

X, Y = models.rows(70)  # 5 steps of 16 an epoch, the last of 6
ROWS = {"x": X, "y": Y}
VALIDATION = {"validation_data": (X[:40], Y[:40])}
supports = pytest.mark.supports
slow = pytest.mark.slow


def some(first, *others):
    """The first case in each run, the others where slow tests run."""
    return [first, *(pytest.param(other, marks=slow) for other in others)]


@supports("Resume", "arrays, shuffled: cut off at any step", fit="no")
@pytest.mark.parametrize("cuts", some([6], [1, 4, 5, 10, 14]), ids=str)
def test_cut_off_at_any_step(cuts, tmp_path):
    assert_resumes(models.dropout, {**ROWS, **VALIDATION}, tmp_path, cuts=cuts)


def test_however_often(tmp_path):
    """Each run does so at other intervals than the one before it."""
    every = [Every(steps=4), Every(seconds=0.0001), Every(seconds="00:10:00"), Every(epochs=2), Every(steps=1)]
    assert_resumes(models.dropout, {**ROWS, **VALIDATION}, tmp_path, cuts=[2, 6, 7, 11], every=every)


@supports("Resume", "dropout, also Keras 2's without a seed; batch normalization; subclassed models", fit="no")
@pytest.mark.parametrize("build", some(models.subclassed, models.batch_norm, models.two_inputs))
def test_models(build, tmp_path):
    x = {"left": X[:, :4], "right": X[:, 4:]} if build is models.two_inputs else X
    assert_resumes(build, {"x": x, "y": Y}, tmp_path)


def draws(base):
    """Draws by `tf.random` ops, which keep their state where nobody can read it; and keeps a variable of its own."""

    class Draws(base):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)
            self.drop = keras.layers.Dropout(0.5, seed=5)
            self.calls = tf.Variable(0, trainable=False)

        def call(self, inputs, training=None):
            if training:
                self.calls.assign_add(1)
                shape = tf.shape(inputs)
                inputs += tf.random.normal(shape) * tf.random.uniform(shape) + tf.random.truncated_normal(shape, seed=3)
                inputs += tf.cast(tf.random.uniform(shape, 0, 5, tf.int32), tf.float32)
            return tf.nn.softmax(self.dense(self.drop(inputs, training=training)))

    return Draws()


@supports("Resume", "`tf.random` ops in `call()`, variables of your own", fit="no")
def test_random_ops_and_variables_of_the_user_s(tmp_path):
    model, _ = assert_resumes(draws, ROWS, tmp_path)
    assert int(model.calls.numpy()) == 15


def test_random_ops_whose_state_cannot_be_kept_are_named(tmp_path):
    def build(base):
        class Shuffles(base):
            def train_step(self, data):
                return super().train_step(tf.nest.map_structure(lambda rows: tf.random.shuffle(rows, seed=1), data))

        return models.dense(Shuffles)

    with pytest.warns(UserWarning, match="`train_step` uses `tf.random.shuffle`, whose state cannot be saved"):
        train(build, {**ROWS, "epochs": 1}, tmp_path)


def test_checkpoints_change_no_number_that_is_drawn(tmp_path):
    """The stateless twins of random ops draw what the ops themselves draw: `fit` agrees."""
    keras.utils.set_random_seed(SEED)
    ours = train(draws, {**ROWS, "shuffle": False}, tmp_path)
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    theirs = draws(keras.Model)
    theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = theirs.fit(X, Y, epochs=3, batch_size=16, shuffle=False, verbose=0)
    assert ours[1].history == history.history


@supports("Resume", "optimizers with slots, schedules, EMA; several optimizers", fit="no")
@pytest.mark.parametrize(
    "optimizer",
    some(
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 10), weight_decay=0.1),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=4),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    ),
    ids=["schedule", "ema", "ema at the end"],
)
def test_optimizers(optimizer, tmp_path):
    assert_resumes(models.dense, ROWS, tmp_path, optimizer=optimizer)


@slow
@pytest.mark.skipif(not hasattr(keras.optimizers, "legacy") or compat.IS_KERAS_3, reason="Keras 2 only")
def test_legacy_optimizers(tmp_path):
    assert_resumes(models.dense, ROWS, tmp_path, optimizer=lambda: keras.optimizers.legacy.Adam())


@pytest.mark.skipif(compat.KERAS_VERSION < (3, 1), reason="accumulation by the optimizer is Keras 3's")
def test_accumulation_by_the_optimizer(tmp_path):
    optimizer = lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3)
    assert_resumes(models.dropout, ROWS, tmp_path, optimizer=optimizer)


@supports("Resume", "`gradient_accumulation_steps`: in the middle of a window, and at its tail", fit="no")
@pytest.mark.parametrize("cuts", some([4], [1, 5, 8]), ids=str)
def test_accumulation(cuts, tmp_path):
    """Windows of 3 in epochs of 5 steps: 1 2 3 | 4 5, each with its own rows."""
    options = {"gradient_accumulation_steps": 3, "clip_percentile": 50, "gradient_metrics": ["grad_norm"]}
    model, _ = assert_resumes(models.dropout, ROWS, tmp_path, cuts=cuts, every=Every(steps=1), **options)
    assert int(model.optimizer.iterations.numpy()) == 6


@supports("Resume", "mixed precision with its loss scale", fit="no")
def test_mixed_precision(tmp_path):
    def build(base):
        keras.mixed_precision.set_global_policy("mixed_float16")
        return models.dropout(base)

    def scaled():
        return keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(), dynamic_growth_steps=3)

    try:
        assert_resumes(build, ROWS, tmp_path, optimizer=scaled)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@slow
def test_several_optimizers(tmp_path):
    def build(base):
        class Two(base):
            def compile(self, *args, **kwargs):
                super().compile(*args, **kwargs)
                self.other_optimizer = keras.optimizers.SGD(0.1, momentum=0.9)

            def train_step(self, data):
                x, y = data
                for optimizer, variables in zip(
                    (self.optimizer, self.other_optimizer), (self.trainable_weights[:2], self.trainable_weights[2:])
                ):
                    with tf.GradientTape() as tape:
                        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))
                    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
                return {"own": loss}

        return models.dropout(Two)

    assert_resumes(build, ROWS, tmp_path, cuts=(2, 5, 12), metrics=None)


def test_eager(tmp_path):
    assert_resumes(models.dropout, ROWS, tmp_path, run_eagerly=True)


@slow
def test_a_callback_that_hears_each_step(tmp_path):
    listens = lambda: keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    given = lambda: {**ROWS, "callbacks": [listens()]}
    assert_resumes(models.dropout, given, tmp_path, steps_per_execution=2)


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="under XLA, Keras 2's dropout is not reproducible under `fit` either")
@pytest.mark.slow
def test_xla(tmp_path):
    assert_resumes(models.dropout, ROWS, tmp_path, jit_compile=True)


# -------------------------------------------------------------------------------------------------------------- data


def dataset(shuffle=False, repeat=False, filtered=False, noisy=False):
    def made():
        data = tf.data.Dataset.from_tensor_slices((X, Y))
        data = data.shuffle(70, seed=5) if shuffle else data
        data = data.filter(lambda x, y: True) if filtered else data
        data = data.map(lambda x, y: (x + tf.random.uniform((8,)), y)) if noisy else data
        data = data.batch(16)
        data = data.repeat() if repeat else data
        return {"x": data, "batch_size": None, **({"steps_per_epoch": 4} if repeat else {})}

    return made


@supports("Resume", "`tf.data`: by the iterator's state, else by reading again", fit="no")
@pytest.mark.parametrize(
    "options",
    some({"shuffle": True, "repeat": True}, {}, {"shuffle": True}, {"filtered": True}, {"noisy": True}),
    ids=lambda options: "+".join(options) or "plain",
)
def test_datasets(options, tmp_path):
    assert_resumes(models.dropout, dataset(**options), tmp_path)


@pytest.mark.parametrize("cuts", some([4], [3, 8, 9, 13]), ids=str)
def test_a_shuffled_dataset_whose_end_has_been_read_ahead(cuts, tmp_path):
    """TensorFlow reads a few batches ahead. To read an iterator's state from there moves the seed of later passes."""
    read_ahead = lambda: {**(given := dataset(shuffle=True)()), "x": given["x"].prefetch(2)}
    assert_resumes(models.dropout, read_ahead, tmp_path, cuts=cuts, every=Every(steps=1))


@slow
def test_a_dataset_with_a_state_of_its_own_says_what_it_costs(tmp_path):
    train(models.dense, lambda: {**dataset(noisy=True)(), "max_steps": 8}, tmp_path)
    with pytest.warns(UserWarning, match="position of the data cannot be restored: 3 batches are read again"):
        train(models.dense, dataset(noisy=True), tmp_path)


@supports("Resume", "generators, `Sequence`s and other iterables, by reading them again", fit="no")
def test_a_generator(tmp_path):
    def generate():
        rng = np.random.RandomState(3)
        while True:
            chosen = rng.randint(0, len(X), 8)
            yield X[chosen], Y[chosen]

    given = lambda: {"x": generate(), "steps_per_epoch": 5, "batch_size": None}
    assert_resumes(models.dropout, given, tmp_path)


def test_data_that_draws_from_global_generators(tmp_path):
    """It is read again before these go on from where they were."""

    def generate():
        while True:
            chosen = np.random.randint(0, len(X), 8)
            yield X[chosen], Y[chosen]

    def given():
        np.random.seed(3)
        return {"x": generate(), "steps_per_epoch": 5, "batch_size": None}

    assert_resumes(models.dense, given, tmp_path)


class Still(keras.utils.Sequence):
    def __init__(self):
        if compat.IS_KERAS_3:
            super().__init__()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[index * 16 : index * 16 + 16], Y[index * 16 : index * 16 + 16]


def test_a_sequence_that_is_shuffled_by_keras(tmp_path):
    """Keras draws its order from Python's or NumPy's global generator."""
    assert_resumes(models.dense, lambda: {"x": Still(), "batch_size": None}, tmp_path)


@pytest.mark.skipif(not compat.IS_KERAS_3, reason="the global seed generator is Keras 3's")
def test_a_callback_that_draws_from_keras_s_global_generator(tmp_path):
    def given():
        drawn = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: keras.random.normal((2,)))
        return {**ROWS, "callbacks": [drawn]}

    assert_resumes(models.dropout, given, tmp_path)


def test_a_stop_that_was_asked_for_within_an_epoch_is_not_forgotten(tmp_path):
    """It is killed after a checkpoint of the middle of the epoch, in which no step is left to train."""

    class Stops(keras.callbacks.Callback):
        def __init__(self, dies):
            super().__init__()
            self.dies = dies

        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = self.model.stop_training or int(self.model.optimizer.iterations.numpy()) >= 7

        def on_epoch_end(self, epoch, logs=None):
            if self.dies and self.model.stop_training:
                raise ZeroDivisionError

    given = lambda dies: {**ROWS, **VALIDATION, "callbacks": [Stops(dies)], "every": Every(steps=1)}
    whole = train(models.dropout, {**given(False), "every": Every(epochs=1)})
    with pytest.raises(ZeroDivisionError):
        train(models.dropout, given(True), tmp_path)
    taken_up = train(models.dropout, given(False), tmp_path)
    assert_same(taken_up, whole)
    assert int(taken_up[0].optimizer.iterations.numpy()) == 7


class Shuffles(keras.utils.Sequence):
    """The first so many batches of rows that are in another order after each pass."""

    def __init__(self, batches):
        if compat.IS_KERAS_3:
            super().__init__()
        self.batches = batches
        self.order = np.arange(64)
        self.rng = np.random.RandomState(1)

    def __len__(self):
        return self.batches

    def __getitem__(self, index):
        rows = self.order[index * 16 : index * 16 + 16]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


def test_a_sequence_that_changes_each_epoch(tmp_path):
    assert_resumes(models.dropout, lambda: {"x": Shuffles(4), "shuffle": False, "batch_size": None}, tmp_path)


@slow
def test_an_iterable_of_batches(tmp_path):
    batches = [(X[begin : begin + 16], Y[begin : begin + 16]) for begin in range(0, 64, 16)]
    assert_resumes(models.dropout, lambda: {"x": iter_again(batches), "batch_size": None}, tmp_path)


class iter_again:  # noqa: N801
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"steps_per_epoch": 3},
        {"shuffle": "batch"},
        {"shuffle": False, "class_weight": {0: 1.0, 1: 2.0, 2: 3.0}},
        lambda: {
            "x": ArraySource(X, Y, batch_size=16, shuffle=True, epochs=3, resident_share=0.0),
            "y": None,
            "batch_size": None,
        },
    ],
    ids=lambda given: "a streamed source" if callable(given) else str(given),
)
def test_ways_of_arrays(arguments, tmp_path):
    given = arguments if callable(arguments) else {**ROWS, **arguments}
    assert_resumes(models.dropout, given, tmp_path)


# --------------------------------------------------------------------------------------------------------- callbacks


@supports("Resume", "early stopping, ReduceLROnPlateau, ModelCheckpoint, schedules, History", fit="no")
@pytest.mark.parametrize("own", some(True, False), ids=["ours", "Keras's"])
def test_early_stopping_remembers(own, tmp_path):
    def given():
        options = dict(monitor="val_loss", mode="max", patience=3)  # the loss falls: the first epoch stays the best
        stopping = EarlyStopping(verbose=0, **options)
        if not own:
            stopping = keras.callbacks.EarlyStopping(restore_best_weights=True, **options)
        return {**ROWS, **VALIDATION, "epochs": 9, "early_stopping": stopping}

    model, history = assert_resumes(models.dense, given, tmp_path, cuts=[3, 8, 11])
    assert len(history.epoch) == 4
    again = train(models.dense, lambda: {**given(), "epochs": 20}, tmp_path)
    assert_same(again, (model, history))  # it has stopped for good


@slow
def test_callbacks_of_keras_remember(tmp_path):
    def given():
        folder = tmp_path / "best"
        return {
            **ROWS,
            **VALIDATION,
            "epochs": 5,
            "callbacks": [
                keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1.0, cooldown=1),
                keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
                keras.callbacks.ModelCheckpoint(
                    str(folder) + "{epoch}.weights.h5",
                    monitor="val_loss",
                    mode="max",
                    save_best_only=True,
                    save_weights_only=True,
                ),
            ],
        }

    assert_resumes(models.dropout, given, tmp_path / "checkpoints", cuts=[3, 10, 13])
    assert [path.name for path in sorted(tmp_path.glob("best*"))] == ["best1.weights.h5"]


def test_any_callback_that_has_a_state(tmp_path):
    class Counts(keras.callbacks.Callback):
        seen = 0

        def on_epoch_end(self, epoch, logs=None):
            self.seen += 1

        def get_state(self):
            return {"seen": self.seen, "array": np.arange(3.0), ("a", 1): [None, True, float("nan")]}

        def set_state(self, state):
            assert state["array"].tolist() == [0, 1, 2]
            assert state["a", 1][:2] == [None, True]
            self.seen = state["seen"]

    counts = []

    def given():
        counts.append(Counts())
        return {**ROWS, "callbacks": [counts[-1]]}

    assert_resumes(models.dense, given, tmp_path)
    assert counts[-1].seen == 3


def test_a_state_that_cannot_be_kept_is_named(tmp_path):
    class Wrong(keras.callbacks.Callback):
        def get_state(self):
            return {"file": object()}

        def set_state(self, state):
            raise AssertionError

    with pytest.raises(TypeError, match=r"numbers, strings, arrays, lists and dicts. Received: callbacks/.*object"):
        train(models.dense, {**ROWS, "callbacks": [Wrong()]}, tmp_path)


def test_validation_by_steps_is_taken_up(tmp_path):
    given = {**ROWS, **VALIDATION, "validation_freq": Every(steps=2), "early_stopping": 9}
    assert_resumes(models.dropout, given, tmp_path, cuts=[3, 4, 9])


@pytest.mark.parametrize("why", ["a row is not finite", "early stopping", "a callback"])
def test_why_a_training_has_stopped_is_known_to_the_call_after_it(why, tmp_path):
    given, options = {**ROWS, "shuffle": False}, {}
    if why == "a row is not finite":
        given["x"], options = np.where(np.arange(70)[:, None] == 40, np.nan, X), {"nonfinite": "stop"}
    elif why == "early stopping":
        given["early_stopping"] = EarlyStopping("loss", patience=1, min_delta=10.0)
    else:
        stop = lambda epoch, logs: setattr(given["callbacks"][0].model, "stop_training", epoch == 1)
        given["callbacks"] = [keras.callbacks.LambdaCallback(on_epoch_end=stop)]
    first = train(models.dense, given, tmp_path, **options)
    again = train(models.dense, given, tmp_path, **options)
    assert_same(again, first)
    assert len(first[1].epoch) < 3
    assert again[1].stop_reason == first[1].stop_reason
    assert (first[1].stop_reason is None) == (why == "a callback")


@pytest.mark.parametrize("sets", [1, 2])
def test_validation_data_that_shuffles_itself_is_taken_up(sets, tmp_path):
    """Few batches of it, so that the order counts; a pass before training; one that is cut off in its second set."""
    held_out = lambda: tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(len(X), seed=5).batch(16)
    given = lambda: {
        **ROWS,
        "validation_data": held_out() if sets == 1 else {"a": held_out(), "b": held_out()},
        "validation_steps": 2,
        "dry_run": DryRun(sanity_validation=1),
        "callbacks": [],
    }
    whole = train(models.dropout, given)
    assert len(set(whole[1].history["val_loss" if sets == 1 else "val_a_loss"])) == 3
    train(models.dropout, {**given(), "max_steps": 7}, tmp_path)
    stops = Interrupts("on_test_begin", sets, signal.SIGTERM)
    assert train(models.dropout, {**given(), "callbacks": [stops]}, tmp_path)[1].stop_reason == "SIGTERM"
    assert_same(train(models.dropout, given, tmp_path), whole)


def test_a_validation_sequence_that_shuffles_itself_is_taken_up(tmp_path):
    given = lambda: {**ROWS, "validation_data": Shuffles(2)}
    whole = assert_resumes(models.dropout, given, tmp_path, cuts=[7, 12])
    assert len(set(whole[1].history["val_loss"])) == 3


@pytest.mark.parametrize("every", [Every(epochs=1), Every(seconds=1e-9)])
def test_a_distributed_dataset_is_read_again(every, tmp_path):
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")

    def build(base):
        with strategy.scope():
            return models.dropout(base)

    def given():
        data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()
        return {"x": strategy.experimental_distribute_dataset(data), "batch_size": None, "steps_per_epoch": 5}

    def scoped():
        with strategy.scope():
            return keras.optimizers.Adam()

    assert_resumes(build, given, tmp_path, cuts=[7], every=every, optimizer=scoped, metrics=None)


def test_with_very_many_epochs_to_go_their_orders_are_not_all_held_in_memory(tmp_path):
    given = lambda steps: (
        lambda: {  # made after the seed is set
            "x": tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(70, seed=3).batch(16),
            "batch_size": None,
            "epochs": 10**6,
            "max_steps": steps,
        }
    )
    train(models.dense, given(7), tmp_path)
    with pytest.warns(UserWarning, match="certain for the next 200 passes only. Received: \\d+ passes to go"):
        taken_up = train(models.dense, given(12), tmp_path)
    assert_same(taken_up, train(models.dense, given(12)))


def test_an_end_by_time_between_epochs_is_taken_up(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setitem(TrainingSession.__init__.__kwdefaults__, "clock", lambda: now[0])

    def passes(epoch, logs):
        now[0] += 60

    def given(**options):
        callbacks = [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
            keras.callbacks.LambdaCallback(on_epoch_end=passes),
        ]
        return {**ROWS, "every": Every(steps=2), "callbacks": callbacks, **options}

    assert train(models.dropout, given(max_time=100), tmp_path)[1].epoch == [0, 1]
    assert_same(train(models.dropout, given(), tmp_path), train(models.dropout, given()))


def test_shuffled_rows_to_validate_on_are_taken_up(tmp_path):
    def given():
        source = ArraySource(X, Y, batch_size=16, shuffle=True, steps_per_epoch=2)
        return {**ROWS, "validation_data": source}

    assert_resumes(models.dropout, given, tmp_path, cuts=[7])


@slow
def test_lines_count_on(tmp_path, capsys):
    given = lambda steps: {**ROWS, "log_every": 4, "max_steps": steps}
    train(models.dense, given(7), tmp_path)
    train(models.dense, given(13), tmp_path)
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["Epoch 1, step 4", "Epoch 2, step 8", "Epoch 3, step 12"]


@pytest.mark.parametrize("verbose", [1, 2, 0])
def test_a_run_that_resumes_or_is_over_says_so_in_one_line(verbose, tmp_path, capsys):
    calls = [
        ({"max_steps": 7}, []),
        ({"max_steps": 9}, ["Resuming from DIR: epoch 2 of 3, after step 2."]),
        (
            {"max_steps": 9},
            ["Nothing left to train: the run in DIR is at epoch 2 of 3, after step 4 (reached max_steps=9)."],
        ),
        ({"epochs": 2}, ["Resuming from DIR: epoch 2 of 2, after step 4."]),
        ({"epochs": 3}, ["Resuming from DIR: epoch 3 of 3."]),
        ({"epochs": 3}, ["Nothing left to train: the run in DIR is at the end of epoch 3 of 3."]),
        ({"epochs": 3, "resume": False}, []),
    ]
    for arguments, expected in calls:
        train(models.dense, {**ROWS, "verbose": verbose, **arguments}, tmp_path)
        lines = [line.replace(str(tmp_path), "DIR") for line in capsys.readouterr().out.splitlines()]
        assert [line for line in lines if "DIR" in line] == (expected if verbose else [])
        if verbose and expected:
            assert lines[0] == expected[0]  # before the line of the first epoch
            assert not lines[1:] or lines[1].startswith("Epoch ")


def test_a_run_that_early_stopping_has_ended_says_why(tmp_path, capsys):
    given = {**ROWS, "early_stopping": EarlyStopping("loss", patience=1, min_delta=9), "verbose": 2}
    train(models.dense, given, tmp_path)
    capsys.readouterr()
    train(models.dense, given, tmp_path)
    end = f"Nothing left to train: the run in {tmp_path} is at the end of epoch 2 of 3 ("
    assert capsys.readouterr().out.startswith(end)


def test_an_own_loop_says_where_it_resumes(tmp_path, capsys):
    def loop(**options):
        keras.backend.clear_session()
        keras.utils.set_random_seed(SEED)
        model = models.dense(CustomTrainModel)
        model.compile("sgd", "sparse_categorical_crossentropy")
        with TrainingSession(model, epochs=3, verbose=2, checkpoint=tmp_path, **options) as session:
            for _epoch in session.epochs():
                for begin in range(16 * session.step, 64, 16):
                    session.train_on((X[begin : begin + 16], Y[begin : begin + 16]))
                    if session.should_stop:
                        break
        return capsys.readouterr().out.splitlines()

    assert loop(max_steps=6)[0] == "Epoch 1/3"
    assert loop()[:2] == [f"Resuming from {tmp_path}: epoch 2 of 3, after step 2.", "Epoch 2/3"]
    assert loop() == [f"Nothing left to train: the run in {tmp_path} is at the end of epoch 3 of 3."]


# ----------------------------------------------------------------------------------------------- beginnings, ends


@supports("Resume", "a finished run is not trained again; more epochs continue from its end", fit="no")
def test_a_finished_training_is_not_trained_again_and_goes_on_from_its_end(tmp_path):
    begun = []
    given = lambda epochs: {
        **ROWS,
        "epochs": epochs,
        "callbacks": [keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))],
    }
    whole = train(models.dropout, given(3), tmp_path)
    begun.clear()
    assert_same(train(models.dropout, given(3), tmp_path), whole)
    assert begun == []
    assert_same(train(models.dropout, given(5), tmp_path), train(models.dropout, given(5)))
    assert begun[:2] == [3, 4]


def test_it_goes_on_in_the_same_process_and_model(tmp_path):
    keras.utils.set_random_seed(SEED)
    model = models.dropout(CustomTrainModel)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    plateau = lambda: keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=0, min_delta=9.0)
    for epochs in (2, 3):
        given = {"epochs": epochs, "batch_size": 16, "verbose": 0, "callbacks": [plateau()]}
        history = model.custom_fit(X, Y, checkpoint=tmp_path, **given)
    assert_same((model, history), train(models.dropout, lambda: {**ROWS, "callbacks": [plateau()]}))


def test_a_model_built_anew_in_the_same_process_has_other_names_and_goes_on(tmp_path):
    def fit(**arguments):
        keras.utils.set_random_seed(SEED)
        model = models.dropout(CustomTrainModel)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model, model.custom_fit(X, Y, epochs=3, batch_size=16, verbose=0, **arguments)

    whole = fit()
    fit(checkpoint=tmp_path, max_steps=7)
    assert_same(fit(checkpoint=Checkpoints(tmp_path, resume=True)), whole)


def test_without_a_global_seed_one_is_drawn_and_kept(tmp_path):
    tf.random.set_seed(None)
    given = {**ROWS, "max_steps": 7}
    train(models.dropout, given, tmp_path / "a", seed=None)
    assert compat.global_seed() is None
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ends = [train(models.dropout, ROWS, tmp_path / name, seed=None) for name in "ab"]
    assert_same(*ends)


@slow
def test_resume_true_and_false(tmp_path):
    from customfit.checkpoint import CheckpointError

    with pytest.raises(CheckpointError, match="With `resume=True` there must be a checkpoint"):
        train(models.dense, {**ROWS, "resume": True}, tmp_path)
    train(models.dropout, {**ROWS, "max_steps": 7}, tmp_path)
    whole = train(models.dropout, ROWS)
    assert_same(train(models.dropout, {**ROWS, "resume": False}, tmp_path), whole)
    assert_same(train(models.dropout, {**ROWS, "resume": True}, tmp_path), whole)


def test_an_own_loop_goes_on_at_its_epoch_and_step(tmp_path):
    def loop(stop_after=None, checkpoint=None):
        keras.backend.clear_session()
        keras.utils.set_random_seed(SEED)
        model = models.dropout(CustomTrainModel)
        model.compile("adam", "sparse_categorical_crossentropy")
        with TrainingSession(model, epochs=3, verbose=0, checkpoint=checkpoint, max_steps=stop_after) as session:
            for _epoch in session.epochs():
                for begin in range(16 * session.step, 64, 16):
                    session.train_on((X[begin : begin + 16], Y[begin : begin + 16]))
                    if session.should_stop:
                        break
        return model, session.history

    loop(stop_after=6, checkpoint=tmp_path)
    assert_same(loop(checkpoint=tmp_path), loop())


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory):
    """The checkpoints of a run of `models.dense` that was cut off."""
    folder = tmp_path_factory.mktemp("cut_off")
    train(models.dense, {**ROWS, "max_steps": 7}, folder)
    return folder


def tanh(base):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="tanh")(inputs)
    return base(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def from_logits():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("build", "arguments", "compile_options", "message"),
    [
        (models.batch_norm, {}, {}, r"batch_normalization \(BatchNormalization\) is new"),
        (lambda base: models.dense(base, outputs=4), {}, {}, r"dense_1: units=4, was 3$"),
        (tanh, {}, {}, "dense: activation='tanh', was 'relu'$"),
        (models.dense, {}, {"loss_weights": [0.5]}, r"loss_weights=\[0.5\], was None"),
        (models.dense, {}, {"loss": from_logits}, "loss: from_logits=True, was False$"),
        (models.dense, {"validation_data": (X[:30], Y[:30])}, {}, "validation: the data 'val' is new"),
        (models.dense, {"batch_size": 8}, {}, "batch_size=8, was 16"),
        (models.dense, {"shuffle": False}, {}, "shuffle=False, was True"),
        (models.dense, {"class_weight": {0: 2.0}}, {}, "class_weight=.*, was None"),
        (models.dense, {"x": X + 1}, {}, "checksum of rows"),
        (models.dense, {"x": X[:60], "y": Y[:60]}, {}, "rows=60, was 70"),
        (
            models.dense,
            {"validation_freq": Every(steps=3), **VALIDATION},
            {},
            r"validation: freq='Every\(steps=3\)', was 1",
        ),
        (models.dense, {}, {"optimizer": "sgd"}, r"optimizer=SGD\(.*\), was Adam\(.*\)"),
        (
            models.dense,
            {},
            {"optimizer": lambda: keras.optimizers.Adam(0.5)},
            r"read with .*: learning_rate=0.5, was 0.001$",
        ),
        (models.dense, {}, {"global_clipnorm": 1.0}, "global_clipnorm=1.0, was None"),
        (
            models.dense,
            {},
            {"loss": lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p)},
            "loss='<lambda>'",
        ),
    ],
)
def test_other_models_and_options_are_refused_with_what_differs(
    build, arguments, compile_options, message, cut_off, tmp_path
):
    checkpoint = tmp_path / "checkpoint"
    if compile_options.get("loss") is from_logits:
        compile_options = {"loss": from_logits()}
        train(models.dense, {**ROWS, "max_steps": 7}, checkpoint, loss=keras.losses.SparseCategoricalCrossentropy())
    else:
        shutil.copytree(cut_off, checkpoint)
    with pytest.raises(
        ValueError,
        match="(?:`checkpoint` must hold checkpoints of this model|The checkpoint was written with different options)"
        f".*Received: .*(?:{message})",
    ):
        train(build, {**ROWS, **arguments}, checkpoint, **compile_options)


def test_a_rate_that_a_callback_has_moved_since_is_no_other_option(tmp_path):
    """The checkpoint of the limit is of the open epoch, at whose end the rate was halved."""
    halves = lambda: [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate if epoch == 0 else rate / 2)]
    plateau = lambda: [keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=9)]
    for callbacks in (halves, plateau):
        folder = tmp_path / callbacks.__name__ / str(id(callbacks))
        given = lambda: {**ROWS, "callbacks": callbacks()}  # noqa: B023
        whole = train(models.dense, given)
        model, _ = train(models.dense, {**given(), "max_steps": 7}, folder)
        history = model.custom_fit(**{"epochs": 3, "batch_size": 16, "verbose": 0, **given(), "checkpoint": folder})
        assert history.history == whole[1].history


def test_another_seed_is_refused(cut_off, tmp_path):
    shutil.copytree(cut_off, tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="the global seed is 8, was 7"):
        train(models.dense, ROWS, tmp_path / "checkpoint", seed=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": "batch"}, r"`Checkpoints\(every=\)` must be an `Every`"),
        ({"every": 3}, r"`Checkpoints\(every=\)` must be an `Every`"),
        ({"keep": 0}, "`keep` must be a positive integer"),
        ({"resume": "never"}, r"`Checkpoints\(resume=\)` must be"),
        ({"on_error": "ignore"}, r"`Checkpoints\(on_error=\)` must be"),
        ({"callbacks": [keras.callbacks.BackupAndRestore("unused")]}, "`callbacks` must not have a `BackupAndRestore`"),
    ],
)
def test_wrong_options_are_refused_before_the_first_step(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(models.dense, {**ROWS, **arguments}, tmp_path)
    assert not list(tmp_path.iterdir())
