"""TLS: the certificate and its key, checked before they are used and followed when their files change.

The files are checked when a client connects; new connections get what is in them then, open ones stay as they
are.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from _ssl import _test_decode_cert  # type: ignore[attr-defined]  # ssl tells the dates of peers' alone
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vllm_engine.gateway.http.followed_files import (
    MAX_FILE_BYTES,
    FollowedFiles,
    UnusableFileError,
    read_file,
)

FILE_CHECK_SECONDS = 2.0
"""A change of the files counts after this long at most, from the next connection on."""

CIPHERS = ":".join(
    f"ECDHE-{kind}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""TLS 1.2's ciphers of Mozilla's intermediate profile (https://wiki.mozilla.org/Security/Server_Side_TLS)."""

_DAY = 86_400.0
_EXPIRY_WARNING_SECONDS = 14 * _DAY
_EXPIRY_CHECK_SECONDS = 3600.0
_CERT, _KEY = "TLS_CERT_FILE", "TLS_KEY_FILE"
_NO_CERTIFICATE = "is not a certificate; expected a PEM file, the server's certificate first"
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
logger = logging.getLogger("gateway.tls")


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, ready to be presented; times are in seconds since the epoch."""

    context: ssl.SSLContext
    not_before: float
    not_after: float


class Tls:
    """The server's side of TLS 1.2 and later."""

    def __init__(
        self,
        cert: Path,
        key: Path,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = lambda: datetime.now(UTC).timestamp(),
    ) -> None:
        """Read both files.

        Raises:
            UnusableFileError: they cannot be used.
        """
        self._now = now
        self._files = FollowedFiles(
            (cert, key),
            lambda: load_identity(cert, key, now()),
            check_seconds=FILE_CHECK_SECONDS,
            clock=clock,
            logger=logger,
            kept="the previous certificate stays in use",
            on_change=self._changed,
        )
        self._next_warning = 0.0
        self.context = self._files.current().context
        """For the listener; each connection is moved to the current one as it opens."""
        self.context.sni_callback = self._choose

    def expiry(self) -> float:
        """Return when the certificate that new connections get expires, in seconds since the epoch."""
        return self._files.current().not_after

    async def watch_expiry(self) -> None:
        """Warn before the certificate expires, whether or not anybody connects; never returns."""
        while True:
            self.warn_of_expiry()
            await asyncio.sleep(_EXPIRY_CHECK_SECONDS)

    def warn_of_expiry(self) -> None:
        """Warn once a day in the last two weeks, or the last sixth of a shorter life than twelve weeks."""
        certificate, now = self._files.current(), self._now()
        life = certificate.not_after - certificate.not_before
        left = certificate.not_after - now
        if left > min(_EXPIRY_WARNING_SECONDS, life / 6) or now < self._next_warning:
            return
        self._next_warning = now + _DAY
        date = _date(certificate.not_after)
        if left > 0:
            logger.warning("the certificate in %s expires at %s (%.1f days left)", _CERT, date, left / _DAY)
        else:
            logger.error("the certificate in %s expired at %s: clients refuse it", _CERT, date)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for every client, whether or not it names a server.
        connection.context = self._files.current().context

    def _changed(self, _: Identity) -> None:
        self._next_warning = 0.0
        logger.info("%s has changed: new connections get the new certificate", _CERT)


def load_identity(cert: Path, key: Path, now: float) -> Identity:
    """Return the identity of a server with this certificate, if it is valid `now` (seconds since the epoch).

    Raises:
        UnusableFileError: a file cannot be read, the two do not match, or the certificate is not valid now.
    """
    for setting, file in ((_CERT, cert), (_KEY, key)):
        read_file(setting, file, MAX_FILE_BYTES)
    context = _server_context()
    try:
        _load(context, cert, key)
        content = _test_decode_cert(cert)
    except OSError as error:  # removed since the check
        raise UnusableFileError(_CERT, f"cannot be read ({error.strerror})") from None
    not_before, not_after = (ssl.cert_time_to_seconds(str(content[at])) for at in ("notBefore", "notAfter"))
    if now > not_after:
        raise UnusableFileError(_CERT, f"expired at {_date(not_after)}; expected one that is valid now")
    if now < not_before:
        raise UnusableFileError(_CERT, f"is not valid before {_date(not_before)}; check this machine's clock")
    return Identity(context, not_before, not_after)


def _server_context() -> ssl.SSLContext:
    """Return a context of Mozilla's intermediate profile, as far as Python lets it be set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # Clients know best which of them their hardware is quick at: all are safe.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # The keys of slots would live as long as the process, and undo forward secrecy.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    if hasattr(context, "set_groups"):  # Python 3.15
        context.set_groups("X25519:P-256:P-384")
    else:
        # OpenSSL's own choice has ffdhe8192: 140 ms of this thread for a client that sends anything. Before
        # Python 3.15 one group can be chosen: this is the one all clients have (RFC 8446, section 9.1).
        context.set_ecdh_curve("prime256v1")
    return context


def client_context(cert: Path) -> ssl.SSLContext:
    """Return the context of a client that trusts exactly this certificate, whatever names are in it.

    For connections to ourselves, by an address that the certificate need not name.

    Raises:
        OSError: the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cert)
    return context


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def no_passphrase() -> str:
        raise UnusableFileError(
            _KEY, "is encrypted; expected a key without a passphrase (openssl pkey -in ... -out ...)"
        )

    try:
        # Alone first: otherwise OpenSSL does not say which of the two files is not PEM.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError:
        raise UnusableFileError(_CERT, _NO_CERTIFICATE) from None
    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise UnusableFileError(_KEY, "is not the key of the certificate in TLS_CERT_FILE") from None
        if error.reason is None:
            raise UnusableFileError(_KEY, "is not a private key; expected a PEM file") from None
        raise UnusableFileError(
            _CERT, f"cannot be used with the key in TLS_KEY_FILE ({error.reason})"
        ) from None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
