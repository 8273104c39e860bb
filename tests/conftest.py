"""What all tests share. Everything runs on the CPU, offline."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Runs all tests in several processes, if pytest-xdist is there and nothing else is asked for."""
    if hasattr(config, "workerinput"):
        return  # this is one of them
    given = vars(config.option)
    is_default = given.get("numprocesses", 1) is None and given["dist"] == "no" and not given["usepdb"]
    if is_default and not given["file_or_dir"] and not given["collectonly"]:
        config.option.numprocesses = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        config.option.dist = "worksteal"


def pytest_collection(session):
    """Makes a second device, for the tests of replicas: devices are split once, before the first is used."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return  # the process that only hands out tests, and need not import TensorFlow
    from customfit.compat import tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.fixture(autouse=True)
def _fresh_keras():
    from customfit.compat import keras, tf

    yield
    keras.backend.clear_session()
    tf.config.run_functions_eagerly(False)
    # Keras collects garbage in there, for half a second a test, unless what is here to stay is left out of it:
    # TensorFlow's modules, and graphs that its runtime keeps.
    gc.freeze()
