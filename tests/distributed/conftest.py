"""One strategy for all tests of a process: a second one on the same devices would share the keys of its sums."""

import pytest

from customfit.compat import tf
from tests.distributed.resuming import results


@pytest.fixture(scope="session")
def strategy():
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def one_device():
    return tf.distribute.get_strategy()


@pytest.fixture(scope="session")
def alone():
    """What a job has found that nothing has happened to, and that saves nothing."""
    return results("")
