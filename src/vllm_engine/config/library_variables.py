"""Checks the variables that libraries read by themselves: the files and folders they name must exist."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from vllm_engine.config.redaction import masked
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError

MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket, in bytes (unix(7): `sun_path` has 108, the last of them zero)."""

_ROOM = len("/vllm-engine-12345678/01234567-89ab-cdef-0123-456789abcdef")
"""The longest of the sockets in our folder: vLLM names those between its processes by UUIDs."""

_HUB_URL = re.compile(r"https?://[^\s/?#]+(/\S*)?", re.IGNORECASE)
_CA_FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
AUTHORITIES = (*_CA_FILES, "SSL_CERT_DIR")
"""Variables that name certificate authorities, read by OpenSSL, requests, httpx and curl."""


def check_hub_access(settings: Settings, environ: Mapping[str, str]) -> tuple[list[Problem], list[str]]:
    """Check the hub's address and the certificate authorities that the environment names.

    Returns problems and warnings: what stops the hub's client is a problem where the model comes from the
    hub, and else a warning.
    """
    found = [problem for name in _CA_FILES if (problem := _unusable_authorities(name, environ.get(name, "")))]
    folders = environ.get("SSL_CERT_DIR", "")
    if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
        found.append(Problem("SSL_CERT_DIR", folders, "does not exist; correct it, or unset SSL_CERT_DIR"))
    endpoint = environ.get("HF_ENDPOINT", "")
    if endpoint and not _HUB_URL.fullmatch(endpoint):
        wanted = "expected an http:// or https:// URL such as https://huggingface.co, or nothing"
        found.append(Problem("HF_ENDPOINT", masked("HF_ENDPOINT", endpoint), wanted))
    is_local = settings.is_local_model or settings.model_id.startswith("bundled:")
    if is_local or is_hub_offline(environ):
        return [], [str(problem) for problem in found]
    return found, []


def is_hub_offline(environ: Mapping[str, str]) -> bool:
    """Whether the hub must not be asked, as huggingface_hub reads its variables (`constants.py`)."""
    offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
    return offline.lower() in ("1", "true", "yes", "on")


def _unusable_authorities(name: str, value: str) -> Problem | None:
    path = Path(value)
    if not value or (path.is_dir() and name != "SSL_CERT_FILE"):
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return Problem(name, value, f"contains no certificate; correct it, or unset {name}")
    except OSError as error:
        return Problem(name, value, f"{(error.strerror or str(error)).lower()}; correct it, or unset {name}")
    return None


def check_propagators(process: Mapping[str, str]) -> list[Problem]:
    """List what `OTEL_PROPAGATORS` names and OpenTelemetry's library lacks: FastAPI could not be imported.

    `process` is the process environment: the library does not read `.env`.
    """
    value = process.get("OTEL_PROPAGATORS", "")
    if not value or "none" in value.lower():
        return []
    known = {"none"} | {each.name for each in entry_points(group="opentelemetry_propagator")}
    missing = [name for name in (each.strip() for each in value.split(",")) if name not in known]
    if not missing:
        return []
    wanted = f"no propagator {missing[0]!r} is installed, only {', '.join(sorted(known))}; correct it"
    return [Problem("OTEL_PROPAGATORS", value, wanted)]


def divides_preload(path: str) -> bool:
    """Whether `LD_PRELOAD` cannot hold a path, as it is divided there (ld.so(8)).

    vLLM's CPU build names a library there that is below its own folder.
    """
    return any(each in path for each in " :\t\n")


def temporary_roots() -> tuple[Path, Path]:
    """Return the folder for sockets and links and that for temporary files: `TMPDIR`, or else `/tmp`.

    They differ where `TMPDIR` is too long for the path of a Unix socket, or has a space in it.

    Raises:
        SettingsError: none can be written.
    """
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        remedy = "no folder for temporary files can be written; set TMPDIR to one that can"
        raise SettingsError([Problem("TMPDIR", "", remedy)]) from error
    is_short = len(os.fsencode(folder)) + _ROOM <= MAX_SOCKET_PATH
    if is_short and not divides_preload(folder):
        return Path(folder), Path(folder)
    if os.access("/tmp", os.W_OK | os.X_OK):  # noqa: S108 - folders are made in it with mkdtemp
        return Path("/tmp"), Path(folder)  # noqa: S108
    if is_short:
        return Path(folder), Path(folder)
    most = MAX_SOCKET_PATH - _ROOM
    raise SettingsError([Problem("TMPDIR", folder, f"too long for Unix sockets; at most {most} bytes")])


def check_temporary(environ: Mapping[str, str]) -> list[str]:
    """Warn where `TMPDIR` cannot be used: Python then silently takes another folder."""
    named = environ.get("TMPDIR")
    if not named or os.access(named, os.W_OK | os.X_OK):
        return []
    return [f"TMPDIR={named} is not a writable folder; {tempfile.gettempdir()} is used"]
