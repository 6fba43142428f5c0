"""sshd in the container, asked by a real ssh client."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.container.box import Box
from tests.container.conftest import StartBox
from tests.support.program import until

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="NOT TESTED: sshd: there is no ssh client"
)

PUBLISHED = "--publish=127.0.0.1::22"
CAPABILITIES = ("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "SYS_CHROOT")
LEAST_RIGHTS = (
    "--cap-drop=ALL", *(f"--cap-add={name}" for name in CAPABILITIES), "--security-opt=no-new-privileges"
)  # fmt: skip
OPTIONS = (
    "StrictHostKeyChecking=accept-new", "BatchMode=yes", "ConnectTimeout=20", "IdentitiesOnly=yes", "IdentityAgent=none"
)  # fmt: skip
TOKEN = "hf_never_shown_to_a_session"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path / "key")


def make_key(path: Path) -> Path:
    """Make a key pair; returns the private one's file."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text().strip()


def ssh(
    box: Box, key: Path, command: str, user: str = "appuser", *more: str
) -> subprocess.CompletedProcess[str]:
    """Log in and run a command."""
    own = (
        f"IdentityFile={key}",
        f"Port={box.port(22)}",
        f"UserKnownHostsFile={key.with_name('known_hosts')}",
    )
    options = (f"-o{option}" for option in (*OPTIONS, *own, *more))
    argv = ["ssh", "-F", "none", *options, f"{user}@127.0.0.1", command]
    environ = {"PATH": os.environ["PATH"], "HOME": str(key.parent)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environ)


def test_a_session(start: StartBox, key: Path, tmp_path: Path) -> None:
    """A key of PUBLIC_KEY lets appuser in, with all that debugging takes and no secret; nothing else does.

    An sshd that dies is started again.
    """
    other, stranger = make_key(tmp_path / "other"), make_key(tmp_path / "stranger")
    environ = {"HF_TOKEN": TOKEN, "API_KEYS": "first:a-long-key", "DTYPE": "float16"}
    box = start(PUBLISHED, *LEAST_RIGHTS, PUBLIC_KEY=f"{public(key)}\n{public(other)}", **environ)
    box.until_ready()
    box.until_logged("Server listening")

    done = ssh(box, key, "id -u; vllm-engine settings | grep ^DTYPE; env")
    assert done.returncode == 0, done.stderr
    uid, dtype, *_ = done.stdout.splitlines()
    assert (uid, "float16" in dtype, "CACHE_DIR=/cache" in done.stdout) == ("10001", True, True)
    assert TOKEN not in done.stdout and "a-long-key" not in done.stdout
    assert ssh(box, other, "true").returncode == 0
    by_password = ("appuser", "PubkeyAuthentication=no", "PreferredAuthentications=password")
    for way in ((stranger, "true"), (key, "true", "root"), (key, "true", *by_password)):
        assert "Permission denied (publickey)" in ssh(box, *way).stderr
    # Its death is told, and does not touch inference.
    (first,) = sshd_of(box)
    box.python(f"import os; os.kill({first}, 9)")
    box.until_logged("ended with status 137 (1 of 5); starting it again")
    until(lambda: [pid for pid in sshd_of(box) if pid != first], "another sshd")
    until(lambda: ssh(box, key, "true").returncode == 0, "a login")
    assert box.health()["status"] == "ready"


def sshd_of(box: Box) -> list[int]:
    """Return the pids of the sshd that listens."""
    return [*box.named("/usr/sbin/sshd -D")]


def test_the_host_key_stays(start: StartBox, key: Path, volume: str) -> None:
    """A second container on the same volume is the same host to its clients."""
    fingerprints = set()
    for _ in range(2):
        box = start(
            f"--volume={volume}:/cache", "--publish=127.0.0.1::2022", PUBLIC_KEY=public(key), SSH_PORT="2022"
        )
        box.until_logged("Server listening")
        fingerprints.add(box.run("ssh-keygen", "-l", "-f", "/cache/ssh/ssh_host_ed25519_key.pub", user="0"))
        assert box.run("stat", "-c", "%u %a", "/cache/ssh/ssh_host_ed25519_key", user="0") == "0 600"
        box.stop()
    assert len(fingerprints) == 1


@pytest.mark.parametrize(
    ("words", "variables", "told"),
    [
        (("--user=10001:0",), {"ENABLE_SSHD": "1"}, "SSH needs a container that starts as root"),
        ((), {"PUBLIC_KEY": "not a key"}, "PUBLIC_KEY holds no OpenSSH public key"),
        (("--read-only", "--tmpfs=/tmp"), {"ENABLE_SSHD": "1"}, "with --read-only add --tmpfs /run"),
        (("--cap-drop=AUDIT_WRITE",), {"ENABLE_SSHD": "1"}, "it needs the capabilities SYS_CHROOT and AUDIT_WRITE"),
    ],
)  # fmt: skip
def test_without_ssh_it_goes_on(
    start: StartBox, words: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    """It says what SSH lacks, and serves."""
    box = start(*words, **variables)
    box.until_ready()
    assert told in box.logs() and "going on without SSH" in box.logs()
    assert not box.named("/usr/sbin/sshd")
