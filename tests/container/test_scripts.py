"""run_image.sh, smoke_test.sh and Compose, from end to end with the image `fake`."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.container.box import Box, Docker
from tests.container.conftest import ROOT, StartBox
from tests.support.program import free_port, until

KEY = "a-key-of-some-length"


@pytest.fixture
def environ(docker: Docker, fake_image: str, volume: str) -> Iterator[dict[str, str]]:
    """Variables for the scripts; whatever container they start is removed."""
    name = f"vllm-engine-test-{secrets.token_hex(4)}"
    repository, tag = fake_image.split(":")
    yield docker.environ | {
        "NAME": name,
        "IMAGE_REPO": repository,
        "IMAGE_TAG": tag,
        "TARGET": "cpu",
        "PORT": str(free_port()),
        "CACHE_VOLUME": volume,
        "MODEL_ID": "/opt/fake/model",
    }
    print(docker("logs", "--tail", "5", name, check=False))
    docker("rm", "--force", "--volumes", name, check=False)


def script(name: str, environ: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts in a folder."""
    return subprocess.run(
        [ROOT / "scripts" / name], env=environ, cwd=folder, capture_output=True, text=True, timeout=180
    )


def test_run_and_smoke(environ: dict[str, str], docker: Docker, tmp_path: Path) -> None:
    """Started, asked, with a key from a file of keys and settings from .env and the environment, and stopped."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(
        '{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}'
    )
    (tmp_path / "keys").write_text(f"first:{KEY}\n")
    (tmp_path / "keys").chmod(0o644)
    (tmp_path / ".env").write_text(
        "# settings\nexport DTYPE='float16'  \nMAX_IN_FLIGHT=7 # seven\nMAX_NUM_SEQS=9\nPORT=1\nLD_PRELOAD_NOT=1\n"
    )
    tmp_path.chmod(0o755)
    given = environ | {
        "API_KEYS_FILE": "keys",
        "HOST": "127.0.0.1",
        "MODEL_ID": "./model",
        "HF_TOKEN": "hf_x",
        "DRAIN_TIMEOUT_SECONDS": "7.5",
    }
    done = script("run_image.sh", given, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    box = Box(docker, environ["NAME"])
    config = docker.inspect(box.name)["Config"]
    variables = dict(pair.split("=", 1) for pair in config["Env"])
    assert {
        name: variables.get(name) for name in ("DTYPE", "MAX_IN_FLIGHT", "MAX_NUM_SEQS", "PORT", "MODEL_ID")
    } == {
        "DTYPE": "float16",
        "MAX_IN_FLIGHT": "7",
        "MAX_NUM_SEQS": "9",
        "PORT": environ["PORT"],
        "MODEL_ID": "/model",
    }
    assert "LD_PRELOAD_NOT" not in variables and "NAME" not in variables
    assert config["StopTimeout"] == 28

    asking = environ | {"API_KEY": KEY, "TIMEOUT_SECONDS": "60"}
    smoke = script("smoke_test.sh", asking, tmp_path)
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr
    assert "all is well" in smoke.stdout
    assert KEY not in smoke.stdout + smoke.stderr

    refused = script("smoke_test.sh", environ, tmp_path)
    assert refused.returncode == 1
    assert "key" in refused.stderr

    again = script("run_image.sh", given, tmp_path)
    assert again.returncode == 2
    assert "runs already" in again.stderr
    box.stop()
    assert box.state["ExitCode"] == 0


def test_loopback_unless_told_otherwise(environ: dict[str, str], docker: Docker, tmp_path: Path) -> None:
    """Without a key the port is this machine's alone, with one it is everybody's."""
    for variables, address in (({}, "127.0.0.1"), ({"API_KEYS": KEY}, "0.0.0.0")):
        assert script("run_image.sh", environ | variables, tmp_path).returncode == 0
        (bound,) = docker.inspect(environ["NAME"])["HostConfig"]["PortBindings"].values()
        assert bound[0]["HostIp"] == address
        docker("rm", "--force", environ["NAME"])


def test_an_image_that_is_not_there(environ: dict[str, str], tmp_path: Path) -> None:
    """The message is the command that makes it."""
    done = script("run_image.sh", environ | {"IMAGE_TAG": "none-such", "TARGET": "cpu"}, tmp_path)
    assert done.returncode == 2
    assert "TARGET=cpu scripts/build_image.sh" in done.stderr


def test_smoke_tells_why_a_start_failed(environ: dict[str, str], tmp_path: Path) -> None:
    """A container that ended is not waited for; its own last words are shown."""
    done = script("run_image.sh", environ | {"DTYPE": "float13"}, tmp_path)
    assert done.returncode == 0, done.stderr
    smoke = script("smoke_test.sh", environ | {"TIMEOUT_SECONDS": "60"}, tmp_path)
    assert smoke.returncode == 1
    assert "float13" in smoke.stderr and "status 2" in smoke.stderr


def test_smoke_tells_the_diagnosis(start: StartBox, tmp_path: Path, docker: Docker) -> None:
    """A server that stays up to say why it cannot serve is quoted."""
    box = start(ON_FATAL="hold", MODEL_ID="/no/such/model")
    smoke = script("smoke_test.sh", docker.environ | {"BASE_URL": box.url, "TIMEOUT_SECONDS": "60"}, tmp_path)
    assert smoke.returncode == 1
    assert "FAILED" in smoke.stderr and "remedy" in smoke.stderr


COMPOSE = shutil.which("docker-compose")


@pytest.mark.skipif(COMPOSE is None, reason="NOT TESTED: Compose: there is no docker-compose")
def test_compose(environ: dict[str, str], docker: Docker, tmp_path: Path) -> None:
    """Both files are valid; up, a healthy answer with a setting from .env, and down with status 0."""
    assert COMPOSE
    project = environ["NAME"]
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    shutil.copy(ROOT / "compose.gpu.yaml", tmp_path)
    (tmp_path / ".env").write_text("MAX_MODEL_LEN=1024\n")

    def compose(*words: str) -> str:
        done = subprocess.run(
            [COMPOSE, "--project-name", project, *words],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    both = compose("-f", "compose.yaml", "-f", "compose.gpu.yaml", "config")
    assert "nvidia" in both and "target: cuda" in both
    try:
        compose("up", "--detach", "--no-build")
        box = Box(docker, compose("ps", "--quiet").strip(), int(environ["PORT"]))
        box.until_ready()
        body = httpx2.get(f"{box.url}/v1/models", timeout=30).json()
        assert body["data"][0]["max_model_len"] == 1024
        assert box.health()["status"] == "ready"
        until(lambda: box.state["Health"]["Status"] == "healthy", "healthy", 60)
        compose("stop")
        assert box.state["ExitCode"] == 0
    finally:
        compose("down", "--volumes")


@pytest.mark.parametrize("name", ["build_image.sh", "run_image.sh", "smoke_test.sh"])
def test_help(name: str) -> None:
    """--help names every variable, and does nothing."""
    done = subprocess.run(
        [ROOT / "scripts" / name, "--help"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert f"scripts/{name}" in done.stdout
    assert len(re.findall(r"^  [A-Z]", done.stdout, re.MULTILINE)) >= 3


def test_cuda_for_arm64_is_refused_early() -> None:
    """Before anything is built, with what to do instead."""
    environ = {"PATH": "/usr/bin:/bin", "TARGET_PLATFORM": "linux/arm64"}
    done = subprocess.run([ROOT / "scripts/build_image.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert "TARGET=cpu" in done.stderr


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT TESTED: systemd units: no systemd-analyze"
)
def test_systemd_unit() -> None:
    """systemd accepts the unit for a GPU machine."""
    unit = ROOT / "deploy/vm/vllm-engine.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "vllm-engine.service" not in done.stderr, done.stderr
