"""Training twice, with plain Keras under `fit` and with ours, and comparing to the bit."""

import numpy as np

from customfit import CustomTrainModel
from customfit.compat import keras

SEED = 7


def train(build, how, fit_arguments, base=CustomTrainModel, **compile_options):
    """Trains `build(base)`; `how` is "fit" or "custom_fit". Returns the model and its History."""
    keras.utils.set_random_seed(SEED)
    model = build(base)
    options = {
        "optimizer": "adam",
        "loss": "sparse_categorical_crossentropy",
        "metrics": ["accuracy"],
        **compile_options,
    }
    if callable(options["optimizer"]):
        options["optimizer"] = options["optimizer"]()
    model.compile(**options)
    arguments = fit_arguments() if callable(fit_arguments) else dict(fit_arguments)
    history = getattr(model, how)(**{"verbose": 0, "epochs": 3, "batch_size": 16, "shuffle": False, **arguments})
    return model, history


def assert_equal(ours, theirs, history_rtol=0.0):
    """Weights and History are equal, to the bit unless the test says why not. Each argument is what `train` returns."""
    (our_model, our_history), (their_model, their_history) = ours, theirs
    assert len(our_model.get_weights()) == len(their_model.get_weights()) > 0
    for mine, other in zip(our_model.get_weights(), their_model.get_weights()):
        np.testing.assert_array_equal(mine, other)
    assert our_history.history.keys() == their_history.history.keys()
    for name, values in our_history.history.items():
        np.testing.assert_allclose(values, their_history.history[name], rtol=history_rtol, atol=0, err_msg=name)
    assert our_history.epoch == their_history.epoch


def assert_parity(build, fit_arguments, history_rtol=0.0, **compile_options):
    """Ours under `custom_fit` and under `fit` both equal plain `keras.Model.fit`."""
    theirs = train(build, "fit", fit_arguments, base=keras.Model, **compile_options)
    assert_equal(train(build, "custom_fit", fit_arguments, **compile_options), theirs, history_rtol)
    assert_equal(train(build, "fit", fit_arguments, **compile_options), theirs)
