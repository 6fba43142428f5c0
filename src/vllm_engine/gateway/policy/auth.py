"""API keys: who may use the engine.

Only SHA-256 digests are kept. A given key is hashed and compared with all of them, each in constant time: how
long that takes tells nothing about a key's length, content or position. Plain SHA-256 is enough because keys
are random; it would not be for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vllm_engine.gateway.http.followed_files import (
    MAX_FILE_BYTES,
    FollowedFiles,
    UnusableFileError,
    read_file,
)
from vllm_engine.gateway.rejection import Rejected

CREDENTIAL_HEADERS = frozenset((b"authorization", b"x-api-key"))
"""Where clients put keys; the engine does not get them once the gateway has checked them."""

FILE_CHECK_SECONDS = 1.0
"""A change of the keys file takes effect after this long at most, with the next request."""

MIN_KEY_LENGTH = 8

_TEXT = "API_KEYS"
_FILE = "API_KEYS_FILE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!#-&(-~]+")
"""Visible ASCII without quotes: a quote is nearly always one that `--env-file` kept."""
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9A-Fa-f]{64}")

logger = logging.getLogger("gateway.auth")


class KeysError(ValueError):
    """The configured keys cannot be used; names the setting, entry or line, and never shows a key."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


@dataclass(frozen=True, slots=True)
class Key:
    """The name that logs and metrics show for a key, and its SHA-256 digest."""

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Entry:
    setting: str
    place: str
    text: str = field(repr=False)

    def wrong(self, problem: str) -> KeysError:
        return KeysError(self.setting, f"{self.place}: {problem}")


def words(text: str) -> list[str]:
    """Split `API_KEYS` into its entries."""
    return text.replace(",", " ").split()


def parse_keys(text: str) -> tuple[Key, ...]:
    """Read `API_KEYS`: entries `name:key`, `name:sha256:<hex>` or `key`, split by commas or white space.

    An entry without a name is called `key-N` after its position. Only the first colon separates: a key that
    contains one needs a name.

    Raises:
        KeysError: there is no entry, or one has an invalid or repeated name, or a key that is too short,
            repeated, or cannot be sent in a header.
    """
    entries = words(text)
    if not entries:
        raise KeysError(_TEXT, "expected at least one key, got none")
    return _distinct(_Entry(_TEXT, f"entry {at}", entry) for at, entry in enumerate(entries, 1))


def secrets_in(entries: Iterable[str]) -> list[str]:
    """Return the keys and digests in entries of `API_KEYS` or lines of a keys file, valid or not.

    What is too short to be a key is left out: hiding it would hide half of the log.
    """
    found = (_split_entry(entry)[1].removeprefix(_HASH_PREFIX) for entry in entries)
    return [secret for secret in found if len(secret) >= MIN_KEY_LENGTH]


class Keyring(Container[str]):
    """The keys that are valid now, a container of their names; follows its file when that changes.

    `text` is `API_KEYS`; `file` is `API_KEYS_FILE`, whose keys are valid too: one without keys denies
    everybody. `hide` is told what the logs must not show.

    Raises:
        KeysError: see `parse_keys`; or the file cannot be read.
    """

    def __init__(
        self,
        text: str | None,
        file: Path | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        hide: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        self.is_open = not text and file is None
        """Whether no keys were asked for, so that everybody may pass."""
        self._fixed = parse_keys(text) if text else ()
        self._hide = hide
        self._followed: FollowedFiles[tuple[Key, ...]] | None = None
        if file is not None:
            self._followed = FollowedFiles(
                (file,),
                lambda: self._with_file(file),
                check_seconds=FILE_CHECK_SECONDS,
                clock=clock,
                logger=logger,
                kept="the previous keys stay valid",
                on_change=lambda keys: logger.info(
                    "%s has changed: %d key(s) are valid now", _FILE, len(keys)
                ),
            )

    @property
    def _keys(self) -> tuple[Key, ...]:
        return self._fixed if self._followed is None else self._followed.current()

    def __contains__(self, name: object) -> bool:
        return any(key.name == name for key in self._keys)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the name of the key that a request's ASGI headers carry.

        A key comes as `Authorization: Bearer KEY` (RFC 6750, section 2.1; the scheme in any case, RFC 9110,
        section 11.1) or as `x-api-key: KEY` (Anthropic's clients). A request that repeats one of these, uses
        another scheme, or has a different key in each is refused: a proxy on the way may have taken the other
        one for the client's.

        Raises:
            Rejected: it carries no valid key (401).
        """
        given = _given_digest(headers)
        found = None
        for key in self._keys:
            if given is not None and hmac.compare_digest(given, key.digest):
                found = key.name  # no break: the time taken must not show where the match stands
        if found is None:
            challenge = [(b"www-authenticate", b"Bearer")]
            raise Rejected(401, "unauthorized", "Missing or wrong API key", headers=challenge)
        return found

    def _with_file(self, file: Path) -> tuple[Key, ...]:
        lines = enumerate(map(str.strip, _content(file).split("\n")), 1)
        entries = {f"line {at}": line for at, line in lines if line and not line.startswith("#")}
        self._hide(secrets_in(entries.values()))
        return _distinct((_Entry(_FILE, *entry) for entry in entries.items()), self._fixed)


def _given_digest(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in CREDENTIAL_HEADERS:
            key = _bearer(value) if name == b"authorization" else value.strip(b" \t")
            if name in given or not key:
                return None
            given[name] = hashlib.sha256(key).digest()
    digests = list(given.values())
    if not digests or not hmac.compare_digest(digests[0], digests[-1]):
        return None
    return digests[0]


def _bearer(value: bytes) -> bytes:
    scheme, _, key = value.strip(b" \t").partition(b" ")
    return key.lstrip(b" ") if scheme.lower() == b"bearer" else b""


def _content(file: Path) -> str:
    try:
        return read_file(_FILE, file, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnusableFileError as error:
        raise KeysError(error.setting, error.problem) from None
    except UnicodeDecodeError:
        raise KeysError(_FILE, "cannot be read (not UTF-8 text)") from None  # the error shows what it read


def _distinct(entries: Iterable[_Entry], before: tuple[Key, ...] = ()) -> tuple[Key, ...]:
    keys = list(before)
    names = {key.name for key in before}
    digests = {key.digest for key in before}
    for entry in entries:
        key = _key(entry, f"key-{len(keys) + 1}")
        # The name is not shown: it is half of a key where a colon was meant as part of one.
        if key.name in names:
            raise entry.wrong("an earlier key has the same name")
        if key.digest in digests:
            raise entry.wrong("an earlier entry has the same key")
        keys.append(key)
        names.add(key.name)
        digests.add(key.digest)
    return tuple(keys)


def _split_entry(text: str) -> tuple[str | None, str]:
    if text.startswith(_HASH_PREFIX) or ":" not in text:
        return None, text
    name, secret = text.split(":", 1)
    return name, secret


def _key(entry: _Entry, default_name: str) -> Key:
    given, secret = _split_entry(entry.text)
    name = default_name if given is None else given
    if not _NAME.fullmatch(name):
        raise entry.wrong("expected a name of up to 64 letters, digits, '.', '_' or '-' before the first ':'")
    if secret.startswith(_HASH_PREFIX):
        digest = secret.removeprefix(_HASH_PREFIX)
        if not _HASH.fullmatch(digest):
            raise entry.wrong("expected 64 hexadecimal digits after sha256:")
        return Key(name, bytes.fromhex(digest))
    if len(secret) < MIN_KEY_LENGTH:
        raise entry.wrong(f"expected a key of at least {MIN_KEY_LENGTH} characters")
    if not _KEY.fullmatch(secret):
        raise entry.wrong("expected a key of visible ASCII characters, without quotes or spaces")
    return Key(name, hashlib.sha256(secret.encode()).digest())
