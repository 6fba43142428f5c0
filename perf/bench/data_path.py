"""Compares what a chunk costs on the way through two versions of the gateway's data path.

    python -m perf.bench.data_path before=../old/src after=src --seconds 60

Each version runs in a process of its own: 256 responses on real sockets, without the rest of the gateway. The
versions take turns of a few thousand chunks on one core, so that whatever else the machine does meanwhile
disturbs both: what counts is the ratio of each turn to the first version's turn beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop

from perf.bench.upstream import _STREAM_HEAD, Batch
from perf.bench.versions import version

_STREAMS = 256
_TICKS = 10
_WARM_UP = 3


class _Client(asyncio.Protocol):
    """A client's connection, as far as `ClientStream` asks it."""

    is_http_1_0 = False
    has_response_begun = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def hold_head(self, *, is_chunked: bool) -> None:
        pass

    def take_head(self) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n"


async def _open(loop: asyncio.AbstractEventLoop, listener: socket.socket, role: bytes) -> Any:
    """Begin a response; returns the engine's socket, the client's, and what must not be collected."""
    # Imported here: the parent has no version of the gateway.
    from vllm_engine.engine.activity import EngineActivity
    from vllm_engine.gateway.http.client_stream import ClientStream
    from vllm_engine.gateway.observe.request_record import RequestRecord
    from vllm_engine.gateway.proxy.response_stream import ResponseStream
    from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection

    async def send(_: Any) -> None:
        pass

    ours, engine = socket.socketpair(socket.AF_UNIX)
    ours.setblocking(False)
    _, upstream = await loop.create_unix_connection(
        lambda: UpstreamConnection(lambda _: None, lambda _: None), sock=ours
    )
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    accepted.setblocking(False)
    _, connection = await loop.connect_accepted_socket(_Client, accepted)
    stream = ResponseStream(
        ClientStream(cast(Any, connection), connection.transport),
        send,
        RequestRecord("id", "POST", "/v1/chat/completions", is_core_work=True),
        EngineActivity(),
    )
    stream.attach(upstream)
    upstream.start(b"POST / HTTP/1.1\r\n\r\n", b"", stream)
    engine.recv(65_536)
    engine.sendall(_STREAM_HEAD + role)
    await stream.until_begun()
    task = asyncio.create_task(stream.pass_on(stream.headers))
    await asyncio.sleep(0)
    return engine, client, (stream, task)


async def _serve() -> None:
    """Take a turn for each line on standard input, and print what it cost."""
    loop = asyncio.get_running_loop()
    batch = Batch(20.0, "bench")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        opened = [await _open(loop, listener, batch.role) for _ in range(_STREAMS)]
    await _settle()
    for _, client, _ in opened:
        client.recv(65_536)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    number = 0
    while sys.stdin.readline():
        cpu, events = 0.0, 0
        for _ in range(_TICKS):
            number += 1
            for index, (engine, _, _) in enumerate(opened):
                engine.send(batch.tokens[(index + number) % len(batch.tokens)])
            began = time.process_time()
            await _settle()
            cpu += time.process_time() - began
            events += sum(client.recv(65_536).count(b"\n\n") for _, client, _ in opened)
        assert events == _TICKS * _STREAMS, "not every event came through"
        print(cpu / events * 1e6, flush=True)
    os._exit(0)  # the responses have no end


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def _start(source: Path) -> Callable[[], float]:
    argv = [sys.executable, "-m", "perf.bench.data_path", "--turns"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=dict(os.environ) | {"PYTHONPATH": f"{source}:{root}"},
    )
    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin, process.stdout
    assert out.readline() == "ready\n", f"the data path of {source} cannot be run"

    def turn() -> float:
        into.write("\n")
        into.flush()
        return float(out.readline())

    return turn


def compare(sources: dict[str, Path], seconds: float) -> None:
    """Print a line for each version."""
    turns = [_start(source) for source in sources.values()]
    for _ in range(_WARM_UP):
        for turn in turns:
            turn()
    rounds: list[list[float]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # There and back, so that none is always behind the same one.
        there = [turn() for turn in turns]
        back = [turn() for turn in reversed(turns)]
        rounds += [there, back[::-1]]
    for index, name in enumerate(sources):
        ratios = [each[index] / each[0] for each in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{name:12} {min(each[index] for each in rounds):6.2f} us at least, "
            f"{statistics.median(each[index] for each in rounds):6.2f} median; "
            f"ratio {middle:.3f} (quartiles {low:.3f} {high:.3f}) of {len(rounds)} turns"
        )


def main() -> None:
    """Compare, or be one of what is compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="*", type=version, metavar="NAME=FOLDER", help="source folders")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--turns", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turns:
        uvloop.run(_serve())
    else:
        compare(dict(options.versions), options.seconds)


if __name__ == "__main__":
    main()
