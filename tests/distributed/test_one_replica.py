"""A strategy with one replica, as on a machine with one GPU, trains to the bits of no strategy."""

import numpy as np
import pytest

from customfit import CustomTrainModel
from customfit.compat import keras, tf
from tests.parity import models
from tests.parity.compare import SEED

X, Y = models.rows(70)
STRATEGIES = {
    "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
}
OPTIONS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "nonfinite": {"nonfinite": "skip"},
    "all": {"gradient_accumulation_steps": 3, "nonfinite": "raise", "global_clipnorm": 0.5},
    "XLA": {"jit_compile": True, "clipvalue": 0.1},
}


def trained(strategy, build, how, options):
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    x = X.copy()
    if options.get("nonfinite") == "skip":
        x[20] = np.nan
    with strategy.scope():
        model = build(CustomTrainModel)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    history = getattr(model, how)(x, Y, batch_size=16, epochs=2, validation_data=(X, Y), verbose=0).history
    return model, history, model.custom_evaluate(X, Y, verbose=0), model.custom_predict(X, verbose=0)


@pytest.mark.parametrize("how", ["fit", "custom_fit"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", STRATEGIES)
def test_one_replica_trains_to_the_bits_of_no_strategy(kind, options, how):
    build = models.embedding if "gradient_accumulation_steps" in options and how == "fit" else models.batch_norm
    alone = trained(tf.distribute.get_strategy(), build, how, options)
    model, *found = trained(STRATEGIES[kind](), build, how, options)
    for ours, theirs in zip((model.get_weights(), *found), (alone[0].get_weights(), *alone[1:])):
        np.testing.assert_equal(ours, theirs)
