"""API keys: the right ones pass, from either header; changes take effect; nothing shows a key."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

import pytest

from vllm_engine.gateway.policy.auth import FILE_CHECK_SECONDS, Keyring, KeysError, parse_keys, secrets_in
from vllm_engine.gateway.rejection import Rejected

ALICE, BOB, CAROL = "alices-secret-key", "bobs-secret-key", "carols-secret-key"
KEY = ALICE.encode()


def who(ring: Keyring, *headers: tuple[bytes, bytes], key: str = "") -> str | None:
    """Return the name that a request with these headers, or this key, passes under."""
    try:
        return ring.check(iter([*headers, (b"authorization", b"Bearer " + key.encode())] if key else headers))
    except Rejected as rejected:
        assert (rejected.status, rejected.headers) == (401, [(b"www-authenticate", b"Bearer")])
        return None


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def test_entries() -> None:
    """Names are the entry's own, or its position; a hash stands for its key and is none itself."""
    for text in (
        f"alice:{ALICE},bob:{BOB},{CAROL}",
        f"\n alice:{ALICE} ,\tbob:{hashed(BOB)},, {hashed(CAROL)} \n",
    ):
        ring = Keyring(text, None)
        assert [who(ring, key=key) for key in (ALICE, BOB, CAROL)] == ["alice", "bob", "key-3"]
        assert [who(ring, key=key) for key in (hashed(BOB), hashed(CAROL)[7:])] == [None] * 2
        assert "bob" in ring and "carol" not in ring
    assert who(Keyring("alice:a:b:c:d:e", None), key="a:b:c:d:e") == "alice"
    assert Keyring("", None).is_open and not ring.is_open


def test_credentials() -> None:
    """A key passes in either header, or the same in both; wrong, repeated or contradicting ones do not."""
    bearer, api_key = (b"authorization", b"Bearer " + KEY), (b"x-api-key", KEY)
    ring = Keyring(f"bob:{BOB},alice:{ALICE}", None)
    for headers in (
        [bearer], [api_key], [api_key, bearer], [(b"authorization", b" BEARER   " + KEY + b" \t")],
        [(b"host", b"x"), (b"x-api-key", b" " + KEY + b" ")],
    ):  # fmt: skip
        assert who(ring, *headers) == "alice", headers
    for headers in (
        [], [bearer, bearer], [api_key, api_key], [api_key, (b"x-api-key", b"")], [bearer, (b"x-api-key", b"")],
        [bearer, (b"x-api-key", BOB.encode())], [(b"authorization", b"Basic abc"), api_key], [(b"cookie", KEY)],
        [(b"x-api-key", b"Bearer " + KEY)], [(b"x-api-key", b"alice:" + KEY)],
        *([(b"authorization", value)] for value in (
            b"", b"Bearer", b"Bearer ", KEY, b"Basic " + KEY, b"Bearer\t" + KEY, b"Bearer " + KEY + b"x",
            b"Bearer " + KEY[:-1], b"Bearer " + KEY + b", Bearer " + BOB.encode(), b"Bearer " + KEY.upper(),
            b"Bearer \xff\x00",
        )),
    ):  # fmt: skip
        assert who(ring, *headers) is None, headers


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digest by digest to the end, wherever the match stands."""
    ring = Keyring(f"alice:{ALICE},bob:{BOB},carol:{CAROL}", None)
    stored = [hashlib.sha256(key.encode()).digest() for key in (ALICE, BOB, CAROL)]
    real, compared = hmac.compare_digest, list[tuple[bytes, bytes]]()

    def spy(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for key in (ALICE, CAROL, "nobody-of-these"):
        who(ring, (b"x-api-key", key.encode()))
        assert compared[-3:] == [(hashlib.sha256(key.encode()).digest(), other) for other in stored]


def test_bad_keys() -> None:
    """The entry is named, and nothing of it shown."""
    for text, place in (
        (" ,\n ", ""), ("hunter2", "entry 1"), (f"{ALICE},alice:", "entry 2"), (f":{ALICE}", "entry 1"),
        (f"{ALICE},al/ice:hunter2-hunter2", "entry 2"), (f"{'a' * 65}:{ALICE}", "entry 1"),
        (f"alice:{ALICE},alice:{BOB}", "entry 2"), (f"alice:{ALICE},bob:{hashed(ALICE)}", "entry 2"),
        (f"key-2:{ALICE},{BOB}", "entry 2"), ("sha256:" + "g" * 64, "entry 1"), ('"hunter2-hunter2"', "entry 1"),
        ("hunter2-hünter2", "entry 1"), ("hunter2-\x00hunter2", "entry 1"),
    ):  # fmt: skip
        with pytest.raises(KeysError) as caught:
            parse_keys(text)
        assert caught.value.setting == "API_KEYS" and place in caught.value.problem, text
        shown = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__context__}"
        secrets = (ALICE, BOB, "hunter2", "ggg", "hünter", hashed(ALICE)[7:])
        assert not [secret for secret in secrets if secret in shown], text


def test_file_format(tmp_path: Path) -> None:
    """One entry a line, with comments, blank lines, a byte order mark and Windows line ends."""
    bob = hashed(BOB).upper().replace("SHA", "sha")
    lines = ["# für alle", "", f"alice:{ALICE}", f"  bob:{bob}  ", CAROL + "#,"]
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    hidden: list[str] = []
    ring = Keyring("env:from-the-environment", tmp_path / "keys", hide=hidden.extend)
    keys = (ALICE, BOB, CAROL + "#,", "from-the-environment")
    assert [who(ring, key=key) for key in keys] == ["alice", "bob", "key-4", "env"]
    assert hidden == [ALICE, bob[7:], CAROL + "#,"]
    assert not [secret for secret in (ALICE, bob[7:], "digest=") if secret in repr(ring._keys)]
    entries = ["bob:with:colons", "b/b:wrong-name", f"x:sha256:{'ab' * 32}", "y:short"]
    assert secrets_in(entries) == ["with:colons", "wrong-name", "ab" * 32]


def test_bad_files(tmp_path: Path) -> None:
    for number, (content, problem) in enumerate((
        (b"# fine\n\nalice:hunter2", "line 3"), (b"alice:hunter2-hunter2 # comment", "line 1"),
        (b"env:hunter2-hunter2", "line 1"), (b"from-the-environment", "line 1"),
        (b"hunter2-hunter2\xff\xfe", "not UTF-8"), (b"#" * ((1 << 20) + 1), "larger"), (None, "regular file"),
    )):  # fmt: skip
        file = tmp_path / f"keys{number}"
        file.mkdir() if content is None else file.write_bytes(content)
        with pytest.raises(KeysError, match=f"^API_KEYS_FILE: .*{problem}") as caught:
            Keyring("env:from-the-environment", file)
        assert "hunter2" not in f"{caught.value!r}{caught.value.__cause__!r}"
        assert "from-the" not in str(caught.value)
    with pytest.raises(KeysError, match="No such file"):
        Keyring(None, tmp_path / "none")


def test_a_file_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped as a Kubernetes volume is, replaced, emptied: it takes effect at the next check, and not before."""
    now, file, link = [100.0], tmp_path / "keys", tmp_path / "..data"
    for number, content in enumerate((f"alice:{ALICE}", f"bob:{BOB}", f"bob:{BOB[::-1]}", "# nobody")):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}/keys").write_text(content)
        os.utime(tmp_path / f"v{number}/keys", (1e9, 1e9))
    link.symlink_to("v0")
    file.symlink_to("..data/keys")
    ring = Keyring(None, file, clock=lambda: now[0])
    before = ["alice", None, None]
    for version, after in (("v1", [None, "bob", None]), ("v2", [None, None, "bob"]), ("v3", [None] * 3)):
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").replace(link)
        for expected in (before, after):
            now[0] += FILE_CHECK_SECONDS / 2
            assert [who(ring, key=key) for key in (ALICE, BOB, BOB[::-1])] == expected
        before = list(after)
    assert not ring.is_open
    monkeypatch.setattr(Path, "open", None)  # unchanged, it is not read
    now[0] += FILE_CHECK_SECONDS
    assert who(ring, key=ALICE) is None


def test_a_file_that_breaks_keeps_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One error is logged each time it breaks or goes; the next good one takes effect."""
    now, file = [100.0], tmp_path / "keys"
    file.write_text(f"alice:{ALICE}")
    ring = Keyring("env:from-the-environment", file, clock=lambda: now[0])
    for errors, content in enumerate(("bob:hunter2", "env:hunter2-hunter2", None), 1):
        file.unlink() if content is None else file.write_text(content)
        for _ in range(3):
            now[0] += FILE_CHECK_SECONDS
            assert [who(ring, key=key) for key in (ALICE, "hunter2-hunter2")] == ["alice", None]
        assert [record.levelname for record in caplog.records] == ["ERROR"] * errors
    file.write_text(f"bob:{BOB}")
    now[0] += FILE_CHECK_SECONDS
    keys = (ALICE, BOB, "from-the-environment")
    assert [who(ring, key=key) for key in keys] == [None, "bob", "env"]
    assert "API_KEYS_FILE" in caplog.text and "hunter2" not in caplog.text and BOB not in caplog.text
