"""The logs of a step of one's own: their names in the order of `fit`, logs that are `None`, dicts in dicts."""

import contextlib
import io
import re

import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows()
supports = pytest.mark.supports


def by_metric(model, logs):
    return {metric.name: metric.result() for metric in model.metrics}


def nested(model, logs):
    return {"z": tf.constant(1.0), "inner": {"q": tf.constant(2.0), "b": tf.constant(3.0)}, "a": tf.constant(4.0)}


def nothing(model, logs):
    return {"none": None, **logs, "also": None}


def more(model, logs):
    return {"zeros": tf.zeros([2]), **logs, "area": 4.0}


def build(own_logs):
    def build(base):
        class OwnLogs(base):
            def train_step(self, data):
                return own_logs(self, super().train_step(data))

            def test_step(self, data):
                return own_logs(self, super().test_step(data))

        return models.dense(OwnLogs)

    return build


def seen_under(call, make, verbose, **options):
    """History, the names in the logs of hooks, and what is printed."""
    keras.utils.set_random_seed(0)
    model = compiled(make, CustomTrainModel if call == "custom_fit" else keras.Model, **options)
    hooks = []
    see = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: hooks.append(list(logs)),
        on_test_batch_end=lambda batch, logs: hooks.append(list(logs)),
        on_epoch_end=lambda epoch, logs: hooks.append(list(logs)),
    )
    data = {"validation_data": (X, Y), "batch_size": 35, "epochs": 2, "shuffle": False}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        history = getattr(model, call)(X, Y, verbose=verbose, callbacks=[see], **data)
    last_line = printed.getvalue().replace("\b", "").replace("\r", "\n").strip().split("\n")[-1]
    return str(list(history.history.items())), hooks, re.findall(r"- ([a-z_]+):", last_line)


@supports("Callbacks", "logs in History, hooks and progress bars: names in the order of `fit`")
@pytest.mark.parametrize("verbose", [1, 2])
@pytest.mark.parametrize("own_logs", [None, by_metric, nested])
def test_names_are_in_the_order_of_fit(own_logs, verbose):
    if own_logs is nested and not compat.IS_KERAS_3:
        pytest.skip("no bar of Keras 2 shows a dict")
    make = models.dense if own_logs is None else build(own_logs)
    assert seen_under("custom_fit", make, verbose) == seen_under("fit", make, verbose)


@supports("Callbacks", "logs of a `train_step` of yours: dicts in dicts, tensors of any shape, `None`", fit="Keras 3")
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}, {"jit_compile": True}])
@pytest.mark.parametrize("own_logs", [nested, more, nothing])
def test_logs_of_any_kind(own_logs, options):
    ours = seen_under("custom_fit", build(own_logs), verbose=0, **options)
    if own_logs is nothing and not compat.IS_KERAS_3:  # an error under `fit`
        assert ours[0].count("none', [None, None]") == 2
    else:
        assert ours == seen_under("fit", build(own_logs), verbose=0, **options)
