"""How clients on this machine reach the server that these settings describe."""

from __future__ import annotations

from vllm_engine.client.api_client import Server
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.http.tls import client_context
from vllm_engine.gateway.policy.auth import words


def local_server(settings: Settings, api_key: str | None = None) -> Server:
    """Return the server at `HOST` and `PORT`, with its own key and certificate unless a key is given.

    Raises:
        SettingsError: the certificate cannot be read.
    """
    cert = settings.tls_cert_file
    try:
        tls = client_context(cert) if cert else None
    except OSError as error:
        raise SettingsError([Problem("TLS_CERT_FILE", str(cert), f"cannot be used ({error})")]) from error
    url = client_url(settings.host, settings.port, is_tls=cert is not None)
    return Server(url, api_key or first_key(settings), tls)


def first_key(settings: Settings) -> str | None:
    """Return the first of `API_KEYS` that is known in full rather than by its hash."""
    text = settings.api_keys.get_secret_value() if settings.api_keys else ""
    keys = (entry.partition(":")[2] or entry for entry in words(text))
    return next((key for key in keys if not key.startswith("sha256:")), None)


def client_url(host: str, port: int, *, is_tls: bool = False) -> str:
    """Return the URL by which a client on this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - a look-up, no binding
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"{'https' if is_tls else 'http'}://{reachable}:{port}"
