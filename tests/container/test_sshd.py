"""sshd in the container, asked by a real ssh client."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.container.box import Box
from tests.container.conftest import StartBox
from tests.support.program import until

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="NOT TESTED: sshd: there is no ssh client"
)

PUBLISHED = "--publish=127.0.0.1::22"
LEAST_RIGHTS = (
    "--cap-drop=ALL",
    *(f"--cap-add={name}" for name in ("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID")),
    "--cap-add=SYS_CHROOT",
    "--security-opt=no-new-privileges",
)
TOKEN = "hf_never_shown_to_a_session"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key pair; the file of the private one."""
    return make_key(tmp_path / "key")


def make_key(path: Path) -> Path:
    """Make a key pair."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def public(key: Path) -> str:
    """Return the public half."""
    return key.with_suffix(".pub").read_text().strip()


def ssh(
    box: Box, key: Path, *command: str, user: str = "appuser", words: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Log in and run a command."""
    known = key.with_name("known_hosts")
    fixed: list[str | Path] = [
        "-F",
        "none",
        "-i",
        key,
        "-p",
        str(box.port(22)),
        "-o",
        f"UserKnownHostsFile={known}",
    ]
    fixed += ["-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"]
    fixed += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
    return subprocess.run(
        ["ssh", *fixed, *words, f"{user}@127.0.0.1", *command],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(key.parent)},
    )


def test_a_session(start: StartBox, key: Path, tmp_path: Path) -> None:
    """A key of PUBLIC_KEY lets appuser in, with all that debugging takes and no secret; nothing else does."""
    other, stranger = make_key(tmp_path / "other"), make_key(tmp_path / "stranger")
    keys = f"{public(key)}\n{public(other)}"
    box = start(
        PUBLISHED,
        *LEAST_RIGHTS,
        PUBLIC_KEY=keys,
        HF_TOKEN=TOKEN,
        API_KEYS="first:a-long-key",
        DTYPE="float16",
    )
    box.until_ready()
    box.until_logged("Server listening")

    done = ssh(box, key, "id -u; vllm-engine settings | grep ^DTYPE; env")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "10001"
    assert "float16" in done.stdout.splitlines()[1]
    assert "CACHE_DIR=/cache" in done.stdout
    assert TOKEN not in done.stdout and "a-long-key" not in done.stdout
    assert ssh(box, other, "true").returncode == 0

    assert "Permission denied (publickey)" in ssh(box, stranger, "true").stderr
    assert "Permission denied (publickey)" in ssh(box, key, "true", user="root").stderr
    by_password = ("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password")
    assert "Permission denied (publickey)" in ssh(box, key, "true", words=by_password).stderr


def test_sshd_that_dies_is_started_again(start: StartBox, key: Path) -> None:
    """Its death is told, and does not touch inference."""
    box = start(PUBLISHED, PUBLIC_KEY=public(key))
    box.until_ready()
    box.until_logged("Server listening")
    (first,) = sshd_of(box)
    box.python(f"import os; os.kill({first}, 9)")
    box.until_logged("ended with status 137 (1 of 5); starting it again")
    until(lambda: [pid for pid in sshd_of(box) if pid != first], "another sshd")
    until(lambda: ssh(box, key, "true").returncode == 0, "a login")
    assert box.health()["status"] == "ready"


def sshd_of(box: Box) -> list[int]:
    """Return the pids of the sshd that listens."""
    return [pid for pid, each in box.processes().items() if "/usr/sbin/sshd -D" in each["command"]]


def test_the_host_key_stays(start: StartBox, key: Path, volume: str) -> None:
    """A second container on the same volume is the same host to its clients."""
    for _ in range(2):
        box = start(
            f"--volume={volume}:/cache", "--publish=127.0.0.1::2022", PUBLIC_KEY=public(key), SSH_PORT="2022"
        )
        box.until_logged("Server listening")
        fingerprint = box.run("ssh-keygen", "-l", "-f", "/cache/ssh/ssh_host_ed25519_key.pub", user="0")
        assert box.run("stat", "-c", "%u %a", "/cache/ssh/ssh_host_ed25519_key", user="0") == "0 600"
        box.stop()
        fingerprints = {*locals().get("fingerprints", ()), fingerprint}
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        (("--user=10001:0",), {"ENABLE_SSHD": "1"}, "SSH needs a container that starts as root"),
        ((), {"PUBLIC_KEY": "not a key"}, "PUBLIC_KEY holds no OpenSSH public key"),
        ((), {"ENABLE_SSHD": "1"}, "PUBLIC_KEY holds no OpenSSH public key"),
        (("--read-only", "--tmpfs=/tmp"), {"ENABLE_SSHD": "1"}, "with --read-only add --tmpfs /run"),
    ],
    ids=["not root", "no key", "no key at all", "read-only"],
)
def test_without_ssh_it_goes_on(
    start: StartBox, words: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    """It says what SSH lacks, and serves."""
    box = start(*words, **variables)
    box.until_ready()
    assert told in box.logs()
    assert "going on without SSH" in box.logs()
    assert not box.named("/usr/sbin/sshd")
