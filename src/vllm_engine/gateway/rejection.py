"""A request that the gateway answers itself instead of passing it on."""

from __future__ import annotations

from collections.abc import Sequence

RETRY_AFTER_SECONDS = 5
"""What clients are told in `Retry-After` while nothing better is known."""


class Rejected(Exception):
    """Raised by the step that decides against the request; `answers.send_rejected` tells the client.

    Args:
        status: 4xx where the request or its client is at fault, 503 where the server cannot serve now.
        reason: a word for the access log and the label of `gateway_rejections_total`.
        message: one sentence for the client, with the setting to change where there is one.
        retry_after_seconds: whole seconds, at least 1, for `Retry-After`; None where waiting changes nothing.
        headers: further headers that the status asks for.
    """

    has_waited = False
    """Whether it waited for its turn before."""
    leaves_body = False
    """Whether some of the request's body is not read, so that the connection cannot be used again."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        retry_after_seconds: int | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers


def draining(message: str) -> Rejected:
    """Return the refusal of whoever waits or comes while the server shuts down."""
    rejected = Rejected(503, "draining", message, retry_after_seconds=RETRY_AFTER_SECONDS)
    rejected.leaves_body = True
    return rejected
