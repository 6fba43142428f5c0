"""Heads of requests: what the parser lets through and we do not."""

from __future__ import annotations

import pytest

from vllm_engine.gateway.http.request_head import HeadError, check_head, speaks_http, without_upgrade


@pytest.mark.parametrize(
    ("data", "fine"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HT", True),  # not whole yet: the parser will tell
        (b"\r\nGET / HTTP/1.1\r\n", True),
        (b"GET /\r\n\r\n", False),
        (b"POST / RTSP/1.0\r\n\r\n", False),
        (b"PRI * HTTP/2.0\r\n\r\n", False),
        (b"GET /HTTP/1.1\r\n\r\n", False),
    ],
)
def test_first_line(data: bytes, fine: bool) -> None:
    """A whole first line ends with a version of HTTP/1."""
    assert speaks_http(data) is fine


@pytest.mark.parametrize(
    ("method", "version", "hosts", "status"),
    [
        (b"GET", "1.1", [b"x"], None),
        (b"GET", "1.1", [b"[::1]:8000"], None),
        (b"GET", "1.1", [b"x \t"], None),
        (b"GET", "1.0", [], None),
        (b"GET", "1.1", [], 400),
        (b"GET", "1.1", [b"x", b"x"], 400),
        (b"GET", "1.0", [b"x", b"y"], 400),
        (b"GET", "1.1", [b"a b"], 400),
        (b"GET", "1.1", [b"x/../"], 400),
        (b"GET", "1.1", [b"user@x"], 400),
        (b"GET", "0.9", [], 400),
        (b"CONNECT", "1.1", [b"x"], 405),
    ],
)
def test_check(method: bytes, version: str, hosts: list[bytes], status: int | None) -> None:
    """One valid Host, a version there is, and no wish for a tunnel."""
    headers = [(b"host", host) for host in hosts]
    if status is None:
        check_head(method, version, headers)
    else:
        with pytest.raises(HeadError) as caught:
            check_head(method, version, headers)
        assert caught.value.status == status


def test_without_upgrade() -> None:
    """Everything but the offer is as it was, in its order."""
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"content-length", b"2"), (b"connection", b"Upgrade")]
    assert without_upgrade(b"POST", b"/a?b", "1.1", headers) == (
        b"POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: Upgrade\r\n\r\n"
    )
