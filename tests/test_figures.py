"""Figures hold what was trained. What they look like is looked at by hand."""

import math
import re

import numpy as np
import pytest

from customfit import callbacks
from customfit.compat import keras
from customfit.training.plan import Plan
from tests.parity import models
from tests.parity.compare import compiled

pytest.importorskip("matplotlib")
X, Y = models.rows()
X, Y = X[:48], Y[:48]


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("best")}


def test_a_history_is_drawn_log_by_log():
    model = compiled(models.dense)
    history = model.custom_fit(X, Y, epochs=4, verbose=0, validation_data=(X, Y), validation_freq=2, early_stopping=9)
    panels = callbacks.plot_history(history)
    assert [axes.get_ylabel() for axes in panels] == ["loss", "accuracy"]
    for axes in panels:
        name = axes.get_ylabel()
        drawn = lines(axes)
        assert list(drawn) == [name, f"val_{name}"]
        np.testing.assert_array_equal(drawn[name].get_xdata(), [1, 2, 3, 4])
        np.testing.assert_array_equal(drawn[name].get_ydata(), history.history[name])
        np.testing.assert_array_equal(drawn[f"val_{name}"].get_xdata(), [2, 4])
        np.testing.assert_array_equal(drawn[f"val_{name}"].get_ydata(), history.history[f"val_{name}"])
        best = 2 * int(np.argmin(history.history["val_loss"])) + 2
        assert [line.get_xdata()[0] for line in axes.lines if line not in drawn.values()] == [best]


def test_the_title_says_why_training_ended():
    model = compiled(models.dense)
    history = model.custom_fit(X, Y, epochs=9, verbose=0, max_steps=3)
    assert callbacks.plot_history(history)[0].figure.get_suptitle() == "reached max_steps=3"


def test_each_validation_set_is_beside_its_log():
    model = compiled(models.dense)
    sets = {"near": (X, Y), "far": (X[::-1], Y)}
    history = model.custom_fit(X, Y, epochs=2, verbose=0, validation_data=sets)
    panels = callbacks.plot_history(history)
    prefixes = [name[: -len("_loss")] for name in history.history if name.endswith("_loss")]
    assert len(prefixes) == 2
    assert [list(lines(axes)) for axes in panels] == [
        ["loss", *(f"{prefix}_loss" for prefix in prefixes)],
        ["accuracy", *(f"{prefix}_accuracy" for prefix in prefixes)],
    ]


def test_sets_without_metrics_are_sets():
    panels = callbacks.plot_history({"loss": [2.0, 1.0], "val_near_loss": [2.0, 1.0], "val_far_loss": [3.0, 1.0]})
    assert [list(lines(axes)) for axes in panels] == [["loss", "val_near_loss", "val_far_loss"]]


def test_outputs_and_gradient_norms_have_panels_of_their_own():
    logs = {
        "loss": [2.0, 1.0],
        "a_loss": [1.0, 0.5],
        "b_loss": [1.0, 0.5],
        "grad_norm": [3.0, np.nan],
        "val_loss": [2, 3],
    }
    panels = callbacks.plot_history({**logs, "val_a_loss": [1, 1], "val_b_loss": [1, 2]}, monitor="loss")
    assert [axes.get_ylabel() for axes in panels] == ["loss", "a_loss", "b_loss", "grad_norm"]
    assert list(lines(panels[1])) == ["a_loss", "val_a_loss"]
    assert panels[0].lines[-1].get_label() == "best loss: epoch 2"


def test_the_best_accuracy_is_the_highest():
    panels = callbacks.plot_history({"loss": [2.0, 1.0, 3.0], "accuracy": [0.1, 0.2, 0.9]}, monitor="accuracy")
    assert panels[0].lines[-1].get_label() == "best accuracy: epoch 3"


def test_the_direction_of_a_name_that_does_not_tell_it_is_asked_for():
    logs = {"loss": [2.0, 1.0], "height": [0.1, 0.9]}
    for mode, epoch in (("min", 1), ("max", 2)):
        best = callbacks.plot_history(logs, monitor="height", mode=mode)[0].lines[-1]
        assert best.get_label() == f"best height: epoch {epoch}"
    with pytest.raises(ValueError, match='`mode` must be "min" or "max"'):
        callbacks.plot_history(logs, monitor="height")
    with pytest.raises(ValueError, match='`mode` must be "auto", "min" or "max"'):
        callbacks.plot_history(logs, mode="lowest")
    (panel,) = callbacks.plot_history({"height": [0.1, 0.9]})  # nobody has asked for the best epoch
    assert [line.get_label() for line in panel.lines] == ["height"]


def test_a_training_that_was_never_finite_is_drawn_without_a_best_epoch():
    for values in ([math.nan, math.nan], [math.inf, math.nan]):
        (panel,) = callbacks.plot_history({"loss": values})
        assert [line.get_label() for line in panel.lines] == ["loss"]
    (panel,) = callbacks.plot_history({"accuracy": [[0.1, 0.2], [0.3, 0.4]]})  # of two classes
    assert not panel.lines
    (panel,) = callbacks.plot_history({"loss": [1.0, 2.0], "val_loss": []})
    assert [line.get_label() for line in panel.lines] == ["loss", "val_loss"]
    assert callbacks.plot_history({"loss": [-math.inf, 1.0]})[0].lines[-1].get_label() == "best loss: epoch 2"


@pytest.mark.parametrize(("logs", "monitor"), [({}, None), ({"loss": []}, None), ({"loss": [1.0]}, "val_loss")])
def test_what_cannot_be_drawn(logs, monitor):
    with pytest.raises(ValueError, match="Received"):
        callbacks.plot_history(logs, monitor)


def test_fit_and_its_history_are_drawn_too():
    model = compiled(models.dense, keras.Model)
    history = model.fit(X, Y, initial_epoch=2, epochs=4, verbose=0)
    np.testing.assert_array_equal(lines(callbacks.plot_history(history)[0])["loss"].get_xdata(), [3, 4])


def test_a_plan_is_a_table_in_a_notebook():
    plan = Plan(None, 2, 10, 10, 0, 0, 4, 0, 4, None, ("a < b",))
    assert plan._repr_html_().startswith("<table><tr><th>epochs</th><td>2</td></tr>")
    assert "a &lt; b" in plan._repr_html_()


def test_a_history_shows_itself_as_a_table_and_curves():
    model = compiled(models.dense)
    history = model.custom_fit(X, Y, epochs=12, verbose=0, validation_data=(X, Y), max_steps=23)
    assert isinstance(history, keras.callbacks.History)
    assert model.history is history
    shown = history._repr_html_()
    assert re.findall(r"<th>(.*?)</th>", shown) == ["epoch", *history.history]
    rows = [re.findall(r"<td>(?:<b>)?([^<,]*)", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", shown)]
    assert rows[0] == ["1", *(f"{values[0]:.4g}" for values in history.history.values())]
    assert len(rows) <= 11
    best = int(np.argmin(history.history["val_loss"])) + 1
    assert f"<b>{best}, the best</b>" in shown
    panels = re.findall(r"<svg.*?</svg>", shown)
    assert [panel.count("<polyline") for panel in panels] == [2, 2]  # loss and accuracy, each with validation
    points = re.search(r'<polyline points="([^"]*)"', panels[0])[1].split()
    assert len(points) == len(history.history["loss"])
    heights = [float(point.split(",")[1]) for point in points]
    assert np.argmin(heights) == np.argmax(history.history["loss"])  # y counts downwards
    assert history.stop_reason in shown


def test_a_history_with_a_nan_and_an_empty_one_are_shown():
    assert "No epoch" in callbacks.History()._repr_html_()
    history = callbacks.History()
    history.history, history.epoch = {"loss": [float("nan"), 1.0]}, [0, 1]
    assert "<b>2, the best</b>" in history._repr_html_()
    history.history = {"loss": [float("nan"), float("inf")]}
    assert "the best" not in history._repr_html_()


def test_a_history_of_the_user_s_is_the_one_that_is_returned():
    mine = keras.callbacks.History()
    model = compiled(models.dense)
    assert model.custom_fit(X, Y, epochs=2, verbose=0, callbacks=[mine]) is mine
    assert len(mine.history["loss"]) == 2


def test_logs_of_validation_alone_have_a_panel_and_named_sets_stand_together():
    logs = {name: [1.0, 2.0] for name in ("accuracy", "loss", "val_a_loss", "val_a_accuracy", "val_a_f1")}
    logs.update({name: [1.0, 2.0] for name in ("val_b_loss", "val_b_accuracy", "val_b_f1", "val_b_out_loss")})
    drawn = {axes.get_ylabel(): list(lines(axes)) for axes in callbacks.plot_history(logs)}
    assert drawn == {
        "loss": ["loss", "val_a_loss", "val_b_loss"],
        "accuracy": ["accuracy", "val_a_accuracy", "val_b_accuracy"],
        "f1": ["val_a_f1", "val_b_f1"],
        "out_loss": ["val_b_out_loss"],
    }
    single = {name: [1.0, 2.0] for name in ("loss", "val_loss", "val_f1", "out_loss", "val_out_loss")}
    drawn = {axes.get_ylabel(): list(lines(axes)) for axes in callbacks.plot_history(single)}
    assert drawn == {"loss": ["loss", "val_loss"], "f1": ["val_f1"], "out_loss": ["out_loss", "val_out_loss"]}
