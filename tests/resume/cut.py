"""A training cut off at chosen steps and taken up again by the same call, beside one that was left alone."""

import os
import warnings

import numpy as np

from customfit import CustomTrainModel
from customfit.checkpoint import variables_of
from customfit.compat import keras
from tests.parity.compare import compiled

SEED = 7


def train(build, arguments, checkpoint_dir=None, seed=SEED, **compile_options):
    """As a new process would: names and seeds begin anew. `arguments` may be a function, for data made anew."""
    keras.backend.clear_session()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    model = compiled(build, CustomTrainModel, **compile_options)
    given = arguments() if callable(arguments) else arguments
    defaults = {"epochs": 3, "batch_size": 16, "verbose": 0}
    history = model.custom_fit(**{**defaults, **given, "checkpoint_dir": checkpoint_dir})
    return model, history


def assert_same(ours, theirs):
    """Every variable there is and the History are equal to the bit."""
    mine, other = variables_of(ours[0]), variables_of(theirs[0])
    assert list(mine) == list(other)
    for name in mine:
        # but metrics: without epochs left to train, nothing is validated again
        if not name.startswith("metric/"):
            np.testing.assert_array_equal(mine[name].numpy(), other[name].numpy(), name)
    assert ours[1].history == theirs[1].history
    assert ours[1].epoch == theirs[1].epoch
    assert ours[1].validation == theirs[1].validation


def assert_resumes(build, arguments, tmp_path, cuts=(2, 7), interval="epoch", **compile_options):
    """Cut off after each of `cuts` steps, it ends as if left alone."""
    given = arguments if callable(arguments) else lambda: arguments
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The data cannot be taken up")
        whole = train(build, given, **compile_options)
        for step in cuts:
            cut = lambda: {**given(), "max_steps": step, "checkpoint_interval": interval}  # noqa: B023
            _, history = train(build, cut, tmp_path, **compile_options)
            assert history.stop_reason == f"max_steps={step} is reached"
        taken_up = train(
            build, lambda: {**given(), "checkpoint_interval": interval, "resume": True}, tmp_path, **compile_options
        )
    assert_same(taken_up, whole)
    return taken_up


class Interrupts(keras.callbacks.Callback):
    """Sends a signal in a hook, the n-th time that it is called."""

    def __init__(self, hook, times, number):
        super().__init__()
        self.left = times

        def send(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)

        setattr(self, hook, send)
