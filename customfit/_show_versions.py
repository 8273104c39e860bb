"""`show_versions()`: what a bug report has to say about the machine and its packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from customfit._version import __version__
from customfit.compat import keras, tf

PACKAGES = (
    "numpy",
    "tensorflow",
    "tensorflow-cpu",
    "keras",
    "tf-keras",
    "keras-hub",
    "h5py",
    "ml-dtypes",
    "tensorboard",
    "pandas",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "torch",
    "jax",
)
PREFIXES = ("CUDA_", "CUSTOMFIT_", "KERAS_", "OMP_", "TF_", "XLA_")


def show_versions() -> None:
    """Prints what matters in a bug report: versions, devices and environment variables.

    Environment variables are those of TensorFlow, Keras, CUDA, XLA and OpenMP. Read them before you publish them:
    `TF_CONFIG`, for one, names the machines of a cluster.

    Example:

    >>> customfit.show_versions()
    """
    sections = {
        "System": _system(),
        "Versions": {"customfit": __version__, **_in_use(), **_installed(PACKAGES)},
        "Devices": _devices(),
        "Environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)},
    }
    for title, lines in sections.items():
        print(f"{title}\n{'-' * len(title)}")
        width = max(map(len, lines), default=0)
        for name, value in lines.items() or {"(none)": ""}.items():
            print(f"{name:<{width}} : {value}" if value else name)
        print()


def _system() -> dict[str, str]:
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux only
        usable = os.cpu_count() or 0
    return {
        "Python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "CPUs": f"{usable} usable of {os.cpu_count()}",
    }


def _in_use() -> dict[str, str]:
    """Which TensorFlow and which Keras were imported: the installed packages alone do not tell."""
    cuda = tf.sysconfig.get_build_info().get("cuda_version")
    package = keras.Model.__module__.partition(".")[0]
    version = _installed([package]).get(package, "of unknown version")
    return {
        "TensorFlow in use": f"{tf.__version__} ({f'CUDA {cuda}' if cuda else 'without CUDA'})",
        "Keras in use": f"{package} {version} ({keras.backend.backend()}, {keras.backend.floatx()})",
    }


def _installed(packages: tuple[str, ...] | list[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _devices() -> dict[str, str]:
    devices = {}
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        devices[device.name.rpartition("physical_device:")[2]] = details.get("device_name", device.device_type)
    return devices
