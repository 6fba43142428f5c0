"""Heads of requests: what the parser lets through and we do not."""

from __future__ import annotations

import pytest

from vllm_engine.gateway.http.request_head import HeadError, check_head, speaks_http, without_upgrade


def test_a_whole_first_line_ends_with_a_version_of_http_1() -> None:
    # The third is not whole yet: the parser will tell.
    for fine in (
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HT",
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


def test_one_valid_host_a_known_version_and_no_tunnel() -> None:
    for version, hosts in (("1.1", [b"x"]), ("1.1", [b"[::1]:8000"]), ("1.1", [b"x \t"]), ("1.0", [])):
        check_head(b"GET", version, [(b"host", host) for host in hosts])
    for method, version, hosts, status in (
        (b"GET", "1.1", [], 400), (b"GET", "1.1", [b"x", b"x"], 400), (b"GET", "1.0", [b"x", b"y"], 400),
        (b"GET", "1.1", [b"a b"], 400), (b"GET", "1.1", [b"x/../"], 400), (b"GET", "1.1", [b"user@x"], 400),
        (b"GET", "0.9", [], 400), (b"CONNECT", "1.1", [b"x"], 405),
    ):  # fmt: skip
        with pytest.raises(HeadError) as caught:
            check_head(method, version, [(b"host", host) for host in hosts])
        assert caught.value.status == status


def test_without_upgrade() -> None:
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"content-length", b"2"), (b"connection", b"Upgrade")]
    assert without_upgrade(b"POST", b"/a?b", "1.1", headers) == (
        b"POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: Upgrade\r\n\r\n"
    )
