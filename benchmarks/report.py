"""The report: Markdown cells and tables, and what was measured with what, on which machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

# Variables of the environment that decide how fast TensorFlow is on a CPU.
ENVIRONMENT = ("TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "XLA_FLAGS")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "tf-keras", "jax", "numpy")


def markdown(headers: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    ruler = ["---"] * len(headers)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [headers, ruler, *rows])


def per_step(timing: dict) -> str:
    """The cell of a contender's median."""
    return "-" if "error" in timing else f"{timing['us_per_step']:,.0f}"


def times_as_fast(ratio: dict | None) -> str:
    """The cell of a ratio: the median over the rounds, and that of the best rounds."""
    return "-" if ratio is None else f"{ratio['median']:.2f}x ({ratio['best']:.2f}x)"


def failures(results: list[dict], labels: dict[str, str]) -> list[str]:
    """A paragraph on those that could not run, the "-" of the tables; none where all ran."""
    lines = [
        f"- {labels[name]} could not run {row['workload']} ({row.get('data', 'arrays')}). {outcome['error']}"
        for row in results
        for name, outcome in row["contenders"].items()
        if "error" in outcome
    ]
    return ["\n".join(lines)] if lines else []


def versions() -> dict[str, str]:
    """What is installed of the packages that matter, and which Keras and which customfit were measured."""
    import customfit
    from customfit.compat import keras

    found = {"python": platform.python_version(), "customfit": customfit.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "Keras here": keras.__name__.partition(".")[0]}  # where there are two: `keras` or `tf_keras`


def machine(with_jax: bool) -> dict:
    """The processor, and the devices that TensorFlow and JAX see."""
    import tensorflow as tf

    devices = {"tensorflow": [device.name for device in tf.config.list_physical_devices()]}
    if with_jax:  # in a process of its own, because it would take memory of a GPU in this one
        command = [sys.executable, "-c", "import jax; print(*jax.devices(), sep='\\n')"]
        devices["jax"] = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.split("\n")[:-1]
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": devices,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def heading(report: dict) -> str:
    """The lines above the tables: the command, the versions, the machine."""
    machine = report["machine"]
    devices = "; ".join(f"{library} sees {', '.join(names)}" for library, names in machine["devices"].items())
    environment = "".join(f"{name}={value} " for name, value in machine["environment"].items())
    return (
        f"`{environment}{report['command']}`\n\n"
        f"{', '.join(f'{name} {version}' for name, version in report['versions'].items())}\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; {devices}"
    )
