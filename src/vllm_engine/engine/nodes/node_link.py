"""One end of the connection between the head and a worker: JSON objects, a line each, and a beat.

Neither encrypted nor authenticated, as what vLLM itself sends between nodes (its docs/usage/security.md): it
belongs on a private network.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

BEAT_SECONDS = 2.0
"""How often each side says that it is there."""
SILENT_BEATS = 10
"""After so many of its own beats in which nothing came, a side takes the other to be lost.

Beats are counted, not time: a process that was stopped itself has not listened.
"""
_LEAST_SILENT_BEATS = 2
"""One may be late."""
MOST_BYTES = 1 << 16
"""Of one line: longer than any diagnosis."""
_CONNECT_SECONDS = 5.0


class LinkLostError(Exception):
    """The other side is gone, or does not speak this protocol; says how it showed."""


class Link:
    """A context manager that owns the connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, silent_beats: int = SILENT_BEATS
    ) -> None:
        self._reader, self._writer = reader, writer
        self._silent_beats = silent_beats
        self._beating = asyncio.create_task(self._beat())

    @classmethod
    async def to(cls, host: str, port: int, *, silent_beats: int = SILENT_BEATS) -> Link:
        """Connect to the head.

        Raises:
            LinkLostError: it cannot be reached now.
        """
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(host, port, limit=MOST_BYTES)
        except TimeoutError:
            raise LinkLostError("it does not answer") from None
        except OSError as error:
            raise LinkLostError(error.strerror or str(error)) from None
        except UnicodeError:  # such as a part of more than 63 letters
            raise LinkLostError("that is no host name") from None
        return cls(reader, writer, silent_beats=silent_beats)

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._beating.cancel()
        self._writer.close()

    @property
    def peer(self) -> str:
        """The other side's address."""
        found = self._writer.get_extra_info("peername")
        return str(found[0]) if found else "unknown"

    @property
    def own_address(self) -> str:
        """The address of this machine by which the other side is reached."""
        found = self._writer.get_extra_info("sockname")
        return str(found[0]) if found else ""

    def send(self, **message: object) -> None:
        """Send a message; whether it arrives is seen by what comes, or does not come, from the other side."""
        with suppress(OSError, RuntimeError):  # the connection is closing: `receive` says so
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Mapping[str, Any]:
        """Wait for the next message; may be cancelled.

        Raises:
            LinkLostError: the other side has closed the connection, is silent, or sends something else.
        """
        silent = 0
        while True:
            try:
                line = await asyncio.wait_for(self._reader.readline(), BEAT_SECONDS)
            except TimeoutError:
                silent += 1
                if silent >= self._silent_beats:
                    raise LinkLostError(f"nothing came from it for {silent * BEAT_SECONDS:g} s") from None
                continue
            except OSError as error:
                raise LinkLostError(f"its connection was lost ({error.strerror or error})") from None
            except ValueError:  # the line is too long
                raise LinkLostError("it does not speak this protocol") from None
            if not line.endswith(b"\n"):
                raise LinkLostError("its connection was closed")
            silent = 0
            if line.strip():
                return _parsed(line)
            # One that sends beats without end must not keep the event loop.
            await asyncio.sleep(0)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(OSError, RuntimeError):
                self._writer.write(b"\n")


def _parsed(line: bytes) -> Mapping[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise LinkLostError("it does not speak this protocol")
    return message


def silent_beats(hang_timeout_seconds: float) -> int:
    """Return after how many silent beats the other side is lost, which is noticed within that time.

    That takes 4 s at least. With 0, never by silence, so that it is noticed by a closed connection alone.
    """
    if not hang_timeout_seconds:
        return 1 << 60
    return max(_LEAST_SILENT_BEATS, min(SILENT_BEATS, int(hang_timeout_seconds / BEAT_SECONDS) - 1))
