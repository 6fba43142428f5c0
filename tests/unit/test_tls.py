"""TLS: unusable certificates are refused with a remedy, and changed ones are followed without a gap."""

from __future__ import annotations

import logging
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.certificates import Certificate
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.tls import FILE_CHECK_SECONDS, Tls, TlsError, client_context, proven_context
from vllm_engine.listen import load_tls
from vllm_engine.settings import Settings


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    """A good certificate and its key."""
    return Certificate(tmp_path)


def presented(tls: Tls, names: str | None = None) -> bytes | None:
    """Connect as a client does; returns the certificate that the server shows."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=names)
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() in ("TLSv1.2", "TLSv1.3")
    return client.getpeercert(binary_form=True)


def openssl(*words: str | Path) -> None:
    """Run the command that people make certificates with."""
    arguments = [part for word in words for part in str(word).split()]
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def leaf(files: Certificate) -> bytes:
    """Return the server's certificate in the file."""
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(files.cert.read_text().partition(end)[0] + end)


@pytest.mark.parametrize("rsa", [False, True])
def test_good(tmp_path: Path, rsa: bool) -> None:
    """A certificate and its key serve TLS 1.2 and later."""
    files = Certificate(tmp_path, rsa=rsa)
    tls = Tls(files.cert, files.key)
    assert presented(tls) == leaf(files)
    assert presented(tls, "any.example") == leaf(files)
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_self_signed(tmp_path: Path) -> None:
    """What `openssl req -x509` makes is good."""
    key, cert, encrypted = tmp_path / "key", tmp_path / "cert", tmp_path / "encrypted"
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout", key, "-out", cert)
    proven_context(cert, key)
    openssl("pkey -aes256 -passout pass:secret -in", key, "-out", encrypted)
    with pytest.raises(TlsError, match="TLS_KEY_FILE: is encrypted; give it without a passphrase"):
        proven_context(cert, encrypted)


def test_expired(tmp_path: Path) -> None:
    """An expired certificate is refused at once, not by every client."""
    files = Certificate(tmp_path, expired=True)
    with pytest.raises(TlsError, match="TLS_CERT_FILE: certificate has expired; wanted"):
        proven_context(files.cert, files.key)


@pytest.mark.parametrize("rsa", [False, True])
def test_mismatch(files: Certificate, tmp_path: Path, rsa: bool) -> None:
    """Another certificate's key is refused, of the same kind or not."""
    other = Certificate(tmp_path, "other", rsa=rsa)
    with pytest.raises(TlsError, match="TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE"):
        proven_context(files.cert, other.key)


def test_unusable_files(files: Certificate, tmp_path: Path) -> None:
    """What is missing, no file, or no PEM is named by its setting."""
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for cert, key, problem in (
        (tmp_path / "none", files.key, "TLS_CERT_FILE: cannot be read .No such file"),
        (files.cert, tmp_path / "none", "TLS_KEY_FILE: cannot be read .No such file"),
        (tmp_path, files.key, "TLS_CERT_FILE: cannot be read .not a file"),
        (junk, files.key, "TLS_CERT_FILE: is no certificate"),
        (files.key, files.key, "TLS_CERT_FILE: is no certificate"),
        (files.cert, junk, "TLS_KEY_FILE: is no private key"),
    ):
        with pytest.raises(TlsError, match=problem):
            proven_context(cert, key)


def test_one_without_the_other(files: Certificate) -> None:
    """A certificate without a key, or a key without one, is an error of the settings."""
    assert load_tls(Settings()) is None
    with pytest.raises(SettingsError, match=r'TLS_KEY_FILE="": .*set both or neither'):
        load_tls(Settings(TLS_CERT_FILE=files.cert))
    with pytest.raises(SettingsError, match=r'TLS_CERT_FILE="": .*set both or neither'):
        load_tls(Settings(TLS_KEY_FILE=files.key))
    with pytest.raises(SettingsError, match=r"TLS_KEY_FILE=.*server.pem.*: is no private key"):
        load_tls(Settings(TLS_CERT_FILE=files.cert, TLS_KEY_FILE=files.cert))


def test_reload(files: Certificate) -> None:
    """New connections get the new certificate, after a moment in which nothing is looked at."""
    clock = Clock()
    tls = Tls(files.cert, files.key, clock)
    before = presented(tls)
    files.renew()
    assert presented(tls) == before
    clock.now += FILE_CHECK_SECONDS
    assert presented(tls) == leaf(files) != before


def test_broken_reload(files: Certificate, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate whose key has not come yet, or that goes, changes nothing and is said once."""
    clock = Clock()
    tls = Tls(files.cert, files.key, clock)
    before = presented(tls)
    other = Certificate(tmp_path, "other")
    for broken in (other.cert.read_bytes(), b"junk", None):
        caplog.clear()
        if broken is None:
            files.cert.unlink()
        else:
            files.cert.write_bytes(broken)
        for _ in range(3):
            clock.now += FILE_CHECK_SECONDS
            assert presented(tls) == before
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "the certificate of before stays in use" in caplog.text
    files.renew()
    clock.now += FILE_CHECK_SECONDS
    assert presented(tls) == leaf(files)


def test_client_context_trusts_one(files: Certificate, tmp_path: Path) -> None:
    """The question that we put to ourselves goes to this certificate alone, whatever its names."""
    other = Certificate(tmp_path, "other")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(files.cert).wrap_bio(to_client, to_server)
    server = Tls(other.cert, other.key).context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError):
        client.do_handshake()
