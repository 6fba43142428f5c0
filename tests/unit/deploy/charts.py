"""The chart, rendered by Helm, and what Kubernetes' own schemas say of the result."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

from tools.chart.custom_resources import Kubernetes, errors, kinds
from tools.helm import RELEASES

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/vllm-engine"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
MINORS = ("1.35", "1.36", "1.37")
"""Of Kubernetes: those that its project keeps at the time of writing."""

Object = dict[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "LeaderWorkerSet")
COMPONENT = "app.kubernetes.io/component"
CUSTOM = kinds().keys()


class Refused(Exception):
    """Helm ended with an error; the text is what it printed."""


@dataclass(frozen=True)
class Helm:
    """One of the versions."""

    major: str
    binary: Path

    def __call__(self, *words: str | Path, given: str = "") -> str:
        """Run a command with values on its standard input; returns what it printed.

        Raises:
            Refused: it failed.
        """
        done = subprocess.run(
            [self.binary, *map(str, words)], input=given, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            raise Refused(done.stderr + done.stdout)
        return done.stdout

    def text(self, values: Mapping[str, Any], *words: str | Path, name: str = "vllm-engine") -> str:
        """Render the chart with these values."""
        return self("template", name, CHART, *words, "--values", "-", given=json.dumps(values))

    def render(
        self, values: Mapping[str, Any], *words: str | Path, name: str = "vllm-engine"
    ) -> list[Object]:
        """Render the chart with these values; returns the objects."""
        return objects(self.text(values, *words, name=name))

    def texts(self, cases: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
        """Render the chart for each of these values in one run, as parts of one chart: far sooner than one by one.

        Blank lines, of which the versions print different ones, are left out.
        """
        folder.mkdir()
        self("package", CHART, "--destination", folder / "charts")
        names = [f"part{number:04}" for number in range(len(cases))]
        own = {"name": "vllm-engine", "version": _metadata()["version"]}
        parts = [{**own, "alias": name} for name in names]
        chart = {"apiVersion": "v2", "name": "all", "version": "1.0.0", "dependencies": parts}
        (folder / "Chart.yaml").write_text(json.dumps(chart))
        values = json.dumps(dict(zip(names, cases, strict=True)))
        text = self("template", "all", folder, "--values", "-", given=values)
        found = dict.fromkeys(names, "")
        pieces = iter(re.split(r"^---\n# Source: all/charts/(part\d{4})/", text, flags=re.MULTILINE)[1:])
        for name, piece in zip(pieces, pieces, strict=True):
            lines = [line for line in piece.replace(name, "chart").splitlines() if line.strip()]
            found[name] += "\n".join(["---", f"# {lines[0]}", *lines[1:], ""])
        return list(found.values())


@cache
def _metadata() -> Object:
    metadata: Object = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return metadata


def helms() -> list[Helm]:
    """Return the versions that are there, the newest last."""
    return [Helm(release.version[0], release.binary) for release in RELEASES if release.binary.is_file()]


def objects(text: str) -> list[Object]:
    """Parse what Helm printed."""
    return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]


def one(found: Iterable[Object], kind: str, suffix: str = "") -> Object:
    """Return the one object of a kind, or of several the one whose name ends so."""
    matching = [each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
    assert len(matching) == 1, [(each["kind"], each["metadata"]["name"]) for each in matching]
    return matching[0]


def pod_of(found: Iterable[Object]) -> Object:
    """Return the specification of the engine's pods."""
    (workload,) = [
        each
        for each in found
        if each["kind"] in WORKLOADS and each["metadata"]["labels"][COMPONENT] == "engine"
    ]
    spec: Object = (
        workload["spec"]
        .get("leaderWorkerTemplate", {})
        .get("workerTemplate", workload["spec"].get("template"))["spec"]
    )
    return spec


def engine_of(found: Iterable[Object]) -> Object:
    """Return the engine's container."""
    container: Object = pod_of(found)["containers"][0]
    return container


def env_of(found: Iterable[Object]) -> dict[str, str]:
    """Return the engine's variables that are given as they are."""
    return {each["name"]: each["value"] for each in engine_of(found)["env"] if "value" in each}


def faults(found: Iterable[Object], minor: str) -> list[str]:
    """Return what a minor version of Kubernetes, or tests/data/crds/fields.yaml, has against objects.

    Strictly, as `kubernetes-validate --strict` does: a field that Kubernetes does not have is a fault.
    """
    return [fault for each in found for fault in _faults(json.dumps(each), minor)]


@cache
def _faults(text: str, minor: str) -> list[str]:
    each = json.loads(text)
    name = f"{minor}: {each['kind']} {each['metadata']['name']}"
    if f"{each['apiVersion']} {each['kind']}" in CUSTOM:
        return [f"{name}: {fault}" for fault in errors(each, kubernetes(minor))]
    found = _validator(each["kind"], each["apiVersion"], minor).iter_errors(each)
    return [f"{name}: {'.'.join(map(str, fault.path))}: {fault.message}" for fault in found]


@cache
def kubernetes(minor: str) -> Kubernetes:
    """Return Kubernetes' own types, for what custom resources contain of them."""
    return Kubernetes(schemas(minor))


@cache
def _validator(kind: str, api_version: str, minor: str) -> jsonschema.Draft202012Validator:
    group, slash, version = api_version.partition("/")
    name = f"{kind.lower()}-{group.partition('.')[0]}{'-' if slash else ''}{version}.json"
    return jsonschema.Draft202012Validator(_schema(minor, name), registry=_definitions(minor))


@cache
def _definitions(minor: str) -> Registry[Any]:
    return Resource.from_contents(_schema(minor, "_definitions.json")) @ Registry()


def _schema(minor: str, name: str) -> Any:
    return json.loads((schemas(minor) / name).read_text())


def schemas(minor: str) -> Path:
    """Return the folder with the strict schemas of a minor version."""
    return Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{minor}.0-local-strict"
