"""TLS: the certificate and its key, proven before they are used, and followed when their files change.

The files are looked at when a client connects, and the next connections get what is in them then; those
that are open stay as they are.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from vllm_engine.gateway.http.followed_files import Fingerprint, fingerprint

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
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
logger = logging.getLogger("gateway.tls")


class TlsError(ValueError):
    """The certificate or its key cannot be used; says of which setting, and what to do."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


@dataclass(frozen=True)
class Identity:
    """A certificate that has been proven, ready to be shown; times are in seconds since the epoch."""

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
            TlsError: they cannot be used.
        """
        self._files = cert, key
        self._clock, self._now = clock, now
        self._seen = self._fingerprints()
        self._current = proven(cert, key)
        self._complaint = ""
        self._next_warning = 0.0
        self._next_check = clock() + FILE_CHECK_SECONDS
        self.context = self._current.context
        """For the listener; each connection is moved to the current one as it opens."""
        self.context.sni_callback = self._choose

    def expiry(self) -> float:
        """Return when the certificate expires that new connections get, in seconds since the epoch."""
        self._follow_files()
        return self._current.not_after

    async def watch_expiry(self) -> None:
        """Warn of the certificate's expiry, for ever, whether or not anybody connects."""
        while True:
            self.warn_of_expiry()
            await asyncio.sleep(_EXPIRY_CHECK_SECONDS)

    def warn_of_expiry(self) -> None:
        """Warn once a day in the last two weeks, or the last sixth of a shorter life than twelve weeks."""
        expiry, now = self.expiry(), self._now()
        life = expiry - self._current.not_before
        left = expiry - now
        if left > min(_EXPIRY_WARNING_SECONDS, life / 6) or now < self._next_warning:
            return
        self._next_warning = now + _DAY
        date = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if left > 0:
            logger.warning("the certificate in %s expires at %s (%.1f days left)", _CERT, date, left / _DAY)
        else:
            logger.error("the certificate in %s expired at %s: clients refuse it", _CERT, date)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for every client, whether or not it names a server.
        self._follow_files()
        connection.context = self._current.context

    def _follow_files(self) -> None:
        if (now := self._clock()) < self._next_check:
            return
        self._next_check = now + FILE_CHECK_SECONDS
        # Taken before the files are read: if they change in between, the next check sees others.
        found = self._fingerprints()
        if found == self._seen:
            self._complaint = ""
            return
        try:
            self._current = proven(*self._files)
        except TlsError as error:
            # Tried again at each check: the two files may be written one after the other; said once.
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("%s; the certificate of before stays in use", error)
            return
        self._seen, self._complaint, self._next_warning = found, "", 0.0
        logger.info("%s has changed: new connections get the new certificate", _CERT)

    def _fingerprints(self) -> tuple[Fingerprint, ...]:
        return tuple(map(fingerprint, self._files))


def proven(cert: Path, key: Path) -> Identity:
    """Return a server's identity with this certificate, after a handshake with itself.

    Raises:
        TlsError: a file cannot be read, the two do not match, or no client would accept the certificate
            whatever it trusts, such as one that has expired.
    """
    for setting, file in ((_CERT, cert), (_KEY, key)):
        _check_readable(setting, file)
    context = _server_context()
    try:
        _load(context, cert, key)
        shown = _shake_hands(context, client_context(cert))
    except ssl.SSLCertVerificationError as error:
        raise TlsError(_CERT, f"{error.verify_message}; wanted one that is valid now, for servers") from None
    except ssl.SSLError as error:
        raise TlsError(_CERT, f"cannot be used ({error.reason})") from None
    except OSError as error:  # gone since it was looked at
        raise TlsError(_CERT, f"cannot be read ({error.strerror}); name a PEM file") from None
    not_before, not_after = (ssl.cert_time_to_seconds(str(shown[end])) for end in ("notBefore", "notAfter"))
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
    """Return the context of a client that trusts this very certificate, under whatever name.

    For connections to ourselves: by an address that no certificate need name.

    Raises:
        OSError: the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cert)
    return context


def _check_readable(setting: str, file: Path) -> None:
    try:
        # Opening a pipe would wait for its other end.
        if not stat.S_ISREG(file.stat().st_mode):
            raise TlsError(setting, "cannot be read (not a file); name a PEM file")
        with file.open("rb"):
            pass
    except OSError as error:
        raise TlsError(setting, f"cannot be read ({error.strerror}); name a PEM file") from None


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    def no_passphrase() -> str:
        raise TlsError(_KEY, "is encrypted; give it without a passphrase (openssl pkey -in ... -out ...)")

    try:
        # Alone first: which of the two files is no PEM is not said otherwise.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError:
        wanted = "is no certificate; wanted a PEM file, the server's certificate first"
        raise TlsError(_CERT, wanted) from None
    try:
        context.load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise TlsError(_KEY, "is not the key of the certificate in TLS_CERT_FILE") from None
        if error.reason is None:
            raise TlsError(_KEY, "is no private key; wanted a PEM file") from None
        raise TlsError(_CERT, f"cannot be used with the key in TLS_KEY_FILE ({error.reason})") from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """Connect the two; returns the certificate that the client has seen and found good."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    connected = client.wrap_bio(to_client, to_server)
    ends = [connected, server.wrap_bio(to_server, to_client, server_side=True)]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    return cast(dict[str, object], connected.getpeercert())
