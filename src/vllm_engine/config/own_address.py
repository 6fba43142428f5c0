"""How this machine reaches the server that these settings describe."""

from __future__ import annotations

from vllm_engine.config.settings import Settings


def own_url(settings: Settings) -> str:
    """Return the URL of `PORT`."""
    return f"{'https' if settings.tls_cert_file else 'http'}://{_own_host(settings)}:{settings.port}"


def health_url(settings: Settings) -> str:
    """Return the URL of `/healthz`: on `HEALTH_PORT` where there is one, since that is never TLS."""
    port = settings.health_port
    return f"{f'http://{_own_host(settings)}:{port}' if port else own_url(settings)}/healthz"


def _own_host(settings: Settings) -> str:
    # Whoever listens on every address is reached by loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
