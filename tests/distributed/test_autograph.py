"""On two replicas, AutoGraph converts in `custom_fit` what it converts under `fit` of Keras 2."""

import pytest

from customfit import CustomTrainModel, compat
from customfit.compat import keras
from tests.parity.test_autograph import in_a_layer, in_a_loss, in_a_metric, outcome, with_if


@pytest.mark.skipif(compat.IS_KERAS_3, reason="Keras 3 converts nothing")
@pytest.mark.parametrize("place", [in_a_layer, in_a_loss, in_a_metric])
def test_it_converts_what_fit_converts(strategy, place):
    with strategy.scope():
        ours = outcome(place, with_if, CustomTrainModel, "custom_fit")
        theirs = outcome(place, with_if, keras.Model, "fit")
    assert ours[0] == theirs[0] == "trained"
    assert ours == theirs
