"""What the scripts choose, before Docker does anything: with a stub in place of its client."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.container.conftest import ROOT
from tests.support.program import free_port

CLIENT = """#!/bin/sh
printf '%s\\n' "$*" >>"{calls}"
case $1 in
    --version) echo 'Docker version 20.10.24' ;;
    buildx | ps) exit 1 ;;
    info) case $* in *json*) echo '{info}' ;; esac ;;
    image) for name; do :; done; case " {images} " in *" $name "*) echo 1000000 ;; *) exit 1 ;; esac ;;
    container | pull) exit 1 ;;
    run) {run} ;;
esac
"""
NVIDIA = '{"Runtimes":{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}}}'
CDI = '{"Runtimes":{"runc":{}},"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"}]}'
NONE = '{"Name":"nvidia","Runtimes":{"runc":{}}}'

Done = subprocess.CompletedProcess[str]
Script = Callable[..., tuple[Done, list[str]]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Run a script with the stub; returns how it ended, and what the stub was asked to do."""
    calls, client = tmp_path / "calls", tmp_path / "docker"
    # A checkout without an environment, which only .env is read with.
    for part in ("scripts", "src", "docker", ".env.example"):
        (tmp_path / "checkout").mkdir(exist_ok=True)
        (tmp_path / "checkout" / part).symlink_to(ROOT / part)

    def run(
        name: str, info: str = NONE, images: str = "", run: str = "", **variables: str
    ) -> tuple[Done, list[str]]:
        client.write_text(CLIENT.format(calls=calls, info=info, images=images, run=run or ":"))
        client.chmod(0o755)
        calls.write_text("")
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DOCKER": str(client)} | variables
        argv = [str(tmp_path / "checkout/scripts" / name)]
        done = subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done, calls.read_text().splitlines()

    return run


def asked(calls: list[str], *words: str) -> list[str]:
    return [call for call in calls if call.split()[0] in words]


def test_without_a_gpu_the_default_is_refused_in_one_line(script: Script) -> None:
    """Before anything is built, pulled or made: what is missing, and TARGET=cpu."""
    for name in ("build_image.sh", "run_image.sh"):
        done, calls = script(name)
        (line,) = done.stderr.splitlines()
        assert (done.returncode, "no NVIDIA GPU" in line, "set TARGET=cpu" in line) == (2, True, True), line
        assert not asked(calls, "build", "pull", "run")
    done, _ = script("run_image.sh", images="vllm-engine:cpu")
    assert "set TARGET=cpu (vllm-engine:cpu is here)" in done.stderr
    done, _ = script("smoke_test.sh", TIMEOUT_SECONDS="0", PORT=str(free_port()))
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, "nothing listens at http://127.0.0.1:" in last) == (1, True)
    assert "TARGET=cpu scripts/run_image.sh, as Docker has no NVIDIA GPU here" in last


@pytest.mark.parametrize("info", [NVIDIA, CDI])
def test_with_a_gpu_the_default_is_the_gpu_image(script: Script, info: str) -> None:
    """Nothing set: the image, and what a container gets; the model is the program's own default."""
    done, calls = script("build_image.sh", info, images="vllm-engine:cuda")
    (build,) = asked(calls, "build")
    assert (done.returncode, "--target cuda" in build) == (0, True), done.stderr
    done, calls = script("run_image.sh", info, images="vllm-engine:cuda")
    (run,) = asked(calls, "run")
    assert done.returncode == 0, done.stderr
    for words in (
        "--gpus all",
        "--shm-size 8g",
        "--volume model_cache:/cache",
        "--publish 127.0.0.1:8000:8000",
    ):
        assert words in run
    assert run.endswith(" vllm-engine:cuda") and "MODEL_ID" not in run
    done, calls = script("smoke_test.sh", info, TIMEOUT_SECONDS="0", PORT=str(free_port()))
    assert "(by scripts/run_image.sh; without Docker: make run)" in done.stderr
    done, calls = script("run_image.sh", info, images="vllm-engine:cpu")
    assert (
        "build it: TARGET=cuda scripts/build_image.sh, or set TARGET=cpu (vllm-engine:cpu is here)"
        in done.stderr
    )


def test_without_docker_all_three_say_so(script: Script) -> None:
    """What is missing, and what runs without it; nothing about GPUs, which only Docker knows."""
    for name in ("build_image.sh", "run_image.sh", "smoke_test.sh"):
        done, _ = script(name, DOCKER="no-docker", TIMEOUT_SECONDS="0", PORT=str(free_port()))
        assert done.returncode != 0 and "make run" in done.stderr, done.stderr
        assert "GPU" not in done.stderr and ("there is no no-docker" in done.stderr) == (
            name != "smoke_test.sh"
        )


def test_the_published_name_is_the_second(script: Script) -> None:
    """Where the image is not here by our own name, one of the published name is run, or pulled; IMAGE_REPO is alone."""
    published = "ghcr.io/vllm-engine/vllm-engine:cuda"
    for images, used in (
        (published, published),
        (f"{published} vllm-engine:cuda", "vllm-engine:cuda"),
    ):
        done, calls = script("run_image.sh", NVIDIA, images=images)
        assert (done.returncode, asked(calls, "run")[0].endswith(f" {used}")) == (0, True), done.stderr
    done, calls = script("run_image.sh", NVIDIA)
    assert asked(calls, "pull") == [f"pull --quiet {published}"]
    assert f"no image vllm-engine:cuda nor {published}; build it" in done.stderr
    done, calls = script("run_image.sh", NVIDIA, images=published, IMAGE_REPO="mine")
    assert asked(calls, "pull") == ["pull --quiet mine:cuda"]
    assert "no image mine:cuda; build it" in done.stderr


def test_target_is_taken_at_its_word(script: Script) -> None:
    """TARGET=cuda builds anywhere, as PUSH=1 does; TARGET=cpu needs no GPU; GPUS says that there are some."""
    for given, target in (({"TARGET": "cuda"}, "cuda"), ({"PUSH": "1"}, "cuda"), ({"TARGET": "cpu"}, "cpu")):
        done, calls = script("build_image.sh", images=f"vllm-engine:{target}", **given)
        (build,) = asked(calls, "build")
        assert (done.returncode, f"--target {target}" in build) == (0, True), done.stderr
    done, calls = script("run_image.sh", images="vllm-engine:cpu", TARGET="cpu")
    (run,) = asked(calls, "run")
    assert "--gpus" not in run and "--shm-size 1g" in run
    assert "with bundled:smollm2-135m-instruct" in done.stdout
    done, calls = script("run_image.sh", images="vllm-engine:cuda", GPUS="all", run="exit 125")
    assert "--gpus all" in asked(calls, "run")[0] and asked(calls, "rm") == ["rm vllm-engine"]
    assert (done.returncode, "NVIDIA's Container Toolkit" in done.stderr, "TARGET=cpu" in done.stderr) == (
        2,
        True,
        True,
    )
    done, _ = script("run_image.sh", TARGET="gpu")
    assert (done.returncode, "it is cuda or cpu" in done.stderr) == (2, True)
    done, _ = script("build_image.sh", TARGET="cpu", FRONTEND="go")
    assert (done.returncode, "FRONTEND=go: it is auto, rust or python" in done.stderr) == (2, True)
    for target, passed in (("cpu", True), ("cuda", False)):
        _, calls = script("build_image.sh", images=f"vllm-engine:{target}", TARGET=target, FRONTEND="rust")
        assert ("--build-arg FRONTEND " in asked(calls, "build")[0]) == passed


@pytest.mark.parametrize(
    ("variables", "published", "told"),
    [
        ({}, "127.0.0.1", "reached from this machine alone until API_KEYS or HOST is set"),
        ({"API_KEYS": "a-long-key"}, "0.0.0.0", "http://127.0.0.1:8000, published on all addresses"),
        ({"API_KEYS": "a-long-key", "HOST": "127.0.0.1"}, "127.0.0.1", "published on HOST=127.0.0.1"),
        ({"HOST": "10.0.0.7"}, "10.0.0.7", "http://10.0.0.7:8000, published on HOST=10.0.0.7"),
        ({"HOST": "::1", "TLS_CERT_FILE": "/x"}, "[::1]", "https://[::1]:8000, published on HOST=::1"),
    ],
)
def test_where_ports_are_published(
    script: Script, variables: dict[str, str], published: str, told: str
) -> None:
    """On loopback unless HOST is set or keys are; SSH, where it is asked for, at the same address."""
    ssh = {"PUBLIC_KEY": "ssh-ed25519 AAAA", "SSH_HOST_PORT": "2022"}
    for more, ports in (({}, ["8000:8000"]), (ssh, ["8000:8000", "2022:22"])):
        done, calls = script("run_image.sh", images="vllm-engine:cpu", TARGET="cpu", **variables, **more)
        assert told in done.stdout, done.stdout + done.stderr
        words = asked(calls, "run")[0].split()
        found = [after for word, after in pairwise(words) if word == "--publish"]
        assert found == [f"{published}:{port}" for port in ports]
        assert ("SYS_CHROOT" in words) == (more == ssh)


SERVER = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --config) echo "$(cat "$2")" ;; http*) echo "$1" ;; esac
    shift
done >>"{asked}"
echo 'curl: (7) Failed to connect' >&2
exit 7
"""


@pytest.mark.parametrize(
    ("variables", "url", "key"),
    [
        ({}, "http://127.0.0.1:8000", None),
        ({"API_KEYS": "one:sha256:abc, two:first-key three:other-key", "PORT": "9"}, "http://127.0.0.1:9", "first-key"),
        ({"API_KEYS": "a-bare*key", "HOST": "0.0.0.0"}, "http://127.0.0.1:8000", "a-bare*key"),
        ({"API_KEYS": "a-bare-key", "API_KEY": "another-key", "HOST": "10.0.0.7"}, "http://10.0.0.7:8000", "another-key"),
        ({"API_KEYS": "a-bare-key", "BASE_URL": "http://elsewhere:1/v1/"}, "http://elsewhere:1", None),
        ({"HOST": "::", "TLS_CERT_FILE": "/x"}, "https://[::1]:8000", None),
    ],
)  # fmt: skip
def test_what_smoke_test_asks(
    script: Script, tmp_path: Path, variables: dict[str, str], url: str, key: str | None
) -> None:
    """The server that .env describes, with a key of its own; another server gets none of these keys."""
    curl = tmp_path / "curl"
    curl.write_text(SERVER.format(asked=tmp_path / "asked"))
    curl.chmod(0o755)
    environ = variables | {"PATH": f"{tmp_path}:/usr/bin:/bin", "TIMEOUT_SECONDS": "0"}
    script("smoke_test.sh", **environ)
    lines = (tmp_path / "asked").read_text().splitlines()
    assert f"{url}/healthz" in lines
    assert [line for line in lines if "Bearer" in line] == (
        [f'header = "Authorization: Bearer {key}"'] if key else []
    )
    assert ("insecure" in lines) == url.startswith("https")


def test_env_file_is_every_scripts(script: Script, tmp_path: Path) -> None:
    """TARGET, PORT and API_KEYS of .env hold for all three."""
    port = free_port()
    (tmp_path / "checkout/.venv").symlink_to(ROOT / ".venv")
    (tmp_path / ".env").write_text(f"TARGET=cpu\nPORT={port}\nAPI_KEYS=me:a-long-key\n")
    _, calls = script("build_image.sh", images="vllm-engine:cpu")
    assert "--target cpu" in asked(calls, "build")[0]
    _, calls = script("run_image.sh", images="vllm-engine:cpu")
    assert f"--publish 0.0.0.0:{port}:{port}" in asked(calls, "run")[0]
    done, _ = script("smoke_test.sh", TIMEOUT_SECONDS="0")
    assert f"nothing listens at http://127.0.0.1:{port}" in done.stderr
