"""A real Docker engine, the image with the fake engine in it, and containers of it that go with the test."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.container.box import Box, Docker, options
from tests.container.docker_engine import NoDocker, find_client, running_engine
from tests.support.program import free_port

ROOT = Path(__file__).parents[2]
BUILD_SECRET = "hf_this_is_in_no_image"
APP_UID = 10001

StartBox = Callable[..., Box]


def build(docker: Docker, base_image: str, checkout: Path = ROOT, /, **variables: str) -> str:
    """Build an image with the script that users build with; returns what it said."""
    environ = docker.environ | {"BASE_IMAGE": base_image} | variables
    script = checkout / "scripts/build_image.sh"
    done = subprocess.run([script], env=environ, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


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
    """The image `fake`."""
    build(docker, base_image, TARGET="fake", HF_TOKEN=BUILD_SECRET)
    return "vllm-engine:fake"


@contextmanager
def starting(docker: Docker, image: str, *always: str) -> Iterator[StartBox]:
    """Start containers of an image with these and other options and variables; they are removed afterwards."""
    boxes: list[Box] = []

    def start_box(*words: str, command: tuple[str, ...] = (), **variables: str) -> Box:
        name = f"vllm-engine-test-{secrets.token_hex(4)}"
        fixed = ("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *always)
        boxes.append(Box(docker, name))
        docker(*fixed, *options(*words, **variables), image, *command)
        return boxes[-1]

    yield start_box
    for box in boxes:
        lines = docker("logs", box.name, check=False).splitlines()
        print(*(line for line in lines if '"source": "engine"' not in line), sep="\n")
        docker("rm", "--force", "--volumes", box.name, check=False)


@contextmanager
def new_volume(docker: Docker) -> Iterator[str]:
    name = f"vllm-engine-test-{secrets.token_hex(4)}"
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", "--force", name)


@pytest.fixture
def volume(docker: Docker) -> Iterator[str]:
    """An empty volume."""
    with new_volume(docker) as name:
        yield name


@pytest.fixture
def start(docker: Docker, fake_image: str, volume: str) -> Iterator[StartBox]:
    """Start containers of the image `fake`; they are removed before the volume, which one may use."""
    with starting(docker, fake_image) as start_box:
        yield start_box


@pytest.fixture
def environ(docker: Docker, fake_image: str, volume: str) -> Iterator[dict[str, str]]:
    """Variables for the scripts and for Compose; whatever container the scripts start is removed."""
    name = f"vllm-engine-test-{secrets.token_hex(4)}"
    repository, tag = fake_image.split(":")
    yield docker.environ | {
        "NAME": name, "IMAGE_REPO": repository, "IMAGE_TAG": tag, "TARGET": "cpu", "PORT": str(free_port()),
        "CACHE_VOLUME": volume, "MODEL_ID": "/opt/fake/model",
    }  # fmt: skip
    print(docker("logs", "--tail", "5", name, check=False))
    docker("rm", "--force", "--volumes", name, check=False)
