"""Bytes that mean harm, shared by the hostile suites."""

from __future__ import annotations

ECHO = "POST /v1/_echo HTTP/1.1\r\nHost: x\r\n"
INNER = "GET /v1/_echo?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
ZERO = "0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"

AMBIGUOUS = {
    # Where does the body end?
    "length and chunked": f"{ECHO}Content-Length: 4\r\n{CHUNKED}\r\n{ZERO}{INNER}",
    "chunked and length": f"{ECHO}{CHUNKED}Content-Length: 4\r\n\r\n{ZERO}{INNER}",
    "two lengths": f"{ECHO}Content-Length: 0\r\nContent-Length: {len(INNER)}\r\n\r\n{INNER}",
    "two lengths in one": f"{ECHO}Content-Length: 0, {len(INNER)}\r\n\r\n{INNER}",
    "the same length twice": f"{ECHO}Content-Length: 0\r\nContent-Length: 0\r\n\r\n{INNER}",
    "length with a sign": f"{ECHO}Content-Length: +4\r\n\r\nabcd{INNER}",
    "negative length": f"{ECHO}Content-Length: -1\r\n\r\n{INNER}",
    "length in hexadecimal": f"{ECHO}Content-Length: 0x4\r\n\r\nabcd{INNER}",
    "length with a space inside": f"{ECHO}Content-Length: 1 0\r\n\r\n{INNER}",
    "length that overflows": f"{ECHO}Content-Length: 18446744073709551620\r\n\r\nabcd{INNER}",
    "empty length": f"{ECHO}Content-Length:\r\n\r\n{INNER}",
    "length with an underscore": f"{ECHO}Content-Length: 1_0\r\n\r\nabcdefghij{INNER}",
    # Is it chunked?
    "xchunked": f"{ECHO}Transfer-Encoding: xchunked\r\n\r\n{ZERO}{INNER}",
    "identity": f"{ECHO}Transfer-Encoding: identity\r\n\r\n{INNER}",
    "gzip alone": f"{ECHO}Transfer-Encoding: gzip\r\n\r\n{INNER}",
    "chunked, then identity": f"{ECHO}Transfer-Encoding: chunked, identity\r\n\r\n{ZERO}{INNER}",
    "chunked, then more": f"{ECHO}{CHUNKED}Transfer-Encoding: x\r\n\r\n{ZERO}{INNER}",
    "chunked with a vertical tab": f"{ECHO}Transfer-Encoding: \x0bchunked\r\n\r\n{ZERO}{INNER}",
    "chunked with a NUL": f"{ECHO}Transfer-Encoding: chunked\x00\r\n\r\n{ZERO}{INNER}",
    "chunked in quotes": f'{ECHO}Transfer-Encoding: "chunked"\r\n\r\n{ZERO}{INNER}',
    "chunked before a colon with a space": f"{ECHO}Transfer-Encoding : chunked\r\n\r\n{ZERO}{INNER}",
    # Where does a line end?
    "folded line": f"{ECHO}X-A: 1\r\n Content-Length: 4\r\n\r\n{INNER}",
    "folded coding": f"{ECHO}Transfer-Encoding:\r\n chunked\r\n\r\n{ZERO}{INNER}",
    "line feeds alone": f"{ECHO}X-A: 1\n{CHUNKED}\r\n{ZERO}{INNER}",
    "line feed that ends the head": f"{ECHO}Content-Length: 0\r\n\n{INNER}",
    "carriage return in a value": f"{ECHO}X-A: 1\r{CHUNKED}\r\n{ZERO}{INNER}",
    "carriage return alone before the body": f"{ECHO}X-A: 1\r\rContent-Length: 0\r\n\r\n{INNER}",
    "NUL in a value": f"{ECHO}X-A: a\x00b\r\nContent-Length: 0\r\n\r\n{INNER}",
    "NUL in a name": f"{ECHO}X\x00A: b\r\nContent-Length: 0\r\n\r\n{INNER}",
    "space in a name": f"{ECHO}X A: b\r\nContent-Length: 0\r\n\r\n{INNER}",
    "space before a name": f"POST /v1/_echo HTTP/1.1\r\n Host: x\r\nContent-Length: 0\r\n\r\n{INNER}",
    "no name": f"{ECHO}: b\r\nContent-Length: 0\r\n\r\n{INNER}",
    "no colon": f"{ECHO}X-A\r\nContent-Length: 0\r\n\r\n{INNER}",
    # Where does a chunk end?
    "chunk size that overflows": f"{ECHO}{CHUNKED}\r\n10000000000000004\r\nabcd\r\n{ZERO}{INNER}",
    "negative chunk size": f"{ECHO}{CHUNKED}\r\n-4\r\nabcd\r\n{ZERO}{INNER}",
    "chunk size with a prefix": f"{ECHO}{CHUNKED}\r\n0x4\r\nabcd\r\n{ZERO}{INNER}",
    "chunk size with a space before": f"{ECHO}{CHUNKED}\r\n 4\r\nabcd\r\n{ZERO}{INNER}",
    "chunk size with an underscore": f"{ECHO}{CHUNKED}\r\n0_4\r\nabcd\r\n{ZERO}{INNER}",
    "empty chunk size": f"{ECHO}{CHUNKED}\r\n\r\nabcd\r\n{ZERO}{INNER}",
    "chunk size that is no number": f"{ECHO}{CHUNKED}\r\nxyz\r\nabcd\r\n{ZERO}{INNER}",
    "chunk size that ends in a line feed": f"{ECHO}{CHUNKED}\r\n4\nabcd\r\n{ZERO}{INNER}",
    "chunk extension with a line feed": f"{ECHO}{CHUNKED}\r\n4;a\nabcd\r\n{ZERO}{INNER}",
    "chunk extension with a carriage return": f"{ECHO}{CHUNKED}\r\n4;a\rb\r\nabcd\r\n{ZERO}{INNER}",
    # Who is asked for what?
    "no host": f"POST /v1/_echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n{INNER}",
    "two hosts": f"{ECHO}Host: y\r\nContent-Length: 0\r\n\r\n{INNER}",
    "authority form": f"GET evil:80 HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "no target": f"GET  HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "target with a space": f"GET /v1/_echo a HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "target with a tab": f"GET /v1/_echo\ta HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "target with a NUL": f"GET /v1/_echo\x00 HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "target with a raw byte": f"GET /v1/_echo\xff HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "target with a carriage return": f"GET /v1/_echo\rX: y HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "version that is none": f"GET /v1/_echo HTTP/1.x\r\nHost: x\r\n\r\n{INNER}",
    "version 1.10": f"GET /v1/_echo HTTP/1.10\r\nHost: x\r\n\r\n{INNER}",
    "version in lower case": f"GET /v1/_echo http/1.1\r\nHost: x\r\n\r\n{INNER}",
    "no version": "GET /v1/_echo\r\n\r\n",
    "method with a space before": f" GET /v1/_echo HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "method in lower case": f"get /v1/_echo HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "method that is none": f"G@T /v1/_echo HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
    "method that nobody knows": f"FETCH /v1/_echo HTTP/1.1\r\nHost: x\r\n\r\n{INNER}",
}
"""Each is refused, the connection closed, and neither it nor what stands behind it reaches the engine."""

OTHER_PROTOCOLS = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(189),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SOCKS": b"\x05\x01\x00",
    "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "SMTP": b"EHLO x\r\n",
    "NULs": bytes(1000),
    "every byte": bytes(range(256)) * 8,
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "RTSP": b"OPTIONS rtsp://x/v1/_echo RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "RTSP by a method of HTTP": b"POST /v1/_echo RTSP/1.0\r\nContent-Length: 0\r\nHost: x\r\n\r\n",
    "ICECAST": b"SOURCE /v1/_echo ICE/1.0\r\n\r\n",
}
"""Whoever speaks one of these is sent away."""

_UPLOAD = "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\n"
UNUSUAL = {
    "absolute form": f"POST http://evil.example/v1/_echo?q HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n4\r\nabcd\r\n{ZERO}",
    "empty lines before": f"\r\n\r\n{_UPLOAD}Content-Length: 4\r\n\r\nabcd",
    "upper case": "POST /v1/_echo?q HTTP/1.1\r\nHOST: x\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "white space": "POST /v1/_echo?q HTTP/1.1\r\nHost:\t x \t\r\nContent-Length: \t 4 \r\n\r\nabcd",
    "leading zeros": f"{_UPLOAD}Content-Length: 0004\r\n\r\nabcd",
    "chunk extensions": f'{_UPLOAD}{CHUNKED}\r\n2;a=b\r\nab\r\n2;c="d"\r\ncd\r\n{ZERO}',
    "zeros before a chunk size": f"{_UPLOAD}{CHUNKED}\r\n0004\r\nabcd\r\n{ZERO}",
    "trailers": (
        f"{_UPLOAD}{CHUNKED}\r\n4\r\nabcd\r\n0\r\nX-Trailer: 1\r\nAuthorization: Bearer evil\r\nHost: evil\r\n\r\n"
    ),
    "length named as a hop": (
        f"{_UPLOAD}Connection: content-length, host, x-request-id\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "coding named as a hop": f"{_UPLOAD}Connection: transfer-encoding\r\n{CHUNKED}\r\n4\r\nabcd\r\n{ZERO}",
    "hops": (
        f"{_UPLOAD}Connection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 9\r\nProxy-Connection: x\r\nTE: trailers\r\n"
        "Trailer: X-Trailer\r\nProxy-Authorization: x\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "upgrade that is none": (
        f"{_UPLOAD}Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        "Content-Length: 4\r\n\r\nabcd"
    ),
    "expectation": f"{_UPLOAD}Expect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd",
    "names with underscores": (
        f"{_UPLOAD}Content_Length: 9\r\nTransfer_Encoding: chunked\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "a fragment": "POST /v1/_echo?q#/metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
    "HTTP/1.0": "POST /v1/_echo?q HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd",
}
"""Legal, if seldom seen: each is one request with the body `abcd`."""
