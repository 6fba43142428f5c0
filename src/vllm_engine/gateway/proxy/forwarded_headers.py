"""Pure: which headers cross the gateway, and how a request's head is written to the engine."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_engine.gateway.http.request_id import REQUEST_ID

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection",
    b"te", b"trailer", b"transfer-encoding", b"upgrade",
))  # fmt: skip
"""RFC 9110, section 7.6.1: these speak of one connection and are not passed on."""

_REWRITTEN = frozenset((b"host", b"content-length", b"expect", REQUEST_ID))
_OURS = frozenset((REQUEST_ID, b"date", b"x-accel-buffering"))


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers that are not about one connection; names are lower case already."""
    pairs = list(headers)
    named = {
        part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")
    }
    return [pair for pair in pairs if pair[0] not in _HOP_BY_HOP and pair[0] not in named]


def request_head(
    method: str,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    *,
    identity: bytes,
    body_bytes: int,
    without: frozenset[bytes] = frozenset(),
    extra: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Write a request's line and headers for the engine: the client's, but for those `without` and `extra`.

    The length is our own count of the body that was read, so that the engine can never see another
    request than the gateway did (RFC 9112, section 11.2: request smuggling).
    """
    added = list(extra)
    dropped = _REWRITTEN | without | {name for name, _ in added}
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target), b"host: engine"]
    lines += [b"%b: %b" % pair for pair in end_to_end(headers) if pair[0] not in dropped]
    lines += [b"%b: %b" % pair for pair in added]
    if body_bytes or method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
        lines.append(b"content-length: %d" % body_bytes)
    lines.append(b"x-request-id: " + identity)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def response_headers(
    status: int, headers: Iterable[tuple[bytes, bytes]], identity: bytes, *, is_event_stream: bool
) -> Headers:
    """Return the engine's headers as the client gets them: with the request's id and our date.

    vLLM answers overload without saying when to come back: that is added.
    """
    kept = [pair for pair in end_to_end(headers) if pair[0] not in _OURS]
    kept.append((REQUEST_ID, identity))
    if is_event_stream:
        # nginx and its like would hold events back.
        kept.append((b"x-accel-buffering", b"no"))
    if status in (429, 503) and not any(name == b"retry-after" for name, _ in kept):
        kept.append((b"retry-after", b"1"))
    return kept
