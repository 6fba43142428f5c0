"""Heads of requests: what the parser lets through and we do not."""

from __future__ import annotations

import pytest

from vllm_engine.gateway.http.request_head import HeadError, check_head, speaks_http, without_upgrade


def test_a_whole_first_line_ends_with_a_version_of_http_1() -> None:
    for fine in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HT",  # not whole yet: the parser will tell
        b"\r\nGET / HTTP/1.1\r\n",
    ):
        assert speaks_http(fine), fine
    for data in (
        b"GET /\r\n\r\n",
        b"POST / RTSP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"GET /HTTP/1.1\r\n\r\n",
    ):
        assert not speaks_http(data), data


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
def test_one_valid_host_a_known_version_and_no_tunnel(
    method: bytes, version: str, hosts: list[bytes], status: int | None
) -> None:
    headers = [(b"host", host) for host in hosts]
    if status is None:
        check_head(method, version, headers)
    else:
        with pytest.raises(HeadError) as caught:
            check_head(method, version, headers)
        assert caught.value.status == status


def test_without_upgrade() -> None:
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"content-length", b"2"), (b"connection", b"Upgrade")]
    assert without_upgrade(b"POST", b"/a?b", "1.1", headers) == (
        b"POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: Upgrade\r\n\r\n"
    )
