"""What all tests share. Everything runs on the CPU, offline."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

from customfit.compat import keras, tf

# A second device, for the tests of replicas: devices are split once, before the first is used.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def _fresh_keras():
    yield
    keras.backend.clear_session()
    tf.config.run_functions_eagerly(False)
    # Keras collects garbage in there, for half a second a test, unless what is here to stay is left out of it:
    # TensorFlow's modules, and graphs that its runtime keeps.
    gc.freeze()
