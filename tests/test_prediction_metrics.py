"""`PredictionMetrics`: from all predictions of the validation pass that runs anyway."""

import numpy as np
import pytest

from customfit import CustomTrainModel, EarlyStopping, Every
from customfit.callbacks import PredictionMetrics, plot_confusion_matrix
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import assert_equal, compiled, train
from tests.resume.cut import assert_resumes

sklearn = pytest.importorskip("sklearn.metrics")

X, Y = models.rows(70)
XV, YV = models.rows(45, seed=1)
METHODS = ("fit", "custom_fit")


def macro_f1(y, y_pred):
    return sklearn.f1_score(y, y_pred.argmax(-1), average="macro")


def arguments(*callbacks, **more):
    return {"x": X, "y": Y, "validation_data": (XV, YV), "callbacks": list(callbacks), **more}


@pytest.mark.supports("Validation", "`PredictionMetrics`: any function of all predictions")
@pytest.mark.parametrize("how", METHODS)
def test_it_is_the_metric_of_all_predictions(how):
    last = []
    metrics = PredictionMetrics({"f1": macro_f1, "matrix": lambda y, p: sklearn.confusion_matrix(y, p.argmax(-1))})
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: last.append(logs["val_f1"]))
    model, history = train(models.dropout, how, arguments(metrics, watch))
    assert history.history["val_f1"] == last
    assert last[-1] == pytest.approx(macro_f1(YV, model.predict(XV, verbose=0)))
    assert metrics.results["matrix"].sum() == 45
    assert "val_matrix" not in history.history


@pytest.mark.parametrize("how", METHODS)
def test_it_changes_no_number(how):
    ours = train(models.dropout, how, arguments(PredictionMetrics({"f1": macro_f1})))
    theirs = train(models.dropout, how, arguments())
    del ours[1].history["val_f1"]
    assert_equal(ours, theirs)


def test_there_is_no_second_pass_and_steps_run_in_blocks():
    forward = []

    class Counts(CustomTrainModel):
        def test_step(self, data):
            tf.numpy_function(lambda: forward.append(1) or np.int64(0), [], tf.int64)
            return super().test_step(data)

    model = compiled(models.dense, Counts)
    model.custom_fit(**arguments(PredictionMetrics({"f1": macro_f1})), epochs=2, verbose=0, validation_batch_size=5)
    assert len(forward) == 2 * 9


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_weights_are_passed_to_functions_that_take_them(options):
    weights = np.linspace(0.1, 2.0, 45).astype("float32")
    accuracy = lambda y, p, sample_weight=None: sklearn.accuracy_score(y, p.argmax(-1), sample_weight=sample_weight)
    metrics = PredictionMetrics({"mine": accuracy, "rows": lambda y, p: len(y)})
    given = arguments(metrics, validation_data=(XV, YV, weights))
    model, history = train(models.dense, "custom_fit", given, weighted_metrics=["accuracy"], metrics=None, **options)
    np.testing.assert_allclose(history.history["val_mine"], history.history["val_accuracy"], rtol=1e-5)
    assert history.history["val_rows"] == [45.0] * 3


def test_named_sets_and_validation_within_epochs():
    metrics = PredictionMetrics({"rows": lambda y, p: len(y)})
    sets = {"all": (XV, YV), "few": (XV[:7], YV[:7])}
    model = compiled(models.dense)
    history = model.custom_fit(
        **arguments(metrics, validation_data=sets), batch_size=10, validation_freq=Every(steps=3), verbose=0
    )
    assert [(entry["val_all_rows"], entry["val_few_rows"]) for entry in history.validation] == [(45, 7)] * 2
    assert history.history["val_few_rows"] == [7.0]
    assert model.custom_evaluate(XV, YV, callbacks=[metrics], return_dict=True, verbose=0)["rows"] == 45


def test_one_of_several_outputs():
    targets = lambda x, y: {"kind": y, "size": x[:, :1]}
    metrics = PredictionMetrics({"f1": macro_f1}, output="kind")
    both = PredictionMetrics({"outputs": lambda y, p: len(p)})
    model = compiled(models.two_outputs, loss={"kind": "sparse_categorical_crossentropy", "size": "mse"}, metrics=None)
    history = model.custom_fit(
        X, targets(X, Y), validation_data=(XV, targets(XV, YV)), verbose=0, callbacks=[metrics, both]
    )
    assert history.history["val_kind_f1"] == [pytest.approx(macro_f1(YV, model.predict(XV, verbose=0)["kind"]))]
    assert history.history["val_outputs"] == [2.0]


def test_early_stopping_monitors_it():
    values = iter([0.1, 0.5, 0.3, 0.2, 0.1])
    metrics = PredictionMetrics({"f1": lambda y, p: next(values)})
    history = compiled(models.dense).custom_fit(
        **arguments(metrics), epochs=5, verbose=0, early_stopping=EarlyStopping("val_f1", patience=2)
    )
    assert history.history["val_f1"] == [0.1, 0.5, 0.3, 0.2]


def test_what_is_held_is_what_the_transform_returns():
    seen = []
    metrics = PredictionMetrics(
        {"classes": lambda y, p: seen.append(p) or {"first": p[0], "mean": p.mean()}, "list": lambda y, p: [1, 2]},
        transform=lambda y, p: (y, tf.argmax(p, -1)),
    )
    _, history = train(models.dense, "custom_fit", arguments(metrics, epochs=1))
    assert seen[0].shape == (45,)
    assert seen[0].dtype == np.int64
    assert {"val_classes_first", "val_classes_mean", "val_list_0", "val_list_1"} < set(history.history)


def test_it_is_resumed_without_a_warning(tmp_path, recwarn):
    make = lambda: arguments(PredictionMetrics({"f1": macro_f1}))
    assert_resumes(models.dropout, make, tmp_path, cuts=(7,))
    assert not [warning for warning in recwarn if "Python function" in str(warning.message)]


def test_a_test_step_of_one_s_own():
    class Own(CustomTrainModel):
        collects = True

        def test_step(self, data):
            x, y = data
            y_pred = self(x, training=False)
            if self.collects:
                self.collect_predictions(y, y_pred)
            return self.compute_metrics(x, y, y_pred, None)

    _, history = train(models.dense, "custom_fit", arguments(PredictionMetrics({"f1": macro_f1})), Own)
    assert len(history.history["val_f1"]) == 3
    Own.collects = False
    with pytest.raises(RuntimeError, match="must call `self.collect_predictions"):
        train(models.dense, "custom_fit", arguments(PredictionMetrics({"f1": macro_f1})), Own)


def test_the_plot_has_a_number_for_each_pair_of_classes():
    pytest.importorskip("matplotlib")
    axes = plot_confusion_matrix([[5, 1], [0, 4]], labels=["cat", "dog"])
    assert [text.get_text() for text in axes.texts] == ["5", "1", "0", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    with pytest.raises(ValueError, match="as many rows as columns"):
        plot_confusion_matrix([[1, 2]])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`functions` must hold functions"):
        PredictionMetrics({})
    with pytest.raises(TypeError, match="must be given to a `CustomTrainModel`"):
        train(models.dense, "fit", arguments(PredictionMetrics({"f1": macro_f1})), keras.Model)
    with pytest.raises(ValueError, match="XLA compiles"):
        train(models.dense, "custom_fit", arguments(PredictionMetrics({"f1": macro_f1})), jit_compile=True)
