"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

from benchmarks import (
    bounds,
    data_memory,
    evaluation,
    first_epoch,
    growth,
    memory,
    plot,
    prediction,
    remat,
    report,
    scaling,
    single_steps,
    speed,
)
from benchmarks.contenders import CONTENDERS, jax_can_run
from benchmarks.measure import Settings, progress
from benchmarks.workloads import DATA, WORKLOADS
from customfit.compat import tf

PARTS = {
    "speed": speed,
    "bounds": bounds,
    "single_steps": single_steps,
    "first_epoch": first_epoch,
    "memory": memory,
    "data_memory": data_memory,
    "remat": remat,
    "evaluation": evaluation,
    "prediction": prediction,
    "growth": growth,
    "scaling": scaling,
}
QUICK_WORKLOADS = ("mlp",)
QUICK_PARTS = ("speed", "bounds", "single_steps", "first_epoch", "evaluation", "prediction")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments of the command line, with what they leave open filled in."""

    def some_of(names):
        def listed(text):
            chosen = text.split(",")
            for name in chosen:
                if name not in names:
                    raise argparse.ArgumentTypeError(f"must be some of {','.join(names)}. Received: {name}")
            return chosen

        return listed

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures custom_fit beside fit and others; prints tables, saves them as JSON and a plot.",
    )
    for option, names in (
        ("--workloads", WORKLOADS),
        ("--data", DATA),
        ("--contenders", CONTENDERS),
        ("--parts", PARTS),
    ):
        parser.add_argument(option, type=some_of(list(names)), metavar="A,B", help=f"some of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="turns of each contender (5; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="one workload, few steps, the parts that measure speed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder to save into")
    parsed = parser.parse_args(arguments)
    if parsed.rounds is not None and parsed.rounds < 1:
        parser.error(f"--rounds must be a positive integer. Received: {parsed.rounds}")
    parsed.rounds = parsed.rounds or (2 if parsed.quick else 5)
    parsed.workloads = parsed.workloads or list(QUICK_WORKLOADS if parsed.quick else WORKLOADS)
    parsed.parts = parsed.parts or list(QUICK_PARTS if parsed.quick else PARTS)
    parsed.contenders = parsed.contenders or list(CONTENDERS)
    if not jax_can_run():
        left_out = [name for name in parsed.contenders if CONTENDERS[name].on_jax]
        parsed.contenders = [name for name in parsed.contenders if name not in left_out]
        if left_out:
            progress(f"{', '.join(left_out)} left out: jax or Keras 3 is not installed")
    if not parsed.contenders:
        parser.error("--contenders must name one that can run here. Received: none")
    return parsed


def main() -> None:
    """Measures what was asked for, prints the tables, saves everything."""
    options = parse()
    plot.require()
    tf.get_logger().setLevel("ERROR")  # it warns of traces, which new models need
    begin = time.perf_counter()
    settings = Settings(options.workloads, options.data, options.contenders, options.rounds, options.quick)
    full_report = {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "versions": report.versions(),
        "machine": report.machine(with_jax=any(CONTENDERS[name].on_jax for name in settings.contenders)),
        "settings": dataclasses.asdict(settings),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    print(report.heading(full_report))
    for part in options.parts:
        full_report[part] = PARTS[part].run(settings)
        full_report["seconds"] = time.perf_counter() - begin
        (options.out / "results.json").write_text(json.dumps(full_report, indent=1) + "\n")
        print(f"\n{PARTS[part].tables(full_report[part])}", flush=True)
    if "speed" in options.parts:
        plot.save(full_report["speed"], options.out / "speed.png")
    progress(f"done; saved in {options.out}")


if __name__ == "__main__":
    main()
