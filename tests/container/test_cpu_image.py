"""The cpu image with the real vLLM and the bundled model, built and broken for real (CONTAINER_E2E=1).

Each test prints what it measured; `pytest -s` shows it. A built image is named by CONTAINER_E2E_IMAGE.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.container.box import Box, Docker, in_flight, is_whole, kill_engine, options, stream_of
from tests.container.conftest import ROOT
from tests.container.test_container_life import STREAMS
from tests.container.test_image import HARDENED, copied, copy_of_checkout
from tests.support.fake.fake_hub import Hub, fake_hub
from tests.support.program import until

pytestmark = pytest.mark.skipif(
    os.environ.get("CONTAINER_E2E") != "1", reason="NOT TESTED: the real cpu image: set CONTAINER_E2E=1"
)

TOKEN = "hf_a_secret_of_the_build"
MODEL = "bundled:smollm2-135m-instruct"
IMAGE_BYTES = 2.6e9
START_SECONDS = 400.0
REBUILD_SECONDS = 20.0


@pytest.fixture(scope="session")
def cpu_image(docker: Docker, base_image: str) -> str:
    """The cpu image, built by the script that users build with."""
    if given := os.environ.get("CONTAINER_E2E_IMAGE"):
        return given
    environ = docker.environ | {"TARGET": "cpu", "BASE_IMAGE": base_image}
    began = time.monotonic()
    done = subprocess.run([ROOT / "scripts/build_image.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"\nMEASURED build: {time.monotonic() - began:.0f} s")
    return "vllm-engine:cpu"


@pytest.fixture(scope="module")
def cache(docker: Docker) -> Iterator[str]:
    """A volume for all tests of this file, so that the model is converted once."""
    name = f"vllm-engine-test-{os.getpid()}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name, check=False)


@pytest.fixture
def real(docker: Docker, cpu_image: str, cache: str) -> Iterator[Box]:
    """A hardened container, ready."""
    box = begin(docker, cpu_image, cache, *HARDENED[:4], "--user=10001:0", "--pids-limit=512", "--memory=6g")
    began = time.monotonic()
    try:
        box.until_ready(START_SECONDS)
        print(f"\nMEASURED ready: {time.monotonic() - began:.0f} s, memory {memory(box)}")
        yield box
    finally:
        print("\n".join(line for line in box.logs().splitlines() if '"gateway' in line))
        docker("rm", "--force", "--volumes", box.name, check=False)


def begin(docker: Docker, image: str, cache: str, *words: str, **variables: str) -> Box:
    """Start a container of it."""
    name = f"vllm-engine-test-{time.monotonic_ns()}"
    fixed = ("--shm-size=1g", "--publish=127.0.0.1::8000", f"--volume={cache}:/cache")
    docker(
        "run", "--detach", "--name", name, *fixed, *options(*words, **{"MODEL_ID": MODEL} | variables), image
    )
    return Box(docker, name)


def memory(box: Box) -> str:
    """Return what Docker says of its memory."""
    return box.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", box.name)


def test_sizes(docker: Docker, cpu_image: str) -> None:
    """The image keeps its budget."""
    size = int(docker.inspect(cpu_image)["Size"])
    print(f"\nMEASURED size: {size / 1e6:.0f} MB, layers {copied(docker, cpu_image)}")
    assert size < IMAGE_BYTES


def test_labels(docker: Docker, cpu_image: str) -> None:
    """It says what it is."""
    labels = docker.inspect(cpu_image)["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.created"] and labels["org.opencontainers.image.revision"]
    assert labels["ai.vllm.version"]


def test_hardened_it_answers_and_stops_without_a_truncated_stream(real: Box) -> None:
    """smoke_test.sh against it; then docker stop under 16 streams."""
    environ = real.docker.environ | {"BASE_URL": real.url}
    done = subprocess.run([ROOT / "scripts/smoke_test.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    url = real.url
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream_of, url, MODEL, 60, START_SECONDS) for _ in range(STREAMS)]
        until(lambda: in_flight(url) == STREAMS, "sixteen streams", 60)
        print(f"MEASURED memory under {STREAMS} streams: {memory(real)}")
        began = time.monotonic()
        real.stop()
        print(f"MEASURED stop under {STREAMS} streams: {time.monotonic() - began:.1f} s")
        answers = [stream.result() for stream in streams]
    assert [text[-300:] for _, text in answers if not is_whole(text)] == []
    assert real.state["ExitCode"] == 0


def test_a_killed_engine_is_recovered(real: Box) -> None:
    """The engine's leader is killed inside; it is back, and nothing of the first is left."""
    (core,) = real.named("VLLM::EngineCore")
    began = time.monotonic()
    engine = kill_engine(real)
    real.until_logged("the engine is started again", 60)
    real.until_ready(START_SECONDS)
    print(f"\nMEASURED recovery: {time.monotonic() - began:.0f} s")
    assert {engine, core}.isdisjoint(real.processes())
    assert len(real.named("VLLM::EngineCore")) == 1
    until(lambda: not [each for each in real.processes().values() if each["state"] == "Z"], "no zombies")
    status, text = stream_of(real.url, MODEL, 8, 120)
    assert status == 200 and is_whole(text)


def test_the_memory_limit_is_told(docker: Docker, cpu_image: str, cache: str) -> None:
    """A container whose memory does not do ends with a diagnosis that names its limit."""
    box = begin(
        docker, cpu_image, cache, "--memory=1200m", "--memory-swap=1200m", KV_CACHE_MEMORY_BYTES="400000000"
    )
    try:
        began = time.monotonic()
        status = box.wait(START_SECONDS)
        last = box.logs().splitlines()[-1]
        print(
            f"\nMEASURED memory limit reached: exit status {status} after {time.monotonic() - began:.0f} s: {last}"
        )
        assert status == 3
        assert "memory limit" in last
    finally:
        docker("rm", "--force", "--volumes", box.name, check=False)


def test_a_change_of_code_is_built_quickly(
    docker: Docker, cpu_image: str, base_image: str, tmp_path: Path
) -> None:
    """One line of our code: some seconds, and one small layer."""
    if cpu_image != "vllm-engine:cpu":
        pytest.skip("NOT TESTED: the rebuild: the image was given")
    clone = copy_of_checkout(tmp_path)
    with (clone / "src/vllm_engine/cli/start_display.py").open("a") as code:
        code.write("\n# one line more\n")
    environ = docker.environ | {"TARGET": "cpu", "IMAGE_TAG": "cpu-changed", "BASE_IMAGE": base_image}
    began = time.monotonic()
    subprocess.run([clone / "scripts/build_image.sh"], env=environ, check=True, capture_output=True)
    seconds = time.monotonic() - began
    pushed = copied(docker, "vllm-engine:cpu-changed")["/"]
    before = docker.inspect(cpu_image)["RootFS"]["Layers"]
    after = docker.inspect("vllm-engine:cpu-changed")["RootFS"]["Layers"]
    docker("rmi", "vllm-engine:cpu-changed")
    print(f"\nMEASURED rebuild: {seconds:.1f} s, pushes {pushed / 1e6:.2f} MB")
    assert before[:-1] == after[:-1]
    assert pushed < 5e6


def test_a_model_in_the_image(docker: Docker, cpu_image: str, base_image: str) -> None:
    """BAKE_MODEL=1: a gated model is fetched with a secret that stays out of the image, and is then served."""
    gateway = docker.inspect("bridge")["IPAM"]["Config"][0]["Gateway"]
    hub = Hub(
        "org/model",
        {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"x" * 200_000},
        token=TOKEN,
    )
    with fake_hub(hub, gateway):
        environ = docker.environ | {"TARGET": "cpu", "IMAGE_TAG": "cpu-baked", "BASE_IMAGE": base_image}
        environ |= {"BAKE_MODEL": "1", "MODEL_ID": "org/model", "HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url}
        done = subprocess.run([ROOT / "scripts/build_image.sh"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    image = "vllm-engine:cpu-baked"
    try:
        assert (
            TOKEN
            not in docker("history", "--no-trunc", image)
            + docker("inspect", image)
            + done.stdout
            + done.stderr
        )
        offline = ("run", "--rm", "--network=none")
        served = docker(*offline, image, "sh", "-c", "echo $MODEL_ID $SERVED_MODEL_NAME; ls -A /opt/model")
        assert served.split() == ["/opt/model", "org/model", ".model-id", "config.json", "model.safetensors"]
        other = docker(
            *offline, "--env=MODEL_ID=org/other", image, "sh", "-c", "echo $MODEL_ID $SERVED_MODEL_NAME"
        )
        assert other == "org/other"
    finally:
        docker("rmi", image, check=False)
