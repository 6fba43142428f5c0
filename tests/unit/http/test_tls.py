"""TLS: unusable certificates are refused with a remedy, and changed ones are followed without a gap."""

from __future__ import annotations

import logging
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.certificates import Certificate
from vllm_engine.config.settings import Settings
from vllm_engine.errors import SettingsError
from vllm_engine.gateway.http.followed_files import UnusableFileError
from vllm_engine.gateway.http.listening_sockets import load_tls
from vllm_engine.gateway.http.tls import FILE_CHECK_SECONDS, Tls, client_context

DAY = 86_400.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


def handshake(client: ssl.SSLContext, tls: Tls, names: str | None = None) -> ssl.SSLObject:
    """Connect as a client does; returns its end of the connection."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    connected = client.wrap_bio(to_client, to_server, server_hostname=names)
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    for end in (connected, server) * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return connected


def careless() -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return client


def presented(tls: Tls, names: str | None = None) -> bytes | None:
    """Connect as a client does; returns the certificate that the server shows."""
    return handshake(careless(), tls, names).getpeercert(binary_form=True)


def leaf(files: Certificate) -> bytes:
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(files.cert.read_text().partition(end)[0] + end)


@pytest.mark.parametrize("rsa", [False, True])
def test_what_is_agreed_on_with_clients(tmp_path: Path, rsa: bool) -> None:
    """TLS 1.3, or 1.2 with each of Mozilla's ciphers for the key; with CBC, or without forward secrecy, none."""
    files = Certificate(tmp_path, rsa=rsa)
    tls = Tls(files.cert, files.key)
    assert presented(tls) == presented(tls, "any.example") == leaf(files)
    client = careless()
    assert handshake(client, tls).version() == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    kind = "RSA" if rsa else "ECDSA"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
        client.set_ciphers(f"ECDHE-{kind}-{cipher}")
        assert (handshake(client, tls).cipher() or "")[0] == f"ECDHE-{kind}-{cipher}"
    weak = (f"ECDHE-{kind}-AES256-SHA384", f"ECDHE-{kind}-AES128-SHA", "AES128-GCM-SHA256", "AES256-SHA")
    for cipher in weak:
        client.set_ciphers(cipher)
        with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
            handshake(client, tls)
    assert tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {cipher["protocol"] for cipher in tls.context.get_ciphers()} == {"TLSv1.2", "TLSv1.3"}
    # Nothing of a connection is kept for the next, and a connection's keys are agreed on once.
    assert tls.context.num_tickets == 0
    for option in (ssl.OP_NO_TICKET, ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION):
        assert tls.context.options & option


def test_groups(files: Certificate) -> None:
    """No curve but those of the profile, and no finite field, whose 8192 bits cost 140 ms a handshake."""
    tls = Tls(files.cert, files.key)
    client = careless()
    for group in ("ffdhe2048", "ffdhe8192", "X448", "secp521r1"):
        client.set_ecdh_curve(group)
        with pytest.raises(ssl.SSLError, match="NO_SUITABLE_KEY_SHARE"):
            handshake(client, tls)
    client.set_ecdh_curve("prime256v1")  # the one that every client has
    assert handshake(client, tls).version() == "TLSv1.3"


def test_unusable_files(files: Certificate, tmp_path: Path) -> None:
    """Each is refused at the start by its setting, not by every client later."""
    junk, encrypted = tmp_path / "junk", tmp_path / "encrypted"
    junk.write_text("junk")
    encrypt = f"openssl pkey -aes256 -passout pass:x -in {files.key} -out {encrypted}"
    subprocess.run(encrypt.split(), check=True, capture_output=True)
    other, rsa = Certificate(tmp_path, "other"), Certificate(tmp_path, "rsa", rsa=True)
    expired = Certificate(tmp_path, "expired", expired=True)
    for cert, key, problem in (
        (tmp_path / "none", files.key, "TLS_CERT_FILE: cannot be read .No such file"),
        (files.cert, tmp_path / "none", "TLS_KEY_FILE: cannot be read .No such file"),
        (tmp_path, files.key, "TLS_CERT_FILE: cannot be read .not a regular file"),
        (junk, files.key, "TLS_CERT_FILE: is not a certificate"),
        (files.key, files.key, "TLS_CERT_FILE: is not a certificate"),
        (files.cert, junk, "TLS_KEY_FILE: is not a private key"),
        (files.cert, encrypted, "TLS_KEY_FILE: is encrypted; expected a key without a passphrase"),
        (files.cert, other.key, "TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE"),
        (files.cert, rsa.key, "TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE"),
        (expired.cert, expired.key, r"TLS_CERT_FILE: expired at .* UTC; expected"),
    ):
        with pytest.raises(UnusableFileError, match=problem):
            Tls(cert, key)
    with pytest.raises(UnusableFileError, match=r"TLS_CERT_FILE: is not valid before .* UTC; check"):
        Tls(files.cert, files.key, now=lambda: 1_000_000.0)


def test_one_without_the_other(files: Certificate) -> None:
    assert load_tls(Settings()) is None
    for cert, key, problem in (
        (files.cert, None, r'TLS_KEY_FILE="": .*set both or neither'),
        (None, files.key, r'TLS_CERT_FILE="": .*set both or neither'),
        (files.cert, files.cert, r"TLS_KEY_FILE=.*server.pem.*: is not a private key"),
    ):
        with pytest.raises(SettingsError, match=problem):
            load_tls(Settings(TLS_CERT_FILE=cert, TLS_KEY_FILE=key))


def test_reload(files: Certificate, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New connections get a new certificate; one whose key has not come yet changes nothing and is said once."""
    clock = Clock()
    tls = Tls(files.cert, files.key, clock)
    before = presented(tls)
    files.renew()
    assert presented(tls) == before
    clock.now += FILE_CHECK_SECONDS
    assert (after := presented(tls)) == leaf(files) != before
    other = Certificate(tmp_path, "other")
    for broken in (other.cert.read_bytes(), b"junk", None):
        caplog.clear()
        if broken is None:
            files.cert.unlink()
        else:
            files.cert.write_bytes(broken)
        for _ in range(3):
            clock.now += FILE_CHECK_SECONDS
            assert presented(tls) == after
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "the previous certificate stays in use" in caplog.text
    files.renew()
    clock.now += FILE_CHECK_SECONDS
    assert presented(tls) == leaf(files)
    with pytest.raises(
        ssl.SSLCertVerificationError
    ):  # what we ask ourselves goes to our own certificate alone
        handshake(client_context(other.cert), tls)


def test_an_expiry_is_warned_of_once_a_day(files: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    """In the last sixth of a short life, or the last two weeks; as an error from the end on."""
    clock = Clock()
    clock.now = datetime.now(UTC).timestamp()
    start, end = (datetime.fromtimestamp(round(clock.now + days * DAY), UTC) for days in (-1, 5))
    made = files.authority.issue_cert("127.0.0.1", not_before=start, not_after=end)
    files.cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    files.key.write_bytes(made.private_key_pem.bytes())
    tls = Tls(files.cert, files.key, clock, lambda: clock.now)
    tls.warn_of_expiry()
    assert not caplog.records
    clock.now += 4.5 * DAY
    tls.warn_of_expiry()
    assert "(0.5 days left)" in caplog.text
    caplog.clear()
    files.renew()
    clock.now += FILE_CHECK_SECONDS
    tls.warn_of_expiry()
    expiry = tls.expiry()
    assert expiry == datetime(datetime.now(UTC).year + 2, 1, 1, tzinfo=UTC).timestamp()
    clock.now = expiry - 20 * DAY
    for _ in range(24 * 22):
        tls.warn_of_expiry()
        clock.now += 3600
    assert [one.levelno for one in caplog.records] == [logging.WARNING] * 14 + [logging.ERROR] * 2
    assert "01-01 00:00 UTC (14.0 days left)" in caplog.messages[0]
    assert "clients refuse it" in caplog.messages[-1]
