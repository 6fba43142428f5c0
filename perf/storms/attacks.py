"""Attacks that no tool of Debian's makes, each a process of its own.

python -m perf.storms.attacks NAME PORT CONNECTIONS SECONDS
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from tests.support.raw_http import chunk, post_json, request

ENDLESS = post_json(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 900_000, "stream": True},
)
PIPELINED_BYTES = 10_500_000
TRAILER_BYTES = 120_000_000
BLACKHOLED = "127.7.7.7"
"""The address that the blackholed clients have; no packet from there or to there passes any more."""

Attack = Callable[[int, float], Awaitable[None]]


async def slow_readers(port: int, end: float) -> None:
    """Ask for an endless stream, and read 64 bytes of it a second."""
    loop = asyncio.get_running_loop()
    with await _connect(port, receive_buffer=4096) as client:
        await loop.sock_sendall(client, ENDLESS)
        while True:
            if not await loop.sock_recv(client, 64):
                return
            await asyncio.sleep(1)


async def pipelining(port: int, end: float) -> None:
    """Ask for an endless stream, and behind it for the models, again and again, reading nothing."""
    loop = asyncio.get_running_loop()
    ask = request("GET", "/v1/models") * 200
    with await _connect(port, receive_buffer=4096) as client:
        await loop.sock_sendall(client, ENDLESS)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(loop.time() + end - time.monotonic()):
                for _ in range(PIPELINED_BYTES // len(ask)):
                    await loop.sock_sendall(client, ask)
                await asyncio.sleep(end - time.monotonic())


async def trailers(port: int, end: float) -> None:
    """Send a body that is refused, and behind it trailers without end, or one that has none."""
    loop = asyncio.get_running_loop()
    head = request("POST", "/v1/chat/completions", None, "Transfer-Encoding: chunked")
    lines = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 200) for number in range(300))
    with await _connect(port) as client:
        if client.getsockname()[1] % 2:
            lines = b"y" * len(lines)
        await loop.sock_sendall(client, head + chunk(b"{}") + b"0\r\nx: ")
        for _ in range(TRAILER_BYTES // len(lines)):
            if time.monotonic() > end:
                return
            await loop.sock_sendall(client, lines)


async def unfinished(port: int, end: float) -> None:
    """Send the head of a large body that is refused, a byte of it a second, and read nothing."""
    loop = asyncio.get_running_loop()
    with await _connect(port) as client:
        await loop.sock_sendall(client, request("POST", "/v1/nothing", None, "Content-Length: 1000000"))
        while time.monotonic() < end:
            await loop.sock_sendall(client, b"x")
            await asyncio.sleep(1)


async def idle(port: int, end: float) -> None:
    """Connect and say nothing."""
    with await _connect(port) as client:
        await asyncio.get_running_loop().sock_recv(client, 1)


async def blackholed(port: int, end: float) -> None:
    """Ask for an endless stream from an address that no packet comes from or gets to any more, soon after."""
    loop = asyncio.get_running_loop()
    with await _connect(port, source=BLACKHOLED) as client:
        await loop.sock_sendall(client, ENDLESS)
        await loop.sock_recv(client, 64)
        await asyncio.sleep(max(0.0, end - time.monotonic()))


async def _connect(port: int, *, receive_buffer: int = 0, source: str = "") -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source:
        client.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


async def _again_and_again(attack: Attack, port: int, end: float) -> None:
    while time.monotonic() < end:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                await attack(port, end)
        await asyncio.sleep(0.5)


@contextmanager
def blackhole(seconds: float) -> Iterator[None]:
    """Drop the packets of the blackholed clients, from so many seconds after the beginning on."""
    rules = [["INPUT", side, BLACKHOLED, "-j", "DROP"] for side in ("-s", "-d")]

    def drop() -> None:
        for rule in rules:
            subprocess.run(["iptables", "-I", *rule], check=True)

    timer = threading.Timer(seconds, drop)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=False, capture_output=True)


async def main(name: str, port: int, connections: int, seconds: float) -> None:
    """Attack from so many connections at once for so long; who is sent away comes again."""
    end = time.monotonic() + seconds
    attack: Attack = globals()[name]
    with blackhole(2.0) if attack is blackholed else nullcontext():
        await asyncio.gather(*(_again_and_again(attack, port, end) for _ in range(connections)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
