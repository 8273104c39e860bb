"""What all tests share. Everything runs on the CPU, offline."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

# A case of these costs seconds: models are traced and trained, twice at least.
COSTLY = (
    *("tests/parity/", "tests/resume/", "tests/distributed/", "tests/test_gradients.py", "tests/test_prediction.py"),
    *("tests/test_eject.py", "tests/test_layer_rates.py", "tests/test_one_cycle.py", "tests/test_remat.py"),
)
ALWAYS = ("tests/parity/test_data_orders.py", "tests/parity/test_data_conversion.py")  # no case stands for another


def pytest_addoption(parser):
    parser.addoption(
        "--cases",
        type=int,
        default=0,
        help="of each parametrized test that trains, run so many cases at most: the first, the last, and others evenly "
        "between them (default: all; 1 if pytest is given nothing to run)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Given nothing, runs what takes minutes, in several processes if pytest-xdist is there.

    That is each test but the slow and long ones, in one case of those that train. tox runs the slow ones, too.
    """
    if hasattr(config, "workerinput"):
        return  # this is one of them
    given = vars(config.option)
    is_default = given.get("numprocesses", 1) is None and given["dist"] == "no" and not given["usepdb"]
    if is_default and not given["file_or_dir"] and not given["collectonly"]:
        config.option.numprocesses = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        config.option.dist = "worksteal"
        if not (given["keyword"] or given["markexpr"] or given["cases"]):
            config.option.markexpr, config.option.cases = "not slow and not long", 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tells one of the processes what to run."""
    node.workerinput.update(cases=node.config.option.cases, markexpr=node.config.option.markexpr)


def pytest_configure(config):
    told = getattr(config, "workerinput", {})
    config.option.cases = told.get("cases", config.option.cases)
    config.option.markexpr = told.get("markexpr", config.option.markexpr)


def pytest_report_header(config):
    if config.option.cases:
        return f"of each test that trains: {config.option.cases} case(s) at most; all: python -m pytest -n 2 tests"
    return None


def pytest_collection_modifyitems(config, items):
    most = config.option.cases
    if not most:
        return
    tests = {}
    for item in items:
        is_costly = item.nodeid.startswith(COSTLY) and not item.nodeid.startswith(ALWAYS)
        test = item.nodeid.partition("[")[0] if is_costly else item.nodeid
        tests.setdefault(test, []).append(item)
    kept = set()
    for cases in tests.values():
        last = len(cases) - 1
        kept.update(cases[round(last * i / max(1, most - 1))].nodeid for i in range(most))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]


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
