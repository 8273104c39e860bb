"""Data of other libraries trains to the weights of `fit`."""

import numpy as np
import pytest

from tests.parity import models
from tests.parity.compare import assert_equal, train

pytestmark = pytest.mark.tools
X, Y = models.rows(64)


def hugging_face(shuffled):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"x": X, "y": Y})
    return rows.to_tf_dataset(batch_size=16, columns="x", label_cols="y", shuffle=shuffled)


def grain(shuffled):
    grain = pytest.importorskip("grain")
    rows = grain.MapDataset.source(list(zip(X, Y)))
    return (rows.shuffle(seed=1) if shuffled else rows).batch(16)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("library", [hugging_face, grain], ids=lambda function: function.__name__)
def test_training_ends_with_the_bits_of_fit(library, shuffled):
    given = lambda: {"x": library(shuffled), "batch_size": None}
    ours, theirs = train(models.dense, "custom_fit", given), train(models.dense, "fit", given)
    assert np.isfinite(ours[1].history["loss"]).all()
    assert_equal(ours, theirs)
