"""A real Docker engine, the image with the fake engine in it, and containers of it that go with the test."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.container.box import Box, Docker, options
from tests.container.docker_engine import NoDocker, find_client, running_engine

ROOT = Path(__file__).parents[2]
FAKE_IMAGE = "vllm-engine:fake"
BUILD_SECRET = "hf_this_is_in_no_image"

StartBox = Callable[..., Box]


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """Docker's client, with an engine that answers."""
    try:
        client = find_client()
        with running_engine(client):
            yield Docker(client)
    except NoDocker as reason:
        pytest.skip(f"NOT TESTED: the container image: {reason}")


@pytest.fixture(scope="session")
def base_image(docker: Docker) -> str:
    """The image to build on: BASE_IMAGE, or the Dockerfile's own, or a stand-in for that."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    script = ROOT / "tests/container/base_image.sh"
    done = subprocess.run([script], env={**os.environ, **docker.environ}, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED: the container image: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture(scope="session")
def fake_image(docker: Docker, base_image: str) -> str:
    """The image `fake`, built by the script that users build with."""
    environ = docker.environ | {"TARGET": "fake", "BASE_IMAGE": base_image, "HF_TOKEN": BUILD_SECRET}
    done = subprocess.run(
        [ROOT / "scripts/build_image.sh"], env=environ, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return FAKE_IMAGE


@pytest.fixture
def start(docker: Docker, fake_image: str) -> Iterator[StartBox]:
    """Start a container of the image `fake` with these options and variables; it is removed after the test."""
    boxes: list[Box] = []

    def start_box(*words: str, command: tuple[str, ...] = (), **variables: str) -> Box:
        name = f"vllm-engine-test-{secrets.token_hex(4)}"
        fixed = ("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000")
        boxes.append(Box(docker, name))
        docker(*fixed, *options(*words, **variables), fake_image, *command)
        return boxes[-1]

    yield start_box
    for box in boxes:
        lines = docker("logs", box.name, check=False).splitlines()
        print(*(line for line in lines if '"source": "engine"' not in line), sep="\n")
        docker("rm", "--force", "--volumes", box.name, check=False)


@pytest.fixture
def volume(docker: Docker) -> Iterator[str]:
    """An empty volume."""
    name = f"vllm-engine-test-{secrets.token_hex(4)}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name, check=False)
