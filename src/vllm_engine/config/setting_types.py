"""The types of settings: pydantic's constraints, and for messages and docs what a legal value looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Legal:
    """What a legal value of a type or a setting looks like, in words; of several the outermost counts."""

    text: str


def legal_values(field: FieldInfo) -> str:
    """Return what a legal value of a field looks like, as its type says."""
    found = [each.text for each in field.metadata if isinstance(each, Legal)]
    return found[-1] if found else next(_legal(field.annotation), "")


def _legal(annotation: Any) -> Iterator[str]:
    for each in reversed(getattr(annotation, "__metadata__", ())):
        if isinstance(each, Legal):
            yield each.text
    if annotation is bool:
        yield "1 or 0"
    elif get_origin(annotation) is Literal:
        *words, last = get_args(annotation)
        yield f"{', '.join(words)} or {last}"
    else:
        for part in get_args(annotation):
            yield from _legal(part)


def looks_local(model_id: str) -> bool:
    """Whether a `MODEL_ID` is a path: it starts like one, or such a folder exists."""
    return model_id.startswith(("/", "./", "../", "~")) or Path(model_id).is_dir()


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError as error:  # there is no home
        raise ValueError from error


def _one_word(value: SecretStr) -> SecretStr:
    # It goes into a header: what cannot stand there is shown by the hub's client, token and all.
    if all("!" <= letter <= "~" for letter in value.get_secret_value()):
        return value
    raise ValueError


Lower = BeforeValidator(_lower)
"""For words of a fixed list: written in any case."""
Words = Annotated[
    tuple[str, ...], BeforeValidator(_words), Legal("one or more names, separated by spaces or commas")
]

Count = Annotated[int, Field(ge=1), Legal("a whole number from 1")]
CountOrZero = Annotated[int, Field(ge=0), Legal("a whole number from 0")]
Limit = Annotated[int, Field(ge=0), Legal("a whole number, 0 for no limit")]
CountOrAuto = Annotated[Count | Literal["auto"], Lower, Legal("a whole number from 1, or auto")]
BoolOrAuto = Annotated[bool | Literal["auto"], Lower, Legal("1, 0 or auto")]
Fraction = Annotated[float, Field(gt=0, le=1), Legal("a fraction above 0 and up to 1")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Legal("seconds above 0")]
SecondsOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False), Legal("seconds from 0")]
SecondsOrNever = Annotated[float, Field(ge=0, allow_inf_nan=False), Legal("seconds, 0 for never")]
Port = Annotated[int, Field(ge=1, le=65535), Legal("a port number from 1 to 65535")]

HostName = Annotated[
    str,
    # A name or an IPv4 address, or an IPv6 address without brackets.
    StringConstraints(
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)$"
    ),
    Legal("an IP address or a host name, without a port"),
]

HomePath = Annotated[Path, AfterValidator(_expanded)]
"""A path that may begin with `~`: no shell expands what comes from a file or a manifest."""

_HubId = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")]
_Bundled = Annotated[str, StringConstraints(strip_whitespace=True, pattern="^bundled:")]


def _is_local(value: str) -> str:
    if looks_local(value):
        return value
    raise ValueError


_LocalModel = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_is_local)]
ModelId = Annotated[
    _HubId | _Bundled | _LocalModel,
    Legal("a hub id (org/name), a local folder, or bundled:smollm2-135m-instruct"),
]
HubToken = Annotated[SecretStr, AfterValidator(_one_word), Legal("a hub access token")]

_Origin = Annotated[
    str,
    # As browsers write one: in lower case (RFC 6454, section 6.2), and of apps too, as tauri://localhost.
    StringConstraints(pattern=r"^[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"),
]
Origins = Annotated[
    tuple[Literal["*"]] | tuple[_Origin, ...],
    BeforeValidator(_words),
    Legal("origins such as https://app.example.com, without a path or a slash at the end, or * for all"),
]
PlainUrl = Annotated[
    str,
    # Scheme, host or [IPv6], port, then whatever follows.
    StringConstraints(pattern=r"^(?i:https?)://([^\s\[\]:/?#@]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?([/?#].*)?$"),
    Legal("an http:// or https:// URL without user and password, such as http://collector:4318"),
]
