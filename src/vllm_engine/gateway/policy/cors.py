"""CORS: which web pages may call the API from a browser (the Fetch standard, section 3.2).

Starlette's middleware is not used: it answers preflights for routes that do not exist, in another error
shape, without a request id, and before anything is logged. Streamed chunks cost nothing here: only the head
of an answer passes through `send`.

No `Access-Control-Allow-Credentials`: keys are sent by scripts, never by a browser on its own.
"""

from __future__ import annotations

import re

from starlette.types import Message, Scope, Send

from vllm_engine.gateway.http.request_id import REQUEST_ID

_MAX_AGE_SECONDS = 600
"""How long a browser may remember a preflight's answer."""

_EXPOSED = REQUEST_ID + b", retry-after"
_NAMES = re.compile(rb"[\w!#$%&'*+.^`|~, -]{1,2048}", re.ASCII)
"""Header names as a preflight lists them (RFC 9110, section 5.6.2)."""


class Cors:
    """Answers preflight requests of allowed pages, and lets those read answers."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        """Take the allowed origins; `*` alone allows all."""
        self._any = origins == ("*",)
        self._origins = frozenset(origin.encode() for origin in origins)

    def is_preflight(self, scope: Scope) -> bool:
        """Return whether this is a preflight request of an allowed page."""
        if scope["method"] != "OPTIONS" or not self._origins:
            return False
        headers = dict(scope["headers"])
        return b"access-control-request-method" in headers and self._allows(headers.get(b"origin"))

    async def answer_preflight(
        self, scope: Scope, send: Send, methods: frozenset[str], identity: bytes
    ) -> None:
        """Allow the route's methods and the headers that were asked for; `send` is as `wrap` returned it."""
        headers = [
            (b"access-control-allow-methods", ", ".join(sorted(methods)).encode()),
            (b"access-control-max-age", b"%d" % _MAX_AGE_SECONDS),
            (b"vary", b"access-control-request-headers"),
            (REQUEST_ID, identity),
        ]
        wanted = dict(scope["headers"]).get(b"access-control-request-headers", b"")
        # All that were asked for: SDKs send a dozen of their own, and without credentials none is a risk.
        if _NAMES.fullmatch(wanted):
            headers.append((b"access-control-allow-headers", wanted))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def wrap(self, scope: Scope, send: Send) -> Send:
        """Return a `send` whose answers the calling page may read, if it is allowed to."""
        if not self._origins:
            return send
        added = self._headers(dict(scope["headers"]).get(b"origin"))

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return send_shared

    def _headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        # A cache must not give one page's answer to another, unless all get the same.
        headers = [] if self._any else [(b"vary", b"origin")]
        if origin is not None and self._allows(origin):
            allowed = b"*" if self._any else origin
            headers.append((b"access-control-allow-origin", allowed))
            headers.append((b"access-control-expose-headers", _EXPOSED))
        return headers

    def _allows(self, origin: bytes | None) -> bool:
        return origin is not None and (self._any or origin in self._origins)
