"""What the values of settings may be: each type refuses, with a ValueError, what is not legal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
"""As browsers write one: in lower case (RFC 6454, section 6.2), and of apps too, such as tauri://localhost."""
_WORD = re.compile(r"[!-~]+")


def looks_local(model_id: str) -> bool:
    """Whether a `MODEL_ID` is a path: it starts like one, or such a folder exists."""
    return model_id.startswith(("/", "./", "../", "~")) or Path(model_id).is_dir()


def _or_auto(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    return value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError as error:  # there is no home
        raise ValueError from error


def _model_id(value: str) -> str:
    value = value.strip()
    if looks_local(value) or value.startswith("bundled:") or _HUB_ID.fullmatch(value):
        return value
    raise ValueError


def _one_word(value: SecretStr | None) -> SecretStr | None:
    # It goes into a header: what cannot stand there is shown by the hub's client, token and all.
    if value is not None and not _WORD.fullmatch(value.get_secret_value()):
        raise ValueError
    return value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    if value == ("*",) or all(map(_ORIGIN.fullmatch, value)):
        return value
    raise ValueError


def _plain_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc:
        raise ValueError
    return value


Lower = BeforeValidator(_lower)
"""For words of a fixed list: written in any case."""
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""Words that blanks or commas separate."""

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
CountOrAuto = Annotated[Count | Literal["auto"], BeforeValidator(_or_auto)]
BoolOrAuto = Annotated[bool | Literal["auto"], BeforeValidator(_or_auto)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]

HomePath = Annotated[Path, AfterValidator(_expanded)]
"""A path that may begin with `~`: no shell expands what comes from a file or a manifest."""
ModelId = Annotated[str, AfterValidator(_model_id)]
"""A hub id, a path, or the name of a bundled model."""
HubToken = Annotated[SecretStr | None, AfterValidator(_one_word)]
Origins = Annotated[Words, AfterValidator(_origins)]
PlainUrl = Annotated[str, AfterValidator(_plain_url)]
"""An http or https URL without user and password."""
