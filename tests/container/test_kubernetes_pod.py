"""A container run as the chart's pod is: what each of its probes says in each state, and that its grace period is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.container.box import CONTAINER_SECONDS, Box, Docker, kill_engine
from tests.container.conftest import ROOT, StartBox, starting
from tests.support.fake.fake_scenarios import Scenario, change_scenario, write_scenario
from tests.support.program import until
from tests.unit.deploy.charts import helms, one

KEY = "a-key-that-is-long-enough"
ANSWER = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "Count."}]}


@dataclass(frozen=True)
class Pod:
    """The pod of deploy/kubernetes/vllm-engine.yaml, which a test of the units compares with the chart."""

    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["containers"][0]
        return found

    @property
    def grace(self) -> int:
        return int(self.spec["terminationGracePeriodSeconds"])

    def options(self, folder: Path) -> list[str]:
        """Return the options of `docker run` that come nearest to what a kubelet does with it."""
        rights, own = self.spec["securityContext"], self.container["securityContext"]
        assert own["readOnlyRootFilesystem"]
        assert not own["allowPrivilegeEscalation"]
        mounts = {each["name"]: each["mountPath"] for each in self.container["volumeMounts"]}
        env = {each["name"]: each["value"] for each in self.container["env"] if "value" in each}
        health = {each["name"]: each["containerPort"] for each in self.container["ports"]}["health"]
        return [
            *("--user", f"{rights['runAsUser']}:{rights['runAsGroup']}", "--read-only"),
            *(f"--cap-drop={each}" for each in own["capabilities"]["drop"]),
            *("--security-opt=no-new-privileges", "--publish", f"127.0.0.1::{health}"),
            *("--volume", f"{folder / 'tmp'}:{mounts['tmp']}"),
            *("--volume", f"{folder / 'secret'}:{mounts['keys']}:ro"),
            *(word for name, value in env.items() for word in ("--env", f"{name}={value}")),
            *("--env", "MODEL_ID=/opt/fake/model"),
        ]

    def says(self, box: Box) -> dict[str, bool]:
        """Ask each probe as a kubelet does: which of them succeed."""
        return {
            name: _succeeds(box, self.container[f"{name}Probe"])
            for name in ("startup", "liveness", "readiness")
        }


def _succeeds(box: Box, probe: dict[str, Any]) -> bool:
    """Any status from 200 to 399 in time: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/."""
    asked = probe["httpGet"]
    assert asked["port"] == "health"
    try:
        answer = httpx2.get(
            f"http://127.0.0.1:{box.port(8001)}{asked['path']}", timeout=probe["timeoutSeconds"]
        )
    except httpx2.TransportError:
        return False
    return 200 <= answer.status_code < 400


ALIVE = {"startup": True, "liveness": True, "readiness": False}
READY = ALIVE | {"readiness": True}


@pytest.fixture
def pod() -> Pod:
    text = (ROOT / "deploy/kubernetes/vllm-engine.yaml").read_text()
    (workload,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "Deployment"]
    return Pod(workload["spec"]["template"]["spec"])


@pytest.fixture
def run_pod(docker: Docker, fake_image: str, pod: Pod, tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Start the pod's container, with a fake engine that does as it is told and more variables."""
    for name in ("tmp", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    keys = tmp_path / "secret/keys"
    keys.write_text(f"me:{KEY}\n")
    keys.chmod(0o440)  # and root's group, as a Secret's files are
    with starting(docker, fake_image, *pod.options(tmp_path)) as start_box:

        def start(scenario: Scenario, **variables: str) -> Box:
            write_scenario(_scenario(tmp_path), scenario)
            return start_box(**variables)

        yield start


def _scenario(folder: Path) -> Path:
    return folder / "tmp/scenario.json"


def test_probes_while_it_loads_and_when_it_failed(run_pod: StartBox, pod: Pod) -> None:
    """Neither a long start nor a failure that is held for people to read gets a pod killed, or requests."""
    box = run_pod(Scenario(never_ready=True), ON_FATAL="hold", MAX_RESTARTS="0")
    until(lambda: box.named("VLLM::EngineCore"), "the engine", CONTAINER_SECONDS)
    assert box.health()["state"] == "starting"
    assert pod.says(box) == ALIVE
    kill_engine(box)
    until(lambda: box.health().get("state") == "failed", "the failure", CONTAINER_SECONDS)
    assert pod.says(box) == ALIVE


def test_probes_around_a_restart_and_the_stop_of_a_pod(run_pod: StartBox, pod: Pod, tmp_path: Path) -> None:
    """Ready; the engine lost and started again inside; SIGTERM under a stream, which ends whole within the grace period."""
    box = run_pod(Scenario())
    until(lambda: pod.says(box) == READY, "readiness", CONTAINER_SECONDS)

    change_scenario(_scenario(tmp_path), never_ready=True)
    kill_engine(box)
    until(lambda: box.health().get("state") not in (None, "ready"), "the loss", CONTAINER_SECONDS)
    assert pod.says(box) == ALIVE
    until(lambda: box.named("VLLM::EngineCore"), "the next engine", CONTAINER_SECONDS)
    assert pod.says(box) == ALIVE
    change_scenario(_scenario(tmp_path), never_ready=False, tokens=120, tokens_per_second=20)
    kill_engine(box)
    until(lambda: pod.says(box) == READY, "readiness again", CONTAINER_SECONDS)

    url = f"{box.url}/v1/chat/completions"
    with ThreadPoolExecutor(1) as pool:
        with httpx2.stream("POST", url, json=ANSWER, headers={"x-api-key": KEY}, timeout=90) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            # Docker kills after that time, as a kubelet does, and then the status is 137.
            stop = pool.submit(
                box.docker, "stop", "--time", str(pod.grace), box.name, seconds=CONTAINER_SECONDS
            )
            until(lambda: pod.says(box)["readiness"] is False, "the drain", CONTAINER_SECONDS)
            assert pod.says(box)["liveness"]
            text = "\n".join([first, *lines])
        stop.result()
    assert text.rstrip().endswith("data: [DONE]")
    assert '"error"' not in text
    assert (box.state["ExitCode"], box.state["OOMKilled"]) == (0, False)


def test_the_smoke_test_of_the_chart(run_pod: StartBox, docker: Docker, fake_image: str) -> None:
    """`helm test` runs these arguments in this image."""
    if not helms():
        pytest.skip("NOT TESTED: the chart's smoke test: run .venv/bin/python -m tools.helm")
    box = run_pod(Scenario())
    (container,) = one(helms()[-1].render({"apiKeys": {"keys": {"me": KEY}}}), "Pod")["spec"]["containers"]
    words = [word.replace("vllm-engine", "127.0.0.1") for word in container["args"]]
    # What is no value comes from the Secret that the test makes.
    env = {each["name"]: each.get("value", KEY) for each in container["env"]}
    variables = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    rights = ("--user", "10001:0", "--read-only", "--cap-drop=ALL", "--tmpfs", "/tmp")
    said = docker(
        "run", "--rm", "--network", f"container:{box.name}", *rights, *variables, fake_image, *words
    )
    checks = [line for line in said.splitlines() if line.startswith(("ok ", "fail ", "warn "))]
    assert len(checks) >= 4
    assert all(line.startswith("ok ") for line in checks), said
