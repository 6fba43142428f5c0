"""The image in the place of vLLM's: how it may be started, by whom, and where its caches go."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.container.box import Box, Docker, options
from tests.container.conftest import APP_UID, ROOT, StartBox
from tests.container.test_image import HARDENED
from tests.support.program import until
from vllm_engine.cli import main

MODEL = "/opt/fake/model"
NAMED = ("--served-model-name", "fake", "--port", "8000")
KSERVE = options("--tmpfs=/home", "--tmpfs=/models:mode=1777", HOME="/home", HF_HUB_CACHE="/models")
ANYBODY = "--user=2000:2000"
"""As vLLM's own image has a user; /cache belongs to group 0."""


@dataclass(frozen=True)
class Start:
    """How a container is started, and what then is so."""

    words: tuple[str, ...] = ()
    """Options of `docker run`."""
    command: tuple[str, ...] = ()
    uid: int = APP_UID
    cache: str = "/cache"
    hub: str = "/cache/huggingface"
    """HF_HOME of the engine."""
    says: str = ""


STARTS = {
    "arguments alone": Start(command=("--model", MODEL, *NAMED)),
    "a model first": Start(command=(MODEL, *NAMED)),
    "a command, any uid, a read-only root": Start(
        ("--entrypoint=vllm", "--user=1000650000:0", *HARDENED, *KSERVE), ("serve", MODEL, *NAMED), uid=1000650000
    ),
    "a command, root without rights": Start(
        ("--entrypoint=vllm", "--cap-drop=ALL", *KSERVE), ("serve", MODEL, *NAMED),
        uid=0, says="the server runs as root, without the right to become appuser",
    ),
    "a command, root, a cache that cannot be written": Start(
        ("--entrypoint=vllm", "--tmpfs=/cache:ro"), ("serve", MODEL, *NAMED),
        cache="/tmp/vllm-engine", hub="/tmp/vllm-engine/huggingface", says="caches go to /tmp/vllm-engine",
    ),
    "the module": Start(
        ("--entrypoint=python3",), ("-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, *NAMED)
    ),
    "a shell that evaluates, HF_HOME alone to write": Start(
        ("--entrypoint=/bin/bash", ANYBODY, "--tmpfs=/data:mode=1777", "--env=HF_HOME=/data"),
        ("-c", f'eval "vllm serve {MODEL} {" ".join(NAMED)} $@"', "--", "--max-model-len=1k"),
        uid=2000, cache="/data/vllm-engine", hub="/data", says="caches go to /data/vllm-engine",
    ),
    "a shell, the hub's cache of root": Start(
        ("--volume={folder}:/root/.cache/huggingface",), ("/bin/sh", "-c", f"exec vllm serve {MODEL} {' '.join(NAMED)}"),
        hub="/root/.cache/huggingface",
    ),
}  # fmt: skip


@pytest.fixture
def boxes(start: StartBox, tmp_path: Path) -> dict[str, Box]:
    """All of them at once."""
    tmp_path.chmod(0o755)
    return {
        name: start(*(word.format(folder=tmp_path) for word in each.words), command=each.command)
        for name, each in STARTS.items()
    }


def test_it_may_be_started_as_vllms_image(boxes: dict[str, Box], tmp_path: Path) -> None:
    """Each serves, as whom it may, and writes where it may."""
    for name, box in boxes.items():
        expected = STARTS[name]
        box.until_ready()
        ((pid, engine),) = box.named("VLLM::EngineCore").items()
        assert engine["uid"] == expected.uid, name
        told = box.run("cat", f"/proc/{pid}/environ", user=f"{engine['uid']}:{engine['gid']}").split("\0")
        environ = dict(each.split("=", 1) for each in told if "=" in each)
        assert environ["CACHE_DIR"] == expected.cache, name
        assert environ["HOME"] == f"{expected.cache}/home", name
        assert environ["HF_HOME"] == expected.hub, name
        assert expected.says in box.logs()
        metrics = httpx2.get(f"{box.url}/metrics", timeout=30).text
        assert "vllm:num_requests_waiting" in metrics
    assert tmp_path.stat().st_uid == APP_UID


def test_the_health_check_follows_options(start: StartBox) -> None:
    """Docker's own check asks where the server listens, whatever set that."""
    box = start(command=("--model", MODEL, "--served-model-name", "fake", "--port", "9000"))
    check = ("/opt/gateway/bin/python", "-IS", "/usr/local/lib/vllm-engine/healthcheck.py")
    until(
        lambda: "ready" in box.docker("exec", box.name, *check, check=False).split(),
        "the health check's ready",
    )


def test_what_cannot_be_started(start: StartBox) -> None:
    """Nothing can be written; one sentence, and which folders were tried."""
    box = start(ANYBODY, "--read-only", command=(MODEL,))
    assert box.wait() == 2
    assert (
        "none of CACHE_DIR=/cache, HF_HOME, XDG_CACHE_HOME, HOME, HF_HUB_CACHE, TMPDIR and /tmp can be"
        in box.logs()
    )


def test_whose_vllm_is_whose(docker: Docker, fake_image: str) -> None:
    """The stand-in is the system's Python's alone; the engine's own vLLM is the engine's."""
    code = "import json, vllm; print(json.dumps(vllm.__file__))"
    script = f"python3 -c '{code}'; /opt/engine/bin/python -c '{code}'; vllm --version; python3 -c 'import vllm; vllm.LLM'"
    done = docker("run", "--rm", fake_image, "sh", "-c", script, check=False).splitlines()
    ours, engines = map(json.loads, done[:2])
    assert ours.startswith("/usr/local/lib/")
    assert engines.startswith("/opt/engine/lib/")
    assert done[2] == "0.32.0"
    assert done[-1] == (
        "AttributeError: no vllm.LLM here: this Python only starts the server; vLLM's own is /opt/engine/bin/python"
    )


def test_the_entry_point_knows_every_command() -> None:
    """Otherwise a command would be taken for a model's name."""
    (line,) = (
        line
        for line in (ROOT / "docker/entrypoint").read_text().splitlines()
        if line.startswith("vllm | serve")
    )
    assert main.commands.keys() <= set(line.rstrip(")").split(" | "))
