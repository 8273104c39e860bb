"""`show_versions` says what a bug report must."""

import os
import platform

import numpy as np

from customfit import _show_versions, compat
from customfit._version import __version__
from customfit.compat import tf


def shown(capsys):
    """Lines of `name : value` as a dict."""
    assert _show_versions.show_versions() is None
    lines = (line.partition(" : ") for line in capsys.readouterr().out.splitlines())
    return {name.strip(): value for name, found, value in lines if found}


def test_it_says_which_python_packages_and_devices(capsys):
    lines = shown(capsys)
    assert platform.python_version() in lines["Python"]
    assert lines["CPUs"].endswith(f" usable of {os.cpu_count()}")
    assert lines["customfit"] == __version__
    assert lines["numpy"] == np.__version__
    assert lines["TensorFlow in use"].startswith(tf.__version__)
    assert lines["CPU:0"] == "CPU"


def test_it_says_which_of_the_installed_keras_is_used(capsys):
    package, version, backend = shown(capsys)["Keras in use"].split()[:3]
    assert package == compat.keras.Model.__module__.partition(".")[0]
    assert version.startswith("3." if compat.IS_KERAS_3 else "2.")
    assert backend == "(tensorflow,"


def test_it_shows_the_variables_that_change_training_and_no_other(capsys, monkeypatch):
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    lines = shown(capsys)
    assert (lines["TF_DETERMINISTIC_OPS"], lines["OMP_NUM_THREADS"]) == ("1", "2")
    assert "SECRET_TOKEN" not in lines


def test_it_leaves_out_what_is_not_installed(capsys, monkeypatch):
    monkeypatch.setattr(_show_versions, "PACKAGES", ("numpy", "no-such-package"))
    lines = shown(capsys)
    assert "numpy" in lines
    assert "no-such-package" not in lines
