"""deploy/router as users start it: Compose, replicas that are scaled up and down under load, the real router before them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.container.box import CONTAINER_SECONDS, Docker
from tests.container.conftest import ROOT, base_image, docker, environ, fake_image, volume
from tests.container.test_compose import clients
from tests.support.model import CHAT
from tests.support.program import plain_client, until
from tests.support.routed.replicas import Clients, Ending

KEY = "secret-of-ours"
SLOW = "import json; p = '/tmp/scenario.json'; s = json.load(open(p)); s.update(tokens_per_second=16.0); json.dump(s, open(p, 'w'))"

__all__ = ["base_image", "clients", "docker", "environ", "fake_image", "volume"]

Scale = Callable[[int], None]


@pytest.fixture
def scale(
    environ: dict[str, str], clients: list[list[str]], docker: Docker, base_image: str, tmp_path: Path
) -> Iterator[Scale]:
    """Start the router and so many replicas, or change their number."""
    variables = environ | {
        "BASE_IMAGE": base_image, "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", "IMAGE_TAG": "fake",
        "PATH": f"{Path(docker.client).parent}:{environ['PATH']}",  # Compose builds with the client that it finds first
        "ROUTER_IMAGE": f"{environ['NAME']}-router", "API_KEYS": f"me:{KEY}", "SERVED_MODEL_NAME": "fake", "LAME_DUCK_SECONDS": "8",
    }  # fmt: skip
    base = [*clients[0], "--project-name", environ["NAME"], "-f", str(ROOT / "deploy/router/compose.yaml")]

    def compose(*words: str) -> str:
        done = subprocess.run(
            [*base, *words], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    compose("build", "router")
    yield lambda count: print(compose("up", "--detach", "--no-recreate", "--scale", f"engine={count}"))
    print(compose("logs", "--no-color", "router")[-5000:])
    compose("down", "--volumes")
    docker("rmi", variables["ROUTER_IMAGE"])


def test_replicas_come_and_go_under_load(scale: Scale, environ: dict[str, str], docker: Docker) -> None:
    """Two, three, one: each is found, each that goes is drained, and no stream is lost or truncated."""

    def healthy(router: httpx2.Client) -> int:
        try:
            workers = json.loads(router.get("/workers").text)["workers"]
        except (httpx2.TransportError, ValueError):
            return -1
        return (
            sum(worker["is_healthy"] for worker in workers) if all(w["is_healthy"] for w in workers) else -1
        )

    def of(service: str) -> list[str]:
        label = f"com.docker.compose.project={environ['NAME']}"
        found = docker(
            "ps",
            "--quiet",
            "--filter",
            f"label={label}",
            "--filter",
            f"label=com.docker.compose.service={service}",
        )
        return found.split()

    url = f"http://127.0.0.1:{environ['PORT']}"
    scale(2)
    with plain_client(url) as router:
        until(lambda: healthy(router) == 2, "two replicas", CONTAINER_SECONDS)
        for name in of("engine"):
            docker("exec", name, "/opt/gateway/bin/python", "-IS", "-c", SLOW)
        assert router.get("/v1/models").status_code == 401
        (front,) = of("router")
        assert docker("port", front).splitlines() == [f"8000/tcp -> 127.0.0.1:{environ['PORT']}"]
        assert docker("exec", front, "id", "-u") == "10001"
        asking = Clients(url, lambda _: CHAT, 4, KEY)
        until(lambda: asking.count(Ending.WHOLE) >= 8, "answers")
        scale(3)
        until(lambda: healthy(router) == 3, "three replicas", CONTAINER_SECONDS)
        scale(1)
        until(lambda: healthy(router) == 1, "one replica", CONTAINER_SECONDS)
        whole = asking.count(Ending.WHOLE)
        until(lambda: asking.count(Ending.WHOLE) >= whole + 4, "answers of the last")
        assert set(asking.stop()) == {Ending.WHOLE}, asking.details()
        until(
            lambda: docker.inspect(front)["State"]["Health"]["Status"] == "healthy",
            "health",
            CONTAINER_SECONDS,
        )
