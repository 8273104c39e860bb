"""How much memory this process takes, now and at its peak, in MB."""

from __future__ import annotations

import resource
import sys


def peak_mb() -> float:
    """The most that this process has taken so far.

    Linux has two numbers for it. `ru_maxrss` begins with that of the process that started this one, so the other one.
    """
    try:
        return _from_status("VmHWM")
    except OSError:  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def resident_mb() -> float:
    """What this process takes now; where the system is no Linux, the most so far."""
    try:
        return _from_status("VmRSS")
    except OSError:
        return peak_mb()


def _from_status(field: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field + ":"))
