"""Strategies that `custom_fit` refuses, before a step is lost."""

import pytest

from customfit import CustomTrainModel, compat
from tests.parity import models
from tests.parity.compare import compiled

X, Y = models.rows(16)


def under(strategy, **options):
    with strategy.scope():
        return compiled(models.dense, CustomTrainModel, **options)


@pytest.mark.skipif(compat.divides_loss_by_replicas(), reason="this Keras divides the loss of a replica")
def test_older_keras_3_is_refused(strategy):
    with pytest.raises(NotImplementedError, match=r"needs Keras 3.8 or newer.* with 2 replicas"):
        under(strategy).custom_fit(X, Y, verbose=0)
    with pytest.raises(NotImplementedError, match="need Keras 3.8 or newer"):
        under(strategy, global_clipnorm=1.0).fit(X, Y, verbose=0)


@pytest.mark.skipif(not compat.divides_loss_by_replicas(), reason="refused as a whole")
def test_xla_is_refused(strategy):
    with pytest.raises(NotImplementedError, match="`jit_compile` must be False on several replicas"):
        under(strategy, jit_compile=True).custom_fit(X, Y, verbose=0)
