"""Which values of an environment are secret, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

HIDDEN = "***"
MIN_SECRET_LENGTH = 8
"""Shorter secrets are not blanked in the log: that would blank half of it."""

_SECRET_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL)"
    r"(?!\w*_(?:FILE|PATH|DIR|URL|ID|NAME)$)"
    r"|TOKEN(?:_?\d+)?$|OTLP_(?:\w+_)?HEADERS$"
)
_PASSWORD = re.compile(r"(?<=://)([^\s/]*)@")
"""Up to the last @ before the path, as curl and requests read it: many passwords contain one."""


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a token, a key or a password."""
    return _SECRET_NAME.search(name.upper()) is not None


def masked(name: str, value: str) -> str:
    """Return a variable's value as it may be shown: nothing of a secret, no user and password of a URL."""
    return HIDDEN if is_secret_name(name) else without_passwords(value)


def without_passwords(text: str) -> str:
    """Return a text with user and password of each URL in it blanked."""
    return _PASSWORD.sub(f"{HIDDEN}@", text)


def mask_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with tokens, keys and passwords blanked."""
    return {name: masked(name, value) for name, value in environ.items()}


def secrets_in_environment(environ: Mapping[str, str]) -> list[str]:
    """Return every value that logs must not show, as it is written and as programs decode it.

    Those are the values of variables with a secret's name, the words of trace exporters' headers, and
    passwords in URLs, such as a proxy's. Paths, and what is too short, are left out.
    """
    found = [part for name, value in environ.items() for part in _secret_parts(name, value)]
    whole = {form for part in found for form in (part, unquote(part))}
    return sorted(form for form in whole if len(form) >= MIN_SECRET_LENGTH)


def _secret_parts(name: str, value: str) -> Iterator[str]:
    if is_secret_name(name):
        if name.upper().endswith("HEADERS"):
            for header in value.split(","):
                yield from unquote(header.partition("=")[2]).split()
                yield header.partition("=")[2].strip()
        elif not value.startswith(("/", "~", "./")):
            yield value
    for match in _PASSWORD.finditer(value):
        yield match[1].partition(":")[2]
