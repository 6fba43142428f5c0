"""Several fake engines as one: they meet at `--master-addr`, and none goes on before all are there.

As with vLLM's `mp` executor on two nodes (0.32): the head goes on saying that it is healthy when a node is lost,
and ends with the next request; a worker that lost the head waits for it for ever.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tests.support.fake.fake_startup import log

_SLEEPER = "import signal; signal.pause()"


class Nodes:
    """The connections to the other nodes; none on a single machine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._links: list[socket.socket] = []
        self._lost = threading.Event()

    @property
    def is_one_lost(self) -> bool:
        """Whether one of the others has ended since they met."""
        return self._lost.is_set()

    def meet(self) -> None:
        """Wait until all are there."""
        address, others = (self._options.master_addr, self._options.master_port), self._options.nnodes - 1
        if not others:
            return
        if self._options.node_rank:
            self._links.append(_connected(address))
        else:
            with socket.create_server(address) as listener:
                self._links += [listener.accept()[0] for _ in range(others)]
        for link in self._links:
            threading.Thread(target=self._watch, args=(link,), daemon=True).start()

    def _watch(self, link: socket.socket) -> None:
        with suppress(OSError):
            link.recv(1)
        self._lost.set()


def _connected(address: tuple[str, int]) -> socket.socket:
    while True:
        try:
            return socket.create_connection(address)
        except OSError:
            time.sleep(0.05)


def work(options: argparse.Namespace, nodes: Nodes) -> None:
    """Be a node without an API (`--headless`), until SIGTERM or the end of its worker process."""
    signal.signal(signal.SIGTERM, _end)
    worker = subprocess.Popen(
        [Path(sys.prefix) / "bin" / "VLLM::Worker", "-S", "-E", "-c", _SLEEPER], stdin=subprocess.DEVNULL
    )
    nodes.meet()
    log("INFO", f"[multiproc_executor.py:1] node {options.node_rank} of {options.nnodes} has joined")
    worker.wait()
    log("ERROR", "[multiproc_executor.py:321] Worker proc VllmWorker-1 died unexpectedly (exit code: None)")


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)
