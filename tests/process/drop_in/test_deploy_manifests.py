"""What deploy/kserve and deploy/llm-d set and ask, from the manifests themselves, against the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process.drop_in.orchestrators import (
    KEY,
    ROOT,
    Orchestrator,
    ends_in_silence,
    outlives_a_restart_inside,
    serves,
    started,
    status,
)
from tests.support.fake.fake_engine import make_fake_engine_python

# What a test has elsewhere, and the time that only a load balancer needs.
HERE = {
    "MODEL_ID": "{model}",
    "SERVED_MODEL_NAME": "served",
    "CACHE_DIR": "{folder}/cache",
    "HOME": "{folder}",
    "LAME_DUCK_SECONDS": "0",
}


def container(file: str) -> dict[str, Any]:
    manifest = next(yaml.safe_load_all((ROOT / file).read_text()))
    spec = manifest["spec"]
    found: dict[str, Any] = spec.get("template", {}).get("spec", spec)["containers"][0]
    return found


@pytest.mark.parametrize(
    ("file", "has_key"),
    [
        ("deploy/kserve/runtime.yaml", False),
        ("deploy/llm-d/model-server.yaml", False),
        ("deploy/llm-d/model-server.yaml", True),
    ],
)
def test_settings_and_probes(file: str, has_key: bool, tmp_path: Path, model_folder: Path) -> None:
    """It is served, its liveness probe never fails, and with keys readiness is asked where the manifest says."""
    given = container(file)
    paths = {probe: given[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")}
    variables = {each["name"]: each["value"] for each in given["env"] if "value" in each}
    system = Orchestrator(
        f"{sys.executable} -m vllm_engine.cli serve --port {{port}}",
        variables=variables | HERE | ({"API_KEYS": KEY} if has_key else {}),
        liveness=paths["liveness"],
        readiness="/healthz" if has_key else paths["readiness"],
        has_key=has_key,
    )
    system.variables.pop("PORT", None)
    engine = make_fake_engine_python(tmp_path / "engine")
    with started(system, tmp_path, model_folder, engine) as (program, served):
        command = serves(program, served, system)
        assert status(program, "/v1/models") == (401 if has_key else 200)
        outlives_a_restart_inside(program, served, system)
        ends_in_silence(program, system, command)
