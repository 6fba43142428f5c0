"""Plays one input of the client's side, and says what was wrong with how it was answered."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress

from perf.campaign.inputs import Ending, Input, Reading, others_tags
from perf.campaign.replies import NotHttpError, Replies
from tests.support.raw_http import Reply

HANG_SECONDS = 60.0
"""Longer than every time limit of the program put together: what is silent for so long has none."""
STALL_SECONDS = 4.0
"""How long a client reads nothing, where it does: longer than what may be unread that long."""
OUR_ERRORS = (501, 505)
"""Statuses from 500 on that a client can get for what it sent. 502, 503 and 504 would blame the engine."""
_SMALL_BUFFER = 4096
_RESET = struct.pack("ii", 1, 0)


class Client:
    """One client on one connection."""

    def __init__(self, port: int, one: Input, index: int) -> None:
        self._address = ("127.0.0.1", port)
        self._input = one
        self._index = index
        self._replies = Replies(heads_only=one.heads_only)
        self._received = 0
        self._was_closed = False
        self._patience = asyncio.timeout(None)
        self.fault: str | None = None
        self.was_silent = False
        """Nothing came for so long that nothing will."""

    @property
    def kind(self) -> str:
        """What its input tries."""
        return self._input.kind

    @property
    def whole(self) -> list[Reply]:
        """The answers that came whole."""
        return self._replies.whole

    @property
    def pending(self) -> Reply | None:
        """An answer that had begun at the end."""
        return self._replies.pending

    async def play(self) -> str | None:
        """Do all of it; returns what was wrong, if anything was."""
        try:
            async with asyncio.timeout(HANG_SECONDS) as self._patience:
                await self._play()
        except TimeoutError:
            self.was_silent = True
            return f"silent for {HANG_SECONDS:g} s after {self._received} bytes of answers"
        return self.fault or self._judge()

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._input.reading is not Reading.ALL:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            await loop.sock_connect(client, self._address)
            reading = asyncio.ensure_future(self._read(client))
            sending = asyncio.ensure_future(self._send(client))
            try:
                leaves = self._input.ending is Ending.LEAVE
                # Who leaves does so once it has sent all, or read as much as it wanted.
                first = asyncio.FIRST_COMPLETED if leaves else asyncio.ALL_COMPLETED
                waiting = {reading, sending} if self._input.leave_after is None or not leaves else {reading}
                await asyncio.wait(waiting, return_when=first)
            finally:
                for task in (reading, sending):
                    task.cancel()
                await asyncio.gather(reading, sending, return_exceptions=True)
                if self._input.ending is Ending.LEAVE:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def _send(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # A client that is sent away in the middle may find its connection closed.
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in self._input.pieces:
                await loop.sock_sendall(client, piece)
                await asyncio.sleep(0)
            if self._input.ending is Ending.HALF_CLOSE:
                with suppress(OSError):  # it is closed already
                    client.shutdown(socket.SHUT_WR)

    async def _read(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._input.reading is Reading.NONE:
            await asyncio.sleep(STALL_SECONDS)
        size = 2048 if self._input.reading is Reading.SLOW else 1 << 16
        while not self._is_content():
            try:
                data = await loop.sock_recv(client, size)
            except ConnectionResetError:
                self._was_closed = True
                return
            if not self._take(data):
                return
            if self._input.reading is Reading.SLOW:
                await asyncio.sleep(0)

    def _take(self, data: bytes) -> bool:
        self._patience.reschedule(asyncio.get_running_loop().time() + HANG_SECONDS)
        self._received += len(data)
        try:
            if data:
                self._replies.feed(data)
            else:
                self._was_closed = True
                self._replies.end()
        except NotHttpError as problem:
            self.fault = f"no HTTP: {problem}"
            return False
        return bool(data)

    def _is_content(self) -> bool:
        one, replies = self._input, self._replies
        if one.answers is not None:
            return len(replies.whole) >= len(one.answers)
        if one.leave_after is not None and self._received >= one.leave_after:
            return True
        # It may be that the server waits for the next request now.
        return one.ending is not Ending.HALF_CLOSE and bool(replies.whole) and replies.is_between

    def _judge(self) -> str | None:
        for reply in self._replies.whole:
            if fault := self._fault_of(reply):
                return fault
        if self._input.answers is not None:
            return self._compared()
        if self._input.ending is Ending.HALF_CLOSE and not self._was_closed:
            return "not closed"
        return None

    def _fault_of(self, reply: Reply) -> str | None:
        if reply.status >= 500 and reply.status not in OUR_ERRORS:
            return f"status {reply.status}: {reply.body!r:.300}"
        if others := others_tags(reply.body, self._index):
            return f"the answer to other inputs: {others}"
        if reply.header("content-type") == "application/json" and not self._input.heads_only:
            try:
                json.loads(reply.body)
            except ValueError:
                return f"no JSON: {reply.body!r:.300}"
        return None

    def _compared(self) -> str | None:
        expected, got = self._input.answers or (), self._replies.whole
        for number, (check, reply) in enumerate(zip(expected, got, strict=False), 1):
            if not check(reply):
                return f"answer {number} of {len(expected)} is wrong: {reply.status} {reply.body!r:.300}"
        if len(got) < len(expected):
            return f"closed after {len(got)} of {len(expected)} answers"
        return None if self._replies.is_between and len(got) == len(expected) else "more than was asked for"
