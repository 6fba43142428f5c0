"""The Compose files: valid, in step with each other, and up and down with the image `fake`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.container.box import CONTAINER_SECONDS, Box, Docker
from tests.container.conftest import ROOT
from tests.container.test_sshd import make_key, public, ssh
from tests.support.program import free_port, until

FILES = ("compose.yaml", "compose.cpu.yaml", "compose.ssh.yaml", "compose.observability.yaml")
COMPOSES = (["docker", "compose"], ["docker-compose"])

Compose = Callable[..., subprocess.CompletedProcess[str]]


def works(argv: list[str]) -> bool:
    if shutil.which(argv[0]) is None:
        return False
    return subprocess.run([*argv, "version"], capture_output=True, timeout=60).returncode == 0


@pytest.fixture(scope="module")
def clients() -> list[list[str]]:
    """The Compose programs that are here: the plugin, the older one, or both."""
    return [argv for argv in COMPOSES if works(argv)] or pytest.skip(
        "NOT TESTED: Compose: there is no docker compose"
    )


@pytest.fixture
def compose(environ: dict[str, str], clients: list[list[str]], tmp_path: Path) -> Iterator[Compose]:
    """Run Compose on copies of the files; what it started is removed, with the volume of the test."""
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)

    def run(
        *words: str,
        files: tuple[str, ...] = (),
        client: list[str] | None = None,
        check: bool = True,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:
        named = (word for name in files for word in ("-f", name))
        argv = [*(client or clients[0]), "--project-name", environ["NAME"], *named, *words]
        variables = {name: value for name, value in (environ | more).items() if name != "MODEL_ID"}
        done = subprocess.run(argv, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    for name in FILES[:2]:
        run("down", "--volumes", "--remove-orphans", files=(name,), check=False)


def service_of(name: str) -> dict[str, Any]:
    composed = yaml.safe_load((ROOT / name).read_text())
    service: dict[str, Any] = composed["services"]["vllm-engine"]
    return service | {"volumes:": composed.get("volumes")}


def test_both_files_are_one_but_for_the_target() -> None:
    """compose.cpu.yaml has everything of compose.yaml but the GPUs, with the CPU's image, model and memory."""
    gpu, cpu = service_of("compose.yaml"), service_of("compose.cpu.yaml")
    assert gpu.pop("deploy")["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert (gpu["build"].pop("target"), cpu["build"].pop("target")) == ("cuda", "cpu")
    assert (gpu.pop("image")[-7:], cpu.pop("image")[-6:]) == (":-cuda}", ":-cpu}")
    assert (gpu.pop("shm_size"), cpu.pop("shm_size")) == ("${SHM_SIZE:-8g}", "${SHM_SIZE:-1g}")
    assert (gpu["environment"].pop(0), cpu["environment"].pop(0)) == (
        "MODEL_ID",
        "MODEL_ID=${MODEL_ID:-bundled:smollm2-135m-instruct}",
    )
    assert gpu == cpu
    assert gpu["volumes:"]["model_cache"]["name"] == "${CACHE_VOLUME:-model_cache}"


def test_every_compose_takes_every_combination(compose: Compose, clients: list[list[str]]) -> None:
    """Valid, on loopback, and with the one volume; SSH's port and rights only with its file."""
    for client in clients:
        for base in FILES[:2]:
            for extra in ((), ("compose.ssh.yaml", "compose.observability.yaml")):
                done = compose("config", files=(base, *extra), client=client, CACHE_VOLUME="model_cache")
                composed = yaml.safe_load(done.stdout)
                service = composed["services"]["vllm-engine"]
                assert len(service["ports"]) == (2 if extra else 1)
                assert all("127.0.0.1" in str(port) for port in service["ports"])
                assert ("SYS_CHROOT" in service["cap_add"]) == bool(extra)
                assert composed["volumes"]["model_cache"]["name"] == "model_cache"


def test_on_cpu_up_with_ssh_and_down(
    compose: Compose, environ: dict[str, str], docker: Docker, tmp_path: Path
) -> None:
    """compose.cpu.yaml alone serves, on loopback and with a setting from .env; with compose.ssh.yaml a key logs in."""
    key = make_key(tmp_path / "key")
    ssh_port = free_port()
    (tmp_path / ".env").write_text(
        f"MAX_MODEL_LEN=1024\nMODEL_ID=/opt/fake/model\nPUBLIC_KEY={public(key)}\nSSH_HOST_PORT={ssh_port}\n"
    )
    plain, with_ssh = ("compose.cpu.yaml",), ("compose.cpu.yaml", "compose.ssh.yaml")
    compose("up", "--detach", "--no-build", files=plain)
    box = Box(docker, compose("ps", "--quiet", files=plain).stdout.strip(), int(environ["PORT"]))
    box.until_ready()
    body = httpx2.get(f"{box.url}/v1/models", timeout=30).json()
    assert body["data"][0]["max_model_len"] == 1024
    assert docker("port", box.name).splitlines() == [f"{environ['PORT']}/tcp -> 127.0.0.1:{environ['PORT']}"]
    (mount,) = docker.inspect(box.name)["Mounts"]
    assert mount["Name"] == environ["CACHE_VOLUME"]
    assert "SYS_CHROOT and AUDIT_WRITE (compose.ssh.yaml adds them" in box.logs()
    until(lambda: box.state["Health"]["Status"] == "healthy", "healthy", CONTAINER_SECONDS)

    compose("up", "--detach", "--no-build", files=with_ssh)
    box = Box(docker, compose("ps", "--quiet", files=with_ssh).stdout.strip(), int(environ["PORT"]))
    box.until_logged("Server listening")
    assert docker("port", box.name, "22/tcp") == f"127.0.0.1:{ssh_port}"
    assert ssh(box, key, "id -un").stdout.strip() == "appuser"
    box.until_ready()
    compose("stop", files=with_ssh)
    assert box.state["ExitCode"] == 0


def test_without_a_gpu_docker_says_so(compose: Compose, docker: Docker) -> None:
    """In the words that compose.yaml and troubleshooting quote."""
    words = "could not select device driver"
    page = (ROOT / "docs/operate/troubleshooting.md").read_text()
    assert words in (ROOT / "compose.yaml").read_text() and words in page
    if '"nvidia":' in docker("info", "--format", "{{json .Runtimes}}"):
        pytest.skip("NOT TESTED: Compose without a GPU: Docker has one here")
    done = compose("up", "--detach", "--no-build", files=("compose.yaml",), check=False)
    assert (done.returncode != 0, words in done.stdout + done.stderr) == (True, True), done.stderr
