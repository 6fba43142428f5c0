"""Certificates made for a test."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import trustme


class Certificate:
    """A certificate's file and its key's, as a server has them, and whom clients must trust for it."""

    def __init__(
        self, folder: Path, name: str = "server", *, expired: bool = False, rsa: bool = False
    ) -> None:
        self.cert, self.key, self.authority = folder / f"{name}.pem", folder / f"{name}.key", trustme.CA()
        self.renew(expired=expired, rsa=rsa)

    def renew(self, *, expired: bool = False, rsa: bool = False) -> None:
        """Write another certificate and key into the same files."""
        kind = trustme.KeyType.RSA if rsa else trustme.KeyType.ECDSA
        year = 2020 if expired else datetime.now(UTC).year + 2
        made = self.authority.issue_cert(
            "127.0.0.1",
            "localhost",
            key_type=kind,
            not_before=datetime(2019, 1, 1, tzinfo=UTC),
            not_after=datetime(year, 1, 1, tzinfo=UTC),
        )
        self.cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())
