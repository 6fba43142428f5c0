"""TLS: the certificate and its key, proven before they are used, and followed when their files change.

The files are looked at when a client connects, and the next connections get what is in them then; those
that are open stay as they are.
"""

from __future__ import annotations

import logging
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path

from vllm_engine.gateway.files import Fingerprint, fingerprint

FILE_CHECK_SECONDS = 2.0
"""A change of the files counts after this long at most, from the next connection on."""

_CERT, _KEY = "TLS_CERT_FILE", "TLS_KEY_FILE"
_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
logger = logging.getLogger("gateway.tls")


class TlsError(ValueError):
    """The certificate or its key cannot be used; says of which setting, and what to do."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


class Tls:
    """The server's side of TLS 1.2 and later."""

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read both files.

        Raises:
            TlsError: they cannot be used.
        """
        self._files = cert, key
        self._clock = clock
        self._seen = self._fingerprints()
        self._current = proven_context(cert, key)
        self._complaint = ""
        self._next_check = clock() + FILE_CHECK_SECONDS
        self.context = self._current
        """For the listener; each connection is moved to the current one as it opens."""
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # Called for every client, whether or not it names a server.
        self._follow_files()
        connection.context = self._current

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
            self._current = proven_context(*self._files)
        except TlsError as error:
            # Tried again at each check: the two files may be written one after the other; said once.
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("%s; the certificate of before stays in use", error)
            return
        self._seen, self._complaint = found, ""
        logger.info("%s has changed: new connections get the new certificate", _CERT)

    def _fingerprints(self) -> tuple[Fingerprint, ...]:
        return tuple(map(fingerprint, self._files))


def proven_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context with this certificate, after a handshake with itself.

    Raises:
        TlsError: a file cannot be read, the two do not match, or no client would accept the certificate
            whatever it trusts, such as one that has expired.
    """
    for setting, file in ((_CERT, cert), (_KEY, key)):
        _check_readable(setting, file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        _load(context, cert, key)
        _shake_hands(context, client_context(cert))
    except ssl.SSLCertVerificationError as error:
        raise TlsError(_CERT, f"{error.verify_message}; wanted one that is valid now, for servers") from None
    except ssl.SSLError as error:
        raise TlsError(_CERT, f"cannot be used ({error.reason})") from None
    except OSError as error:  # gone since it was looked at
        raise TlsError(_CERT, f"cannot be read ({error.strerror}); name a PEM file") from None
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


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
