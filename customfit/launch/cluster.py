"""`Cluster`: where the workers of a job are, and the `TF_CONFIG` that tells each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Sequence

LOOPBACK = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of a job.

    Args:
        addresses: Of each worker, "host:port". The first one is the chief.
        local: The indices of those that run on this machine.
    """

    addresses: tuple[str, ...]
    local: range

    @classmethod
    def on_loopback(cls, workers: int) -> Cluster:
        """Returns a cluster of workers that reach each other on this machine only, on ports that are free now.

        Args:
            workers: How many.
        """
        return cls(tuple(f"{LOOPBACK}:{port}" for port in free_ports(workers)), range(workers))

    @classmethod
    def on_hosts(cls, hosts: Sequence[str], workers: int, node_rank: int, port: int) -> Cluster:
        """Returns a cluster on several machines.

        Args:
            hosts: The names or addresses of the machines, the same list in the same order on each.
            workers: How many run on each machine.
            node_rank: Which of `hosts` this machine is, counted from 0.
            port: That of the first worker of each machine. The others have those that follow.
        """
        addresses = tuple(f"{host}:{port + worker}" for host in hosts for worker in range(workers))
        return cls(addresses, range(node_rank * workers, (node_rank + 1) * workers))

    def is_listening(self, index: int) -> bool:
        """Whether a worker has opened its port, which it does when it creates its strategy.

        Args:
            index: Which one.
        """
        host, _, port = self.addresses[index].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except OSError:
            return False
        return True

    def tf_config(self, index: int) -> str:
        """Returns the `TF_CONFIG` of a worker.

        Args:
            index: Which one.
        """
        cluster = {"worker": list(self.addresses)}
        return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def free_ports(count: int) -> list[int]:
    """Returns ports on which nothing listens on this machine.

    Args:
        count: How many.
    """
    with contextlib.ExitStack() as open_sockets:  # all at once, so that they differ
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
