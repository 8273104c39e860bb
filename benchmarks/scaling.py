"""Scaling: replicas and workers on this machine, beside a hand-written loop; and a simulation of more.

A step of N workers takes as long as the slowest of them computes, and as a ring needs to sum the gradients: each worker
sends and receives 2 (N - 1) / N times their bytes in 2 (N - 1) messages. `customfit/launch/SCALING.md` does the sums.
"""

from __future__ import annotations

import random
import statistics

from benchmarks import job
from benchmarks.measure import Settings, progress
from benchmarks.report import markdown

JOBS = [(1, 1), (1, 2), (2, 1), (3, 1)]  # workers, and replicas of each
LABELS = {"by_hand": "hand-written", "arrays": "arrays", "tfdata": "`tf.data`", "share": "a share of each worker's"}
SIMULATED = (8, 64, 512)
DRAWS = 2_000  # steps of each simulated job

# What a network of machines has: seconds for a message, and bytes a second.
NETWORKS = {"10 Gbit/s": (50e-6, 1.25e9), "100 Gbit/s": (20e-6, 12.5e9)}
# Models that people train: bytes of gradients, and seconds that a worker computes in a step.
MODELS = {"100 MB, 0.2 s": (100e6, 0.2), "1 GB, 0.5 s": (1e9, 0.5)}


def run(settings: Settings) -> dict:
    """Measures jobs here, and simulates larger ones."""
    steps, measured = (200 if settings.quick else 1000), []
    for workers, replicas in JOBS:
        progress(f"scaling: {workers} workers of {replicas} replicas")
        measured.append(job.run(workers, replicas, steps, settings.rounds))
    return {
        "measured": measured,
        "simulated": [
            {
                "model": model,
                "network": network,
                "workers": workers,
                **simulate(workers, *MODELS[model], *NETWORKS[network]),
            }
            for model in MODELS
            for network in NETWORKS
            for workers in SIMULATED
        ],
    }


def ring_seconds(workers: int, gradient_bytes: float, latency: float, bandwidth: float) -> float:
    """How long a ring takes to sum gradients.

    Args:
        workers: How many.
        gradient_bytes: Bytes of all gradients.
        latency: Seconds for a message.
        bandwidth: Bytes a second that a worker can send while it receives as many.
    """
    return 2 * (workers - 1) * (latency + gradient_bytes / workers / bandwidth)


def ring_of_two(measured: dict) -> tuple[float, float]:
    """The latency and bandwidth with which `ring_seconds` gives what two workers took for small and large gradients."""
    (small, small_s), (large, large_s) = (
        (measured["gradient_bytes"][name], measured["us_per_step"][name] / 1e6)
        for name in ("exchange", "exchange_large")
    )
    bandwidth = (large - small) / (large_s - small_s)
    return (small_s - small / bandwidth) / 2, bandwidth


def simulate(
    workers: int, gradient_bytes: float, compute: float, latency: float, bandwidth: float, spread: float = 0.05
) -> dict[str, float]:
    """Draws steps of a job in which no worker begins a step before all have ended the last one.

    Args:
        workers: How many.
        gradient_bytes: Bytes of all gradients.
        compute: Mean seconds that a worker computes in a step.
        latency: Seconds for a message.
        bandwidth: Bytes a second.
        spread: The standard deviation of a worker's seconds, as a part of their mean.

    Returns:
        `step_s`, its parts `wait_s` for the slowest and `exchange_s`, and `efficiency`: the part that one worker alone
        would take.
    """
    draw = random.Random(workers)
    slowest = statistics.fmean(
        max(draw.gauss(compute, spread * compute) for _ in range(workers)) for _ in range(max(20, DRAWS // workers))
    )
    exchange = ring_seconds(workers, gradient_bytes, latency, bandwidth)
    step = slowest + exchange
    return {"step_s": step, "wait_s": slowest - compute, "exchange_s": exchange, "efficiency": compute / step}


def tables(results: dict) -> str:
    """What was measured, and what larger jobs would do."""
    rows = []
    for each in results["measured"]:
        times, alone = each["us_per_step"], each["us_per_step"].get("exchange")
        share = "-" if alone is None else f"{alone:,.0f} ({alone / times['arrays']:.0%})"
        against = statistics.median(
            hand / ours for hand, ours in zip(each["us_per_round"]["by_hand"], each["us_per_round"]["share"])
        )
        read = " / ".join(f"{each['bytes_read'][data]:,.0f}" for data in ("tfdata", "share"))
        job_of = f"{each['workers']} x {each['replicas']}"
        rows.append([job_of, *(f"{times[name]:,.0f}" for name in LABELS), f"{against:.2f}x", share, read])
    headers = ["workers x replicas", *LABELS.values(), "share against hand-written", "all-reduce alone (of arrays)"]
    headers.append("bytes read: `tf.data` / share")
    pair, three = (next(each for each in results["measured"] if each["workers"] == workers) for workers in (2, 3))
    latency, bandwidth = ring_of_two(pair)
    checked = [
        [
            f"{size:,.0f}",
            f"{pair['us_per_step'][name]:,.0f}",
            f"{1e6 * ring_seconds(3, size, latency, bandwidth):,.0f}",
            f"{three['us_per_step'][name]:,.0f}",
        ]
        for name, size in three["gradient_bytes"].items()
    ]
    of_simulated = ["gradients, compute", "network", "workers", "wait", "all-reduce", "step", "efficiency"]
    simulated = [
        [
            row["model"],
            row["network"],
            str(row["workers"]),
            *(f"{1e3 * row[name]:,.0f}" for name in ("wait_s", "exchange_s", "step_s")),
            f"{row['efficiency']:.0%}",
        ]
        for row in results["simulated"]
    ]
    return "\n\n".join(
        [
            f"MLP, batches of {job.BATCH_SIZE} rows, microseconds a step; bytes that a worker reads in a step:",
            markdown(headers, rows),
            f"Microseconds to sum gradients; two workers took {1e6 * latency:,.0f} us a message and "
            f"{bandwidth / 1e6:,.0f} MB a second:",
            markdown(["bytes of gradients", "two workers", "three by the formula", "three measured"], checked),
            "Simulated, milliseconds a step; a worker's time varies by 5%:",
            markdown(of_simulated, simulated),
        ]
    )
