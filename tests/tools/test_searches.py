"""What searches over hyperparameters finds the same under `custom_fit` as under `fit`."""

import os

import numpy as np
import pytest

from customfit import CustomTrainModel, CustomTrainSequential
from customfit.compat import keras
from tests.parity import models
from tests.parity.compare import SEED

pytestmark = pytest.mark.tools
X, Y = models.rows(64)
GIVEN = {"epochs": 3, "verbose": 0, "shuffle": False, "validation_data": (X, Y)}


class Explicit(CustomTrainSequential):
    """The one line that makes `fit` the explicit loop, for tools that call it."""

    fit = CustomTrainModel.custom_fit


def layered(cls, units=8, rate=0.01):
    keras.utils.set_random_seed(SEED)
    model = cls([keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_keras_tuner_scores_the_trials_as_with_fit(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")
    scores = {}
    for cls in (keras.Sequential, Explicit):
        tuner = keras_tuner.GridSearch(
            lambda hp, cls=cls: layered(cls, hp.Choice("units", [4, 8])),
            "val_loss",
            directory=os.fspath(tmp_path / cls.__name__),
        )
        tuner.search(X, Y, **GIVEN)
        trials = tuner.oracle.get_best_trials(2)
        scores[cls] = [(trial.hyperparameters.values["units"], trial.score) for trial in trials]
    assert scores[Explicit] == scores[keras.Sequential]


@pytest.mark.parametrize("pruned", [False, True])
def test_optuna_prunes_what_it_prunes_with_fit(pruned):
    optuna = pytest.importorskip("optuna")
    integration = pytest.importorskip("optuna_integration")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trials = {}
    for how in ("fit", "custom_fit"):

        def objective(trial, how=how):
            model = layered(CustomTrainSequential, rate=trial.suggest_categorical("rate", [0.1, 0.0001]))
            callback = integration.KerasPruningCallback(trial, "val_loss")
            return getattr(model, how)(X, Y, callbacks=[callback], **GIVEN).history["val_loss"][-1]

        pruner = optuna.pruners.ThresholdPruner(upper=0.0) if pruned else optuna.pruners.NopPruner()
        study = optuna.create_study(sampler=optuna.samplers.GridSampler({"rate": [0.1, 0.0001]}, seed=1), pruner=pruner)
        study.optimize(objective, n_trials=2)
        trials[how] = sorted(
            (trial.params["rate"], trial.state.name, tuple(trial.intermediate_values.items())) for trial in study.trials
        )
    assert trials["custom_fit"] == trials["fit"]
    assert all((state == "PRUNED") == pruned for _, state, _ in trials["fit"])


def test_ray_tune_reports_the_values_of_fit(tmp_path):
    ray = pytest.importorskip("ray")
    tune = pytest.importorskip("ray.tune")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    root = os.getcwd()

    def trial(config):
        import sys

        sys.path.insert(0, root)
        from customfit import CustomTrainSequential
        from customfit.compat import keras
        from tests.tools.test_searches import GIVEN, X, Y, layered

        class Report(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                tune.report({name: float(value) for name, value in logs.items()})

        model = layered(CustomTrainSequential)
        getattr(model, config["how"])(X, Y, callbacks=[Report()], **GIVEN)

    try:
        space = {"how": tune.grid_search(["fit", "custom_fit"])}
        run = tune.RunConfig(storage_path=os.fspath(tmp_path), verbose=0)
        results = tune.Tuner(trial, param_space=space, run_config=run).fit()
        assert not results.errors
        values = {each.config["how"]: each.metrics for each in results}
    finally:
        ray.shutdown()
    for name in ("loss", "accuracy", "val_loss", "training_iteration"):
        assert values["custom_fit"][name] == values["fit"][name]


def test_scikit_learn_wrappers_predict_as_with_fit():
    pytest.importorskip("sklearn")
    wrappers = getattr(keras, "wrappers", None)
    if not hasattr(wrappers, "SKLearnClassifier"):
        pytest.skip("this Keras has no SKLearnClassifier")

    def build(cls, X, y):  # noqa: N803 - the names that Keras passes
        model = layered(cls)
        model.compile("sgd", "categorical_crossentropy")
        return model

    predicted = {}
    for cls in (keras.Sequential, Explicit):
        fitted = wrappers.SKLearnClassifier(
            lambda X, y, cls=cls: build(cls, X, y),  # noqa: N803
            fit_kwargs={"epochs": 3, "verbose": 0, "shuffle": False},
        ).fit(X, Y)
        predicted[cls] = fitted.model_.predict(X, verbose=0)
    np.testing.assert_array_equal(predicted[Explicit], predicted[keras.Sequential])


def test_scikeras_predicts_as_with_fit():
    scikeras = pytest.importorskip("scikeras.wrappers")
    predicted = {}
    for cls in (keras.Sequential, Explicit):
        classifier = scikeras.KerasClassifier(
            lambda cls=cls: layered(cls), epochs=3, verbose=0, shuffle=False, random_state=SEED
        )
        predicted[cls] = classifier.fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(predicted[Explicit], predicted[keras.Sequential])
