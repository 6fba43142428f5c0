"""API keys: who may use the engine.

Only SHA-256 digests are kept. A given key is hashed and compared with every one of them, to the end and
each in constant time: how long an answer takes says nothing of a key's length, content or place in the
list. Plain SHA-256 is enough because keys are random; it would not be for passwords people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vllm_engine.gateway.http.followed_files import Fingerprint, fingerprint
from vllm_engine.gateway.rejection import Rejected

CREDENTIAL_HEADERS = frozenset((b"authorization", b"x-api-key"))
"""Where clients put keys; not for the engine to see once the gateway has checked them."""

FILE_CHECK_SECONDS = 1.0
"""A change of the keys file counts after this long at most, from the next request on."""

MIN_KEY_LENGTH = 8
MAX_FILE_BYTES = 1 << 20

_TEXT = "API_KEYS"
_FILE = "API_KEYS_FILE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!#-&(-~]+")
"""Visible ASCII without quotes: a quote here is nearly always one that `--env-file` kept."""
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9A-Fa-f]{64}")

logger = logging.getLogger("gateway.auth")


class KeysError(ValueError):
    """The configured keys cannot be used; says of which setting, entry or line, and never shows a key."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting = setting
        self.problem = problem
        super().__init__(f"{setting}: {problem}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key: the name that logs and metrics show, and its SHA-256 digest."""

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

    An entry without a name is called `key-N` after its place in the list. Only the first colon
    separates: a key that has one itself needs a name.

    Raises:
        KeysError: there is no entry, or one has an illegal or repeated name, or a key that is too
            short, repeated, or holds what cannot stand in a header.
    """
    entries = words(text)
    if not entries:
        raise KeysError(_TEXT, "no key in it")
    return _distinct(_Entry(_TEXT, f"entry {at}", entry) for at, entry in enumerate(entries, 1))


def secrets_in(entries: Iterable[str]) -> list[str]:
    """Return the keys and digests in entries of `API_KEYS` or lines of a keys file, right or wrong ones.

    What is too short to be a key is left out: blanking it would blank half of the log.
    """
    found = (_halves(entry)[1].removeprefix(_HASH_PREFIX) for entry in entries)
    return [secret for secret in found if len(secret) >= MIN_KEY_LENGTH]


class Keyring:
    """The keys that are valid now; follows its file when that changes."""

    def __init__(
        self,
        fixed: tuple[Key, ...] | None,
        file: Path | None,
        clock: Callable[[], float] = time.monotonic,
        hide: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> None:
        """Take the fixed keys, and a file of more; `hide` is told what the logs must not show."""
        self._is_open = fixed is None and file is None
        self._fixed = fixed or ()
        self._file = file
        self._clock = clock
        self._hide = hide
        self._keys = self._fixed
        self._seen: Fingerprint = None
        self._complaint = ""
        self._next_check = clock() + FILE_CHECK_SECONDS
        if file is not None:
            self._seen = fingerprint(file)
            self._keys = self._with_file(file)

    @classmethod
    def load(
        cls,
        keys_text: str | None,
        keys_file: Path | None,
        hide: Callable[[Iterable[str]], None] = lambda _: None,
    ) -> Keyring:
        """Read `API_KEYS` and `API_KEYS_FILE`; the keys of both are valid.

        An empty file, or one of comments only, is a list of nobody: everybody is denied.

        Raises:
            KeysError: see `parse_keys`; or the file cannot be read.
        """
        return cls(parse_keys(keys_text) if keys_text else None, keys_file, hide=hide)

    @property
    def is_open(self) -> bool:
        """Whether no keys were ever asked for, so that everybody may pass."""
        return self._is_open

    @property
    def names(self) -> KeyNames:
        """The names of the valid keys, as they are now whenever asked."""
        return KeyNames(self)

    def has_name(self, name: object) -> bool:
        """Whether a valid key has this name."""
        return any(key.name == name for key in self._keys)

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the name of the key that a request carries; see `authenticate`.

        Raises:
            Rejected: it carries none that is valid (401).
        """
        name = self.authenticate(headers)
        if name is None:
            challenge = [(b"www-authenticate", b"Bearer")]
            raise Rejected(401, "unauthorized", "Missing or wrong API key", headers=challenge)
        return name

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the name of the key that a request carries, or None where it may not pass.

        A key comes as `Authorization: Bearer KEY` (RFC 6750, section 2.1; the scheme in any case, RFC
        9110, section 11.1) or as `x-api-key: KEY` (Anthropic's clients). A request that repeats one of
        these headers, uses another scheme, or gives a different key in each is refused: some proxy on
        the way may have taken the other one for the client's.

        Args:
            headers: as ASGI gives them, the names in lower case.
        """
        self._follow_file()
        given = _given_digest(headers)
        if given is None:
            return None
        found = None
        for key in self._keys:
            if hmac.compare_digest(given, key.digest):
                found = key.name  # no break: where the match stands must not show
        return found

    def _follow_file(self) -> None:
        if self._file is None or (now := self._clock()) < self._next_check:
            return
        self._next_check = now + FILE_CHECK_SECONDS
        # Taken before the file is read: if it changes in between, the next check sees another one.
        found = fingerprint(self._file)
        if found == self._seen:
            self._complaint = ""
            return
        try:
            keys = self._with_file(self._file)
        except KeysError as error:
            # Tried again at each check, as what cannot be read now may be readable later; said once.
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("%s; the keys of before stay valid", error)
            return
        self._keys, self._seen, self._complaint = keys, found, ""
        logger.info("%s has changed: %d keys are valid now", _FILE, len(keys))

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
        if not stat.S_ISREG(file.stat().st_mode):
            raise KeysError(_FILE, "cannot be read (not a file)")
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysError(_FILE, f"cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise KeysError(_FILE, f"cannot be read (larger than {MAX_FILE_BYTES} bytes)")
    try:
        return content.decode("utf-8-sig")
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
            raise entry.wrong("its name is taken by an earlier key")
        if key.digest in digests:
            raise entry.wrong("the same key as an earlier one")
        keys.append(key)
        names.add(key.name)
        digests.add(key.digest)
    return tuple(keys)


def _halves(text: str) -> tuple[str | None, str]:
    if text.startswith(_HASH_PREFIX) or ":" not in text:
        return None, text
    name, secret = text.split(":", 1)
    return name, secret


def _key(entry: _Entry, default_name: str) -> Key:
    given, secret = _halves(entry.text)
    name = default_name if given is None else given
    if not _NAME.fullmatch(name):
        raise entry.wrong("wanted a name of up to 64 letters, digits, '.', '_' or '-' before the first ':'")
    if secret.startswith(_HASH_PREFIX):
        digest = secret.removeprefix(_HASH_PREFIX)
        if not _HASH.fullmatch(digest):
            raise entry.wrong("wanted 64 hexadecimal digits after sha256:")
        return Key(name, bytes.fromhex(digest))
    if len(secret) < MIN_KEY_LENGTH:
        raise entry.wrong(f"wanted a key of at least {MIN_KEY_LENGTH} characters")
    if not _KEY.fullmatch(secret):
        raise entry.wrong("wanted a key of visible ASCII characters, without quotes or spaces")
    return Key(name, hashlib.sha256(secret.encode()).digest())


class KeyNames(Container[str]):
    """The names of a keyring's keys, following it as it changes."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def __contains__(self, name: object) -> bool:
        return self._keyring.has_name(name)
