"""The cpu image with the real vLLM and the bundled model, built and broken for real (CONTAINER_E2E=1).

Each test prints what it measured; `pytest -s` shows it. A built image is named by CONTAINER_E2E_IMAGE.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.box import Box, Docker, recovers, stop_under_streams, truncated
from tests.container.conftest import ROOT, StartBox, build, new_volume, starting
from tests.container.test_image import CODE_LAYER_BYTES, HARDENED, copied, rebuilt
from tests.support.fake.fake_hub import Hub, fake_hub

pytestmark = pytest.mark.skipif(
    os.environ.get("CONTAINER_E2E") != "1", reason="NOT TESTED: the real cpu image: set CONTAINER_E2E=1"
)

TOKEN = "hf_a_secret_of_the_build"
MODEL = "bundled:smollm2-135m-instruct"
IMAGE_BYTES = 2.7e9
START_SECONDS = 400.0


@pytest.fixture(scope="session")
def cpu_image(docker: Docker, base_image: str) -> str:
    if given := os.environ.get("CONTAINER_E2E_IMAGE"):
        return given
    began = time.monotonic()
    build(docker, base_image, TARGET="cpu")
    print(f"\nMEASURED build: {time.monotonic() - began:.0f} s")
    return "vllm-engine:cpu"


@pytest.fixture(scope="module")
def cache(docker: Docker) -> Iterator[str]:
    """A volume for all tests of this file, so that the model is converted once."""
    with new_volume(docker) as name:
        yield name


@pytest.fixture
def start(docker: Docker, cpu_image: str, cache: str) -> Iterator[StartBox]:
    always = ("--shm-size=1g", f"--volume={cache}:/cache", f"--env=MODEL_ID={MODEL}")
    with starting(docker, cpu_image, *always) as start_box:
        yield start_box


@pytest.fixture
def real(start: StartBox) -> Box:
    """A hardened container, ready."""
    began = time.monotonic()
    box = start(*HARDENED[:4], "--user=10001:0", "--pids-limit=512", "--memory=6g")
    box.until_ready(START_SECONDS)
    print(f"\nMEASURED ready: {time.monotonic() - began:.0f} s, memory {memory(box)}")
    return box


def memory(box: Box) -> str:
    return box.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", box.name)


def test_size_and_labels(docker: Docker, cpu_image: str) -> None:
    size = int(docker.inspect(cpu_image)["Size"])
    print(f"\nMEASURED size: {size / 1e6:.0f} MB, layers {copied(docker, cpu_image)}")
    assert size < IMAGE_BYTES
    labels = docker.inspect(cpu_image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.created"] and labels["org.opencontainers.image.revision"]
    rust = "/opt/engine/lib/python3*/site-packages/vllm/vllm-rs --version"
    said = docker("run", "--rm", "--entrypoint=/bin/sh", cpu_image, "-c", rust)
    assert said.strip() == f"vllm-rs {labels['ai.vllm.version']}"


def test_hardened_it_answers_and_stops_without_a_truncated_stream(real: Box) -> None:
    """smoke_test.sh against it; then docker stop under 16 streams."""
    environ = real.docker.environ | {"BASE_URL": real.url}
    done = subprocess.run([ROOT / "scripts/smoke_test.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    cut = stop_under_streams(
        real, MODEL, 60, START_SECONDS, lambda box: print("MEASURED memory:", memory(box))
    )
    assert cut == []


def test_a_killed_engine_is_recovered(real: Box) -> None:
    began = time.monotonic()
    recovers(real, START_SECONDS)
    print(f"\nMEASURED recovery: {time.monotonic() - began:.0f} s")
    assert not truncated(real.url, MODEL, 8, 120)


def test_the_memory_limit_is_told(start: StartBox) -> None:
    """A container whose memory does not do ends with a diagnosis that names its limit."""
    began = time.monotonic()
    box = start("--memory=1200m", "--memory-swap=1200m", KV_CACHE_MEMORY_BYTES="400000000")
    status, last = box.wait(START_SECONDS), box.logs().splitlines()[-1]
    print(f"\nMEASURED memory limit: exit status {status} after {time.monotonic() - began:.0f} s: {last}")
    assert (status, "memory limit" in last) == (3, True)


def test_a_change_of_code_is_built_quickly(
    docker: Docker, cpu_image: str, base_image: str, tmp_path: Path
) -> None:
    if cpu_image != "vllm-engine:cpu":
        pytest.skip("NOT TESTED: the rebuild: the image was given")
    began = time.monotonic()
    pushed = rebuilt(docker, cpu_image, base_image, tmp_path)
    print(f"\nMEASURED rebuild: {time.monotonic() - began:.1f} s, pushes {pushed / 1e6:.2f} MB")
    assert pushed < CODE_LAYER_BYTES


def test_a_model_in_the_image(docker: Docker, cpu_image: str, base_image: str) -> None:
    """BAKE_MODEL=1: a gated model is fetched with a secret that stays out of the image, and is then served."""
    gateway = docker.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    files = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"x" * 200_000}
    hub = Hub("org/model", files, token=TOKEN)
    with fake_hub(hub, gateway):
        environ = {"BAKE_MODEL": "1", "MODEL_ID": "org/model", "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}
        said = build(docker, base_image, TARGET="cpu", IMAGE_TAG="cpu-baked", **environ)
    image = "vllm-engine:cpu-baked"
    try:
        assert TOKEN not in docker("history", "--no-trunc", image) + docker("inspect", image) + said
        offline, names = ("run", "--rm", "--network=none"), "echo $MODEL_ID $SERVED_MODEL_NAME"
        served = docker(*offline, image, "sh", "-c", f"{names}; ls -A /opt/model")
        assert served.split() == ["/opt/model", "org/model", ".model-id", "config.json", "model.safetensors"]
        other = docker(*offline, "--env=MODEL_ID=org/other", image, "sh", "-c", names)
        assert other == "org/other"
    finally:
        docker("rmi", image, check=False)
