"""`python -m customfit.launch --workers 2 train.py --epochs 10`."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from customfit.launch.cluster import Cluster
from customfit.launch.job import Job


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line. Names are torchrun's where it has the same thing."""
    parser = argparse.ArgumentParser(
        prog="python -m customfit.launch",
        description="Runs a script in several processes that train one model under MultiWorkerMirroredStrategy.",
        epilog="TensorFlow's cluster protocol has no authentication: run jobs in a private network only.",
    )
    parser.add_argument("--workers", type=_count(1), required=True, metavar="N", help="how many, on each host")
    parser.add_argument(
        "--restarts",
        type=_count(0),
        default=0,
        metavar="R",
        help="how often to start all workers again after one has failed (default: 0)",
    )
    parser.add_argument("-m", "--module", action="store_true", help="run a module, as `python -m` does")
    parser.add_argument(
        "--log-dir", type=Path, metavar="DIR", help="where to keep the workers' output (default: a temporary directory)"
    )
    parser.add_argument(
        "--grace-period",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long workers have to end after one has failed, or after Ctrl-C, before they are killed (default: 30)",
    )
    parser.add_argument(
        "--start-timeout",
        type=float,
        metavar="SECONDS",
        help="how long a worker may take until it creates its strategy, before it is killed (default: no limit)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the TF_CONFIG and the command of each worker")
    hosts = parser.add_argument_group("several machines", "run the same command on each, with its own --node-rank")
    hosts.add_argument("--hosts", type=_hosts, metavar="A,B", help="their names or addresses (default: loopback only)")
    hosts.add_argument("--node-rank", type=_count(0), metavar="I", help="which of the hosts this one is, from 0")
    hosts.add_argument("--port", type=_count(1), metavar="P", help="the port of the first worker of each host")
    parser.add_argument("script", help="the script, or with -m the module, that each worker runs")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a job.

    Args:
        arguments: Those of the command line. Defaults to this process's.

    Returns:
        The exit code: see `Job.run`.
    """
    parser = make_parser()
    given = parser.parse_args(arguments)
    make_cluster = _cluster_of(parser, given)
    command = [sys.executable, *(["-m"] if given.module else []), given.script, *given.args]
    if given.dry_run:
        cluster = make_cluster()
        for index in cluster.local:
            print(f"TF_CONFIG={shlex.quote(cluster.tf_config(index))} {shlex.join(command)}")
        return 0
    log_dir = given.log_dir or Path(tempfile.mkdtemp(prefix="customfit-launch-"))
    print(f"customfit.launch: The workers' output is kept in {log_dir}.", file=sys.stderr, flush=True)
    return Job(command, make_cluster, log_dir, given.restarts, given.grace_period, given.start_timeout).run()


def _cluster_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Callable[[], Cluster]:
    """Returns what makes the cluster of an attempt. Ends the process with a message where options do not fit."""
    of_hosts = {"--node-rank": given.node_rank, "--port": given.port}
    if given.hosts is None:
        for name, value in of_hosts.items():
            if value is not None:
                parser.error(f"{name} must be used with --hosts. Received: {name} {value}")
        return functools.partial(Cluster.on_loopback, given.workers)
    for name, value in of_hosts.items():
        if value is None:
            parser.error(f"--hosts must be used with {name}. Received: --hosts {','.join(given.hosts)}")
    if given.node_rank >= len(given.hosts):
        parser.error(f"--node-rank must be less than the number of hosts. Received: {given.node_rank}")
    if given.port + given.workers - 1 > 65535:
        parser.error(f"--port must leave a port below 65536 to each worker. Received: {given.port}")
    return functools.partial(Cluster.on_hosts, given.hosts, given.workers, given.node_rank, given.port)


def _count(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more. Received: {text}")
        return value

    return parse


def _hosts(text: str) -> list[str]:
    hosts = [host.strip() for host in text.split(",")]
    if not all(hosts) or any(":" in host for host in hosts) or len(set(hosts)) < len(hosts):
        raise argparse.ArgumentTypeError(f"must be different hosts without ports, as in a,b. Received: {text}")
    return hosts


def _drop_unread_output() -> None:
    """Drops what could not be written to a pipe that nobody reads: Python would end with 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    code = main()
    _drop_unread_output()
    sys.exit(code)
