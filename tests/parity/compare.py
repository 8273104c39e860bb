"""Training twice, with plain Keras under `fit` and with ours, and comparing to the bit."""

import functools

import numpy as np

from customfit import CustomTrainModel
from customfit.compat import keras
from customfit.testing import check_parity

SEED = 7


def compiled(build, base=CustomTrainModel, **compile_options):
    """`build(base)`, compiled as most tests compile unless told otherwise: with plain SGD, which is traced fastest."""
    model = build(base)
    options = {
        "optimizer": "sgd",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        **compile_options,
    }
    # what holds state is given as a function, so that each model has its own
    model.compile(
        **{
            name: made() if name in ("optimizer", "metrics") and callable(made) else made
            for name, made in options.items()
        }
    )
    return model


def train(build, how, fit_arguments, base=CustomTrainModel, **compile_options):
    """Trains `build(base)`; `how` is "fit" or "custom_fit". Returns the model and its History."""
    keras.utils.set_random_seed(SEED)
    model = compiled(build, base, **compile_options)
    arguments = fit_arguments() if callable(fit_arguments) else dict(fit_arguments)
    history = getattr(model, how)(**{"verbose": 0, "epochs": 3, "batch_size": 16, "shuffle": False, **arguments})
    return model, history


def assert_equal(ours, theirs):
    """Weights and History are equal to the bit. Each argument is what `train` returns."""
    (our_model, our_history), (their_model, their_history) = ours, theirs
    assert len(our_model.get_weights()) == len(their_model.get_weights()) > 0
    for mine, other in zip(our_model.get_weights(), their_model.get_weights()):
        np.testing.assert_array_equal(mine, other)
    assert our_history.history == their_history.history
    assert our_history.epoch == their_history.epoch


def assert_parity(build, fit_arguments, rtol=0.0, fit_of_ours=True, **compile_options):
    """Ours under `custom_fit` and under `fit` both equal plain `keras.Model.fit`.

    Args:
        build: Gives the model, of the base class that it is called with.
        fit_arguments: A dict, or a function that gives one.
        rtol: 0 unless the test says why not.
        fit_of_ours: Whether ours trains under `fit` too. Where only the loop or the data could differ, our steps see
            nothing under `fit` that they do not see in other tests.
        **compile_options: For both.
    """
    defaults = {"epochs": 3, "batch_size": 16}
    arguments = lambda: {**defaults, **(fit_arguments() if callable(fit_arguments) else fit_arguments)}
    compile_options = {"optimizer": "adam", **compile_options}
    ours = functools.partial(compiled, build, **compile_options)
    theirs = functools.partial(compiled, build, keras.Model, **compile_options)
    if fit_of_ours:
        report = check_parity(ours, arguments, reference_fn=theirs, seed=SEED, rtol=rtol)
    else:
        report = check_parity(lambda: OneForEachLoop(ours, theirs), arguments, seed=SEED, rtol=rtol)
    assert report, report.message


class OneForEachLoop:
    """A model that is ours under `custom_fit` and another one under `fit`."""

    def __init__(self, ours, theirs):
        self._makers = {"custom_fit": ours, "fit": theirs}

    def custom_fit(self, **arguments):
        return self._train("custom_fit", arguments)

    def fit(self, **arguments):
        return self._train("fit", arguments)

    def _train(self, how, arguments):
        self._model = self._makers[how]()
        return getattr(self._model, how)(**arguments)

    def __getattr__(self, name):
        return getattr(self._model, name)
