"""How clients on this machine reach the server that these settings describe."""

from __future__ import annotations

from vllm_engine.client.api_client import Server
from vllm_engine.config.own_address import own_url
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.http.tls import client_context
from vllm_engine.gateway.policy.auth import words


def local_server(settings: Settings, api_key: str | None = None) -> Server:
    """Return the server at `HOST` and `PORT`; its own key is used unless one is given.

    The certificate in `TLS_CERT_FILE` is trusted, and no other: it is the server's own.

    Raises:
        SettingsError: the certificate cannot be read.
    """
    cert = settings.tls_cert_file
    try:
        tls = client_context(cert) if cert else None
    except OSError as error:
        raise SettingsError([Problem("TLS_CERT_FILE", str(cert), f"cannot be used ({error})")]) from error
    return Server(own_url(settings), api_key or _key(settings), tls)


def _key(settings: Settings) -> str | None:
    text = settings.api_keys.get_secret_value() if settings.api_keys else ""
    keys = (entry.partition(":")[2] or entry for entry in words(text))
    # A key that is given by its hash is not known.
    return next((key for key in keys if not key.startswith("sha256:")), None)
