"""Tools that replace or call `fit`."""

import os
import types
import warnings

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(64)


def patch_fit(monkeypatch, package):
    """As a tool does that logs automatically: a function of its own module in the place of Keras's."""
    module = types.ModuleType(f"{package}.autologging")
    exec("def fit(self, *args, **kwargs):\n    return plain(self, *args, **kwargs)", module.__dict__)
    module.plain = keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", module.fit)


@pytest.mark.parametrize(
    ("package", "callback"),
    [("mlflow", r"mlflow.tensorflow.MlflowCallback\(\)"), ("comet_ml", "get_callback"), ("other", "other")],
)
def test_a_tool_that_replaces_fit_is_named_with_its_callback(package, callback, monkeypatch):
    patch_fit(monkeypatch, package)
    model = compiled(models.dense)
    with pytest.warns(UserWarning, match=f"{package} has replaced `keras.Model.fit`.*{callback}"):
        model.custom_fit(X, Y, verbose=0)


def test_no_warning_where_fit_is_keras_s_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled(models.dense).custom_fit(X, Y, verbose=0)


def test_mlflow_warns_and_its_callback_logs_what_fit_s_autologging_does(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/runs")
    mlflow.set_experiment("tools")
    mlflow.tensorflow.autolog(log_models=False)
    metrics = {}
    try:
        for how in ("fit", "custom_fit"):
            model = compiled(models.dense)
            with mlflow.start_run() as run:
                given = {"epochs": 2, "verbose": 0, "shuffle": False}
                if how == "custom_fit":
                    with pytest.warns(UserWarning, match="mlflow has replaced"):
                        model.custom_fit(X, Y, **given)
                    given["callbacks"] = [mlflow.tensorflow.MlflowCallback()]
                getattr(model, how)(X, Y, **given)
            metrics[how] = set(mlflow.get_run(run.info.run_id).data.metrics)
    finally:
        mlflow.tensorflow.autolog(disable=True)
    assert {"loss", "accuracy"} <= metrics["fit"] & metrics["custom_fit"]


class Explicit(CustomTrainSequential):
    """The one line that makes `fit` the explicit loop, for tools that call it."""

    fit = CustomTrainModel.custom_fit


def build_explicit(**options):
    model = Explicit([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], global_clipnorm=1.0)
    return model


def test_keras_s_scikit_learn_wrapper_trains_with_the_explicit_loop():
    pytest.importorskip("sklearn")
    wrappers = getattr(keras, "wrappers", None)
    if wrappers is None or not hasattr(wrappers, "SKLearnClassifier"):
        pytest.skip("this Keras has no SKLearnClassifier")

    def build(X, y):  # noqa: N803 - the names that Keras passes
        model = Explicit([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
        model.compile("adam", "categorical_crossentropy")
        return model

    classifier = wrappers.SKLearnClassifier(build, fit_kwargs={"epochs": 9, "max_steps": 3, "verbose": 0})
    classifier.fit(X, Y)
    assert int(classifier.model_.optimizer.iterations.numpy()) == 3  # an argument that only ours has


def test_scikeras_trains_with_the_explicit_loop():
    scikeras = pytest.importorskip("scikeras.wrappers")
    classifier = scikeras.KerasClassifier(build_explicit, loss="sparse_categorical_crossentropy", epochs=2, verbose=0)
    classifier.fit(X, Y)
    assert classifier.predict(X).shape == Y.shape


def test_a_keras_tuner_search_trains_with_the_explicit_loop(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")

    def build(hp):
        units = hp.Int("units", 4, 8, step=4)
        model = Explicit([keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(3, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    tuner = keras_tuner.RandomSearch(build, "val_accuracy", max_trials=2, directory=os.fspath(tmp_path), seed=1)
    tuner.search(X, Y, epochs=2, validation_data=(X, Y), verbose=0)
    best = tuner.get_best_models(1)[0]
    assert isinstance(best, Explicit)
    assert np.isfinite(best.evaluate(X, Y, verbose=0)[0])


def events(folder):
    """What kind of events TensorBoard has written, with their steps: the values may differ, as graphs do."""
    found = set()
    for path in sorted(folder.rglob("events.*")):
        for record in tf.data.TFRecordDataset(os.fspath(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags = [value.tag for value in event.summary.value if "steps_per_second" not in value.tag]
            found |= {(path.parent.name, tag, event.step) for tag in tags}
            found |= {(path.parent.name, "graph", event.step)} if event.graph_def else set()
    return found


@pytest.mark.parametrize("options", [{}, {"profile_batch": 2}, {"write_steps_per_second": True}], ids=str)
def test_tensorboard_writes_the_graphs_that_it_writes_under_fit(options, tmp_path):
    pytest.importorskip("tensorboard")
    if compat.IS_KERAS_3 and compat.KERAS_VERSION < (3, 15):
        pytest.skip("older releases write the graph of `fit`'s own `train_function`: see docs/differences.md")
    for how in ("fit", "custom_fit"):
        callback = keras.callbacks.TensorBoard(os.fspath(tmp_path / how), **options)
        given = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False, "callbacks": [callback]}
        getattr(compiled(models.dense), how)(X, Y, **given)
    assert events(tmp_path / "custom_fit") == events(tmp_path / "fit") != set()
