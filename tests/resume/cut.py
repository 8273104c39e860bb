"""A training cut off at chosen steps and taken up again by the same call, beside one that was left alone."""

import os
import warnings

import numpy as np

from customfit import Checkpoints, CustomTrainModel, Every
from customfit.checkpoint import variables_of
from customfit.compat import keras
from tests.parity.compare import compiled

SEED = 7
EACH_EPOCH = Every(epochs=1)


def train(build, arguments, checkpoint_dir=None, seed=SEED, **compile_options):
    """As a new process would: names and seeds start again. `arguments` may be a function, for data made again.

    Of the arguments, `every`, `keep`, `resume` and `on_error` are those of `Checkpoints`.
    """
    keras.backend.clear_session()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    model = compiled(build, CustomTrainModel, **{"optimizer": "adam", **compile_options})
    given = arguments() if callable(arguments) else arguments
    defaults = {"epochs": 3, "batch_size": 16, "verbose": 0}
    options = {name: given[name] for name in ("every", "keep", "resume", "on_error") if name in given}
    checkpoint = None if checkpoint_dir is None else Checkpoints(checkpoint_dir, **options)
    rest = {name: value for name, value in given.items() if name not in options}
    history = model.custom_fit(**{**defaults, **rest, "checkpoint": checkpoint})
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


def assert_resumes(build, arguments, tmp_path, cuts=(7,), every=EACH_EPOCH, **compile_options):
    """Cut off after each of `cuts` steps, and resumed each time, it ends as if left alone.

    `every` says how often checkpoints are made: for all runs, or in a list for each of them.
    """
    given = arguments if callable(arguments) else lambda: arguments
    intervals = iter(every if isinstance(every, list) else [every] * (len(cuts) + 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The position of the data cannot be restored")
        whole = train(build, given, **compile_options)
        for step in cuts:
            cut = lambda: {**given(), "max_steps": step, "every": next(intervals)}  # noqa: B023
            _, history = train(build, cut, tmp_path, **compile_options)
            assert history.stop_reason == f"reached max_steps={step}"
        last = {"every": next(intervals), "resume": True}
        taken_up = train(build, lambda: {**given(), **last}, tmp_path, **compile_options)
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
