"""Takes answers from one connection as their bytes come, strictly."""

from __future__ import annotations

from collections.abc import Generator

from tests.support.raw_http import Reply


class NotHttpError(Exception):
    """What came is no HTTP/1.1 answer."""


class Replies:
    """The answers of one connection.

    Args:
        heads_only: whether all of them answer HEAD.
    """

    def __init__(self, *, heads_only: bool = False) -> None:
        self.whole: list[Reply] = []
        """Final ones that are complete, in their order; interim ones are left out."""
        self.pending: Reply | None = None
        """One whose head has come and whose body has not, with the chunks until now."""
        self._heads_only = heads_only
        self._data = bytearray()
        self._at_end = False
        self._reading = self._read()
        next(self._reading)

    @property
    def is_between(self) -> bool:
        """Whether nothing of a further answer has come."""
        return not self._data and self.pending is None

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            NotHttpError: it is no answer.
        """
        self._data += data
        self._reading.send(None)

    def end(self) -> None:
        """Note that the connection was closed, which is how a body without a length ends."""
        self._at_end = True
        self._reading.send(None)

    def _read(self) -> Generator[None, None, None]:
        while True:
            head = yield from self._until(b"\r\n\r\n")
            reply = _head(head)
            if reply.status >= 200:
                self.pending = reply
                yield from self._body(reply)
                self.pending = None
                self.whole.append(reply)

    def _body(self, reply: Reply) -> Generator[None, None, None]:
        length = reply.header("content-length")
        if self._heads_only or reply.status in (204, 304):
            return
        if reply.header("transfer-encoding") == "chunked":
            while size := _hexadecimal((yield from self._until(b"\r\n"))):
                reply.chunks.append((yield from self._exactly(size)))
                if (yield from self._exactly(2)) != b"\r\n":
                    raise NotHttpError("a chunk without its line end")
            yield from self._until(b"\r\n")
        elif length is not None:
            reply.chunks.append((yield from self._exactly(int(length))))
        else:
            while not self._at_end:
                yield
            reply.chunks.append((yield from self._exactly(len(self._data))))

    def _until(self, mark: bytes) -> Generator[None, None, bytes]:
        looked = 0
        while (found := self._data.find(mark, looked)) < 0:
            looked = max(0, len(self._data) - len(mark))
            yield
        data = bytes(self._data[:found])
        del self._data[: found + len(mark)]
        return data

    def _exactly(self, size: int) -> Generator[None, None, bytes]:
        while len(self._data) < size:
            yield
        data = bytes(self._data[:size])
        del self._data[:size]
        return data


def _head(head: bytes) -> Reply:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    code = rest[:3]
    if version != "HTTP/1.1" or not code.isdecimal():
        raise NotHttpError(f"status line {status_line!r:.200}")
    pairs = [line.partition(": ") for line in lines]
    if bad := [line for line, pair in zip(lines, pairs, strict=True) if not pair[1]]:
        raise NotHttpError(f"header {bad[0]!r:.200}")
    return Reply(int(code), [(name, value) for name, _, value in pairs], [])


def _hexadecimal(text: bytes) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise NotHttpError(f"chunk size {text!r:.100}") from None
