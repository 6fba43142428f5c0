"""API keys: the right ones pass, from either header; changes count; nothing shows a key."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_engine.gateway.policy.auth import (
    CREDENTIAL_HEADERS,
    FILE_CHECK_SECONDS,
    Keyring,
    KeysError,
    parse_keys,
    secrets_in,
)

ALICE = "alices-secret-key"
BOB = "bobs-secret-key"
CAROL = "carols-secret-key"


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    """Headers as OpenAI's clients send them."""
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode()), (b"accept", b"*/*")]


def hashed(key: str) -> str:
    """Spell a key as the configuration may hold it."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_check(self) -> None:
        """Let the next request look at the file."""
        self.now += FILE_CHECK_SECONDS


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A keys file with Alice in it."""
    path = tmp_path / "keys"
    path.write_text(f"alice:{ALICE}\n")
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"alice:{ALICE},bob:{BOB},{CAROL}",
        f"alice:{ALICE} bob:{BOB}\n{CAROL}",
        f"\n alice:{ALICE} ,\tbob:{hashed(BOB)},, {hashed(CAROL)} \n",
    ],
)
def test_entries(text: str) -> None:
    """Names are the entry's own, or its place in the list; a hash stands for its key."""
    ring = Keyring.load(text, None)
    assert [key.name for key in parse_keys(text)] == ["alice", "bob", "key-3"]
    assert ring.authenticate(bearer(ALICE)) == "alice"
    assert ring.authenticate(bearer(BOB)) == "bob"
    assert ring.authenticate(bearer(CAROL)) == "key-3"


def test_hash_is_no_key() -> None:
    """Who knows the hash alone may not pass."""
    ring = Keyring.load(f"bob:{hashed(BOB)},{hashed(CAROL)}", None)
    for shown in (hashed(BOB), hashed(BOB).removeprefix("sha256:"), hashed(CAROL)):
        assert ring.authenticate(bearer(shown)) is None


def test_only_the_first_colon_separates() -> None:
    """A named key may hold colons."""
    assert Keyring.load("alice:a:b:c:d:e", None).authenticate(bearer("a:b:c:d:e")) == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer " + ALICE.encode())],
        [(b"authorization", b"bearer " + ALICE.encode())],
        [(b"authorization", b" BEARER   " + ALICE.encode() + b" \t")],
        [(b"x-api-key", ALICE.encode())],
        [(b"x-api-key", b" " + ALICE.encode() + b" ")],
        [(b"x-api-key", ALICE.encode()), (b"authorization", b"Bearer " + ALICE.encode())],
    ],
)
def test_accepted(headers: list[tuple[bytes, bytes]]) -> None:
    """A key passes in either header, or in both if it is the same."""
    ring = Keyring.load(f"bob:{BOB},alice:{ALICE},carol:{CAROL}", None)
    assert ring.authenticate(iter(headers)) == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", ALICE.encode())],
        [(b"authorization", b"Basic " + ALICE.encode())],
        [(b"authorization", b"Bearer\t" + ALICE.encode())],
        [(b"authorization", b"Bearer " + ALICE.encode() + b"x")],
        [(b"authorization", b"Bearer " + ALICE.encode()[:-1])],
        [(b"authorization", b"Bearer " + ALICE.encode() + b", Bearer " + BOB.encode())],
        [(b"authorization", b"Bearer " + ALICE.upper().encode())],
        [(b"authorization", b"Bearer \xff\xfe\x00")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"Bearer " + ALICE.encode())],
        [(b"x-api-key", b"alice:" + ALICE.encode())],
        [(b"cookie", ALICE.encode())],
        [(b"authorization", b"Bearer " + ALICE.encode())] * 2,
        [(b"x-api-key", ALICE.encode())] * 2,
        [(b"x-api-key", ALICE.encode()), (b"x-api-key", b"")],
        [(b"authorization", b"Bearer " + ALICE.encode()), (b"x-api-key", BOB.encode())],
        [(b"authorization", b"Bearer nobody"), (b"x-api-key", ALICE.encode())],
        [(b"authorization", b"Basic abc"), (b"x-api-key", ALICE.encode())],
        [(b"authorization", b"Bearer " + ALICE.encode()), (b"x-api-key", b"")],
    ],
)
def test_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """A wrong, missing, repeated or contradicting credential does not pass."""
    ring = Keyring.load(f"alice:{ALICE},bob:{BOB}", None)
    assert ring.authenticate(headers) is None


@given(st.binary())
def test_no_other_bytes_pass(value: bytes) -> None:
    """No header's bytes but the key itself are let through, and none is an error."""
    ring = Keyring.load(f"alice:{ALICE}", None)
    assert ring.authenticate([(b"authorization", value)]) is None
    assert ring.authenticate([(b"x-api-key", value)]) is None


@pytest.mark.parametrize("given_key", [ALICE, BOB, CAROL, "nobody-of-these", ""])
def test_every_key_is_compared(given_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is compared with all the others, digest by digest, wherever it stands."""
    ring = Keyring.load(f"alice:{ALICE},bob:{BOB},carol:{CAROL}", None)
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    ring.authenticate([(b"x-api-key", given_key.encode() or b"?")])
    assert all(len(a) == len(b) == 32 for a, b in compared)
    digest = hashlib.sha256(given_key.encode() or b"?").digest()
    stored = [hashlib.sha256(key.encode()).digest() for key in (ALICE, BOB, CAROL)]
    assert compared[-3:] == [(digest, other) for other in stored]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ""),
        (" ,\n ", ""),
        ("hunter2", "entry 1"),
        (f"{ALICE},alice:", "entry 2"),
        (f":{ALICE}", "entry 1"),
        (f"{ALICE},al/ice:hunter2-hunter2", "entry 2"),
        (f"{'a' * 65}:{ALICE}", "entry 1"),
        (f"alice:{ALICE},alice:{BOB}", "entry 2"),
        (f"alice:{ALICE},bob:{ALICE}", "entry 2"),
        (f"alice:{ALICE},bob:{hashed(ALICE)}", "entry 2"),
        (f"key-2:{ALICE},{BOB}", "entry 2"),
        ("alice:sha256:hunter2hunter2", "entry 1"),
        ("sha256:" + "g" * 64, "entry 1"),
        ('"hunter2-hunter2"', "entry 1"),
        ("hunter2-hünter2", "entry 1"),
        ("hunter2-\x00hunter2", "entry 1"),
    ],
)
def test_bad_keys(text: str, place: str) -> None:
    """What cannot be a list of keys is refused by entry, without showing any part of one."""
    with pytest.raises(KeysError) as caught:
        parse_keys(text)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
    assert caught.value.setting == "API_KEYS"
    assert place in caught.value.problem
    for secret in (ALICE, BOB, "hunter2", "ggg", "hünter", hashed(ALICE)[7:]):
        assert secret not in shown


@given(st.text(min_size=1))
def test_errors_show_nothing_of_the_text(text: str) -> None:
    """Any text is keys or an error whose words do not depend on what the keys are."""
    marked = f"{text}:zyzzyva\ufffd-zyzzyva"
    with pytest.raises(KeysError) as caught:
        parse_keys(marked)
    assert "zyzzyva" not in str(caught.value)


def test_open() -> None:
    """Without a setting everybody passes; an empty variable is an unset one."""
    assert Keyring.load(None, None).is_open
    assert Keyring.load("", None).is_open
    assert not Keyring.load(ALICE, None).is_open


@pytest.mark.parametrize("content", ["", "\n\n", "# nobody yet\n"])
def test_empty_file_denies_everybody(tmp_path: Path, content: str) -> None:
    """A file without keys is not the same as no file: nobody passes."""
    (tmp_path / "keys").write_text(content)
    ring = Keyring.load(None, tmp_path / "keys")
    assert not ring.is_open
    assert ring.authenticate([]) is None
    assert ring.authenticate(bearer(ALICE)) is None


def test_file_format(tmp_path: Path) -> None:
    """One entry a line, with comments, blank lines, a byte order mark and Windows line ends."""
    lines = [
        "# für alle",
        "",
        f"alice:{ALICE}",
        f"  bob:{hashed(BOB).upper().replace('SHA', 'sha')}  ",
        CAROL + "#,",
    ]
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    ring = Keyring.load("env:from-the-environment", tmp_path / "keys")
    assert ring.authenticate(bearer(ALICE)) == "alice"
    assert ring.authenticate(bearer(BOB)) == "bob"
    assert ring.authenticate(bearer(CAROL + "#,")) == "key-4"
    assert ring.authenticate(bearer("from-the-environment")) == "env"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"# fine\n\nalice:hunter2", "line 3"),
        (b"alice:hunter2-hunter2 # comment", "line 1"),
        (b"env:hunter2-hunter2", "line 1"),
        (b"from-the-environment", "line 1"),
        (b"hunter2-hunter2\xff\xfe", "not UTF-8"),
        (b"#" * ((1 << 20) + 1), "larger"),
        (None, "No such file"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A file that cannot be used stops the start, by line and without a key."""
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(KeysError) as caught:
        Keyring.load("env:from-the-environment", tmp_path / "keys")
    assert caught.value.setting == "API_KEYS_FILE"
    assert problem in caught.value.problem
    assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"
    assert "from-the" not in str(caught.value)


def test_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the file's place is named as what it is."""
    with pytest.raises(KeysError, match="not a file"):
        Keyring.load(None, tmp_path)


def test_rewritten_file(file: Path, clock: Clock) -> None:
    """A file written anew counts from the next check on, and not before."""
    ring = Keyring(None, file, clock)
    file.write_text(f"bob:{BOB}\n")
    clock.now += FILE_CHECK_SECONDS / 2
    assert ring.authenticate(bearer(ALICE)) == "alice"
    clock.now += FILE_CHECK_SECONDS / 2
    assert ring.authenticate(bearer(ALICE)) is None
    assert ring.authenticate(bearer(BOB)) == "bob"


def test_replaced_file(file: Path, clock: Clock) -> None:
    """Another file of the same size and time, renamed into place, counts too."""
    ring = Keyring(None, file, clock)
    other = file.with_name("other")
    other.write_text(f"alice:{ALICE[::-1]}\n")
    os.utime(other, ns=(file.stat().st_mtime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    clock.pass_check()
    assert ring.authenticate(bearer(ALICE)) is None
    assert ring.authenticate(bearer(ALICE[::-1])) == "alice"


def test_kubernetes_swap(tmp_path: Path, clock: Clock) -> None:
    """A volume's `..data` link that points elsewhere from now on brings the new keys."""
    for version, entry in (("v1", f"alice:{ALICE}"), ("v2", f"bob:{BOB}")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys").write_text(entry)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "keys").symlink_to("..data/keys")
    ring = Keyring(None, tmp_path / "keys", clock)
    assert ring.authenticate(bearer(ALICE)) == "alice"
    (tmp_path / "..data_tmp").symlink_to("v2")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    clock.pass_check()
    assert ring.authenticate(bearer(ALICE)) is None
    assert ring.authenticate(bearer(BOB)) == "bob"


def test_unchanged_file_is_not_read(file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a file that stayed the same only asks for its state."""
    ring = Keyring(None, file, clock)

    def not_now(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Path, "open", not_now)
    clock.pass_check()
    assert ring.authenticate(bearer(ALICE)) == "alice"


def test_emptied_file_denies(file: Path, clock: Clock) -> None:
    """A file emptied while running closes the door rather than opening it."""
    ring = Keyring(None, file, clock)
    file.write_text("")
    clock.pass_check()
    assert not ring.is_open
    assert ring.authenticate(bearer(ALICE)) is None


@pytest.mark.parametrize("broken", ["bob:hunter2", None, "env:hunter2-hunter2"])
def test_broken_file_keeps_the_keys(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    """A file that breaks or goes leaves the keys of before valid and logs one error; a good one counts."""
    caplog.set_level(logging.INFO)
    ring = Keyring(parse_keys("env:from-the-environment"), file, clock)
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    for _ in range(3):
        clock.pass_check()
        assert ring.authenticate(bearer(ALICE)) == "alice"
        assert ring.authenticate(bearer("hunter2-hunter2")) is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "API_KEYS_FILE" in caplog.text
    assert "hunter2" not in caplog.text

    file.write_text(f"bob:{BOB}")
    clock.pass_check()
    assert ring.authenticate(bearer(ALICE)) is None
    assert ring.authenticate(bearer(BOB)) == "bob"
    assert ring.authenticate(bearer("from-the-environment")) == "env"
    assert caplog.records[-1].levelname == "INFO"

    file.unlink()
    clock.pass_check()
    assert ring.authenticate(bearer(BOB)) == "bob"
    assert caplog.records[-1].levelname == "ERROR"
    assert BOB not in caplog.text


def test_back_again_unchanged(file: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A file moved away and back is no change, and going once more is said once more."""
    ring = Keyring(None, file, clock)
    away = file.with_name("away")
    for _ in range(2):
        file.replace(away)
        clock.pass_check()
        assert ring.authenticate(bearer(ALICE)) == "alice"
        away.replace(file)
        clock.pass_check()
        assert ring.authenticate(bearer(ALICE)) == "alice"
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 2


def test_no_key_in_any_repr(file: Path) -> None:
    """Neither a ring nor its keys show a key, nor the digest that a weak one could be guessed from."""
    keys = parse_keys(f"bob:{BOB}")
    shown = repr(keys) + repr(Keyring(keys, file)) + str(keys[0])
    assert "bob" in shown
    assert BOB not in shown
    assert hashed(BOB)[7:] not in shown
    assert "digest" not in shown


def test_secrets_in() -> None:
    """Keys and digests are found in right and wrong entries; what is no key, and would blank words, is not."""
    assert secrets_in(
        ["bob:with:colons", "long-enough", "b/b:wrong-name", f"x:sha256:{'ab' * 32}", "y:short"]
    ) == [
        "with:colons",
        "long-enough",
        "wrong-name",
        "ab" * 32,
    ]


def test_keys_of_a_file_are_hidden(file: Path, clock: Clock) -> None:
    """What a file has, and what it newly gets, is told to whoever blanks the log; comments are not."""
    hidden: list[str] = []
    ring = Keyring(None, file, clock, hidden.extend)
    assert hidden == [ALICE]
    file.write_text(f"# a comment\nbob:{BOB}\nbroken/line:{ALICE}x\n")
    clock.pass_check()
    assert ring.authenticate(bearer(ALICE)) == "alice"
    assert hidden == [ALICE, BOB, f"{ALICE}x"]


def test_credential_headers() -> None:
    """Every header that is read as a key is one that is not passed on."""
    assert {b"authorization", b"x-api-key"} == CREDENTIAL_HEADERS
