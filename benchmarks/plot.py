"""The plot: for each workload and form of data, how many times as fast as `fit` each contender is."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders import LABELS

INSTALL = "The plot needs matplotlib: pip install matplotlib"


def require() -> None:
    """Fails, before anything is measured, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise SystemExit(INSTALL) from None


def save(results: list[dict], path: Path) -> None:
    """Draws the results of `speed.run` into a file.

    Args:
        results: One dict for each workload and form of data.
        path: The file.
    """
    import matplotlib

    matplotlib.use("Agg")  # draws into files, so it needs no screen
    import matplotlib.pyplot as plt

    workloads = list(dict.fromkeys(row["workload"] for row in results))
    data = list(dict.fromkeys(row["data"] for row in results))
    size = (1 + 4 * len(data), 0.5 + 2.2 * len(workloads))
    figure, panels = plt.subplots(len(workloads), len(data), figsize=size, squeeze=False, constrained_layout=True)
    for panel in panels.flat:
        panel.set_axis_off()  # until there is something in it
    for row in results:
        panel = panels[workloads.index(row["workload"])][data.index(row["data"])]
        timings = {name: timing for name, timing in row["contenders"].items() if "error" not in timing}
        if not timings:
            continue
        reference = timings.get("fit") or max(timings.values(), key=lambda timing: timing["us_per_step"])
        speeds = [reference["us_per_step"] / timing["us_per_step"] for timing in timings.values()]
        labels = [LABELS[name].replace("`", "") for name in timings]
        colors = ["tab:orange" if name.startswith("custom_fit") else "tab:gray" for name in timings]
        panel.bar_label(panel.barh(labels, speeds, color=colors), fmt="%.1f", padding=2)
        panel.set_axis_on()
        panel.invert_yaxis()
        panel.margins(x=0.15)
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(f"{row['workload']}, {row['data']}", fontsize="medium")
    figure.supxlabel("times as fast as fit()" if "fit" in results[0]["contenders"] else "times as fast as the slowest")
    figure.savefig(path, dpi=120)
    plt.close(figure)
