"""The ends of connections: nothing that comes at or after one is taken for a request, or for all of one."""

from __future__ import annotations

import asyncio
import socket

from starlette.types import Receive, Scope, Send

from vllm_engine.gateway.http.client_connection import ClientConnection
from vllm_engine.gateway.http.client_stream import client_stream_of
from vllm_engine.gateway.http.http_server import running
from vllm_engine.gateway.http.incoming import ConnectionLimits

LENGTH = 32_000_000


async def test_a_body_that_is_cut_is_not_taken_for_whole() -> None:
    """The client reads nothing of its first answer while it sends the body of its second request."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            length = (b"content-length", str(LENGTH).encode())
            await send({"type": "http.response.start", "status": 200, "headers": [length]})
            await send({"type": "http.response.body", "body": b"x" * LENGTH})
            return
        task = asyncio.current_task()
        assert task is not None
        client_stream_of(scope).on_gone = task.cancel
        try:
            while (message := await receive()).get("more_body"):
                pass
            ended.set_result(message["type"])
        except asyncio.CancelledError:
            ended.set_result("cancelled")

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        limits = ConnectionLimits(header_timeout_seconds=30, send_timeout_seconds=0.2, max_connections=10)
        async with running(app, [listener], limits, keep_alive_seconds=30, lifespan="off"):
            await asyncio.to_thread(client.connect, listener.getsockname())
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\npart of it"
            )
            assert await asyncio.wait_for(ended, 30) == "cancelled"


async def test_what_comes_after_the_end_is_no_request() -> None:
    """Over TLS a client's bytes still come while the last answer is written."""
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        length = (b"content-length", str(LENGTH).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": b"x" * LENGTH})

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        limits = ConnectionLimits(header_timeout_seconds=30, send_timeout_seconds=30, max_connections=10)
        async with running(app, [listener], limits, keep_alive_seconds=30, lifespan="off") as server:
            await asyncio.to_thread(client.connect, listener.getsockname())
            server.announce_close()
            client.sendall(b"GET /first HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.to_thread(client.recv, 1)
            (connection,) = server.server_state.connections
            assert isinstance(connection, ClientConnection)
            assert connection.transport.is_closing()
            connection.data_received(b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0)
            client.close()
    assert asked == ["/first"]
