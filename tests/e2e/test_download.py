"""A download from a hub, by the engine's own hub client: seen from outside, byte by byte."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CACHE_DIR, START_SECONDS
from tests.process.conftest import CONFIG
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.fake.fake_hub import COMMIT, Hub, fake_hub
from tests.support.program import Program, free_port, run_cli, running, until

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000
ID = "org/model"
SHARDS = {f"model-{n}.safetensors": bytes([n]) * (45 * MEGABYTE) for n in (1, 2, 3)}
"""The hub client (2.4) writes what it gets in pieces of 10 MB: smaller files come all at once."""

WEIGHTS = 135 * MEGABYTE


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one model in three shards, and files beside it that vLLM does not fetch."""
    index = {"weight_map": {f"layer.{n}": name for n, name in enumerate(SHARDS)}}
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        "pytorch_model.bin": b"b" * MEGABYTE,
        "README.md": b"Hello",
        **SHARDS,
    }
    with fake_hub(Hub(ID, files, bytes_per_second=10 * MEGABYTE)) as hub:
        yield hub


@contextmanager
def downloading(hub: Hub, engine_python: Path, folder: Path, **variables: str) -> Iterator[Program]:
    """Run our program with an engine that is fake but for its hub client."""
    site = subprocess.run(
        [engine_python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert site != sysconfig.get_path("purelib")
    if not (folder / "engine").exists():
        make_fake_engine_python(folder / "engine", {"fetch_weights": True}, packages=(Path(site),))
    environ = {"ENGINE_PYTHON": str(folder / "engine/bin/python"), "MODEL_ID": ID, "HF_ENDPOINT": hub.url}
    with running(environ | variables, folder=folder) as program:
        yield program


def watched(program: Program) -> list[dict[str, Any]]:
    """Return what /healthz said until readiness."""
    seen: list[dict[str, Any]] = []

    def ready() -> bool:
        body = program.health()
        if body is None:
            program.until_listening()
        else:
            seen.append(body)
        return body is not None and body["status"] == "ready"

    until(ready, "readiness", 60)
    return seen


def test_download_is_shown(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """Files and bytes of the weights alone, their total, a rate and a time left; then the engine loads."""
    with downloading(hub, engine_python, tmp_path) as program:
        seen = watched(program)
        log = program.log()
    during = [body for body in seen if body["phase"] == "downloading"]
    phases = list(dict.fromkeys(body["phase"] for body in seen))
    assert phases.index("downloading") > phases.index("importing")
    assert phases[-1] == "ready"
    last = during[-1]["download"]
    small = last["bytes_total"] - WEIGHTS
    assert 0 < small < 10_000, "config.json and the index are part of the total"
    assert last["files_total"] == 5
    done = [body["download"]["bytes_done"] for body in during]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert any(0.2 < (body["phase_fraction"] or 0) < 0.8 for body in during)
    rates = [body["download"]["bytes_per_second"] for body in during if body["download"]["bytes_per_second"]]
    assert rates, "a rate is known after a second"
    assert min(rates) > MEGABYTE
    assert any(body["download"]["remaining_seconds"] for body in during)
    assert "gateway.supervisor: downloading: " in log
    assert "downloading took " in log
    assert seen[-1]["download"] is None


def test_second_start_downloads_nothing(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """With the weights in the cache there is no such phase; the first start tells how long this one takes."""
    hub.bytes_per_second = 0
    for _ in (1, 2):
        with downloading(hub, engine_python, tmp_path) as program:
            seen = watched(program)
    assert not [body for body in seen if body["download"] or body["phase"] == "downloading"]
    assert [body for body in seen if body["estimate_seconds"] is not None]


def test_sizes_not_told(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A hub that does not tell sizes costs the total and nothing else."""
    hub.tells_sizes = False
    hub.bytes_per_second = 0
    with downloading(hub, engine_python, tmp_path) as program:
        seen = watched(program)
    assert not [body for body in seen if body["download"] and body["download"]["bytes_total"]]


def test_interrupted_download(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """What an earlier start left half-fetched does not count; what it finished does."""
    blobs = tmp_path / "cache/huggingface/hub/models--org--model/blobs"
    blobs.mkdir(parents=True)
    names = list(SHARDS)
    (blobs / hub.blob(names[0])).write_bytes(SHARDS[names[0]])
    (blobs / f"{hub.blob(names[1])}.0a1b2c3d.incomplete").write_bytes(b"x" * (40 * MEGABYTE))
    with downloading(hub, engine_python, tmp_path) as program:
        program.until_listening()
        until(lambda: (program.health() or {}).get("download"), "the download")
        body = program.health()
        assert body is not None
        assert 45 * MEGABYTE <= body["download"]["bytes_done"] < 85 * MEGABYTE


def test_revision(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A pinned revision is asked for and watched like any other."""
    hub.bytes_per_second = 0
    with downloading(hub, engine_python, tmp_path, MODEL_REVISION=COMMIT) as program:
        program.until_ready(60)
    assert f"GET /api/models/{ID}/revision/{COMMIT}" in hub.requests


def diagnosed(hub: Hub, engine_python: Path, folder: Path, **variables: str) -> tuple[int, dict[str, Any]]:
    """Return the doctor's exit status and its checks by their id."""
    environ = {"ENGINE_PYTHON": str(engine_python), "MODEL_ID": ID, "HF_ENDPOINT": hub.url}
    done = run_cli(environ | variables, "doctor", "--json", cwd=folder)
    assert "hf_" not in done.stdout + done.stderr, "no token is shown"
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}


def test_doctor_of_a_hub_model(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """Size, memory and template are known from the hub's metadata; no weight is fetched for that."""
    hub.files["tokenizer_config.json"] = b'{"chat_template": "x"}'
    status, checks = diagnosed(hub, engine_python, tmp_path, PORT=str(free_port()))
    assert (status, checks["model"]["status"]) == (0, "ok")
    assert COMMIT in checks["model"]["sentence"]
    assert "135 MB to download" in checks["space"]["sentence"]
    assert "weights 0.1 GiB" in checks["memory"]["sentence"]
    assert checks["template"]["sentence"] == "the model has a chat template"
    assert not [request for request in hub.requests if request.endswith(".safetensors")]


@pytest.mark.parametrize(("token", "mends"), [(None, "set HF_TOKEN"), ("hf_wrong", "ask for it on its page")])
def test_doctor_of_a_gated_model(
    hub: Hub, engine_python: Path, tmp_path: Path, token: str | None, mends: str
) -> None:
    """Without a token, or with a wrong one, it says what to do, and exits with 3."""
    hub.token = "hf_right"
    given = {"HF_TOKEN": token} if token else {}
    status, checks = diagnosed(hub, engine_python, tmp_path, PORT=str(free_port()), **given)
    assert (status, checks["model"]["status"]) == (3, "fail")
    assert mends in str(checks["model"]["remedy"])
    assert checks["token"]["status"] == ("fail" if token else "ok")


def test_real_engine_downloads(engine_python: Path, tmp_path: Path) -> None:
    """vLLM itself fetches a real model from a hub; what it fetched is what we had expected of it."""
    source = next(CACHE_DIR.glob("bundled/*/model.safetensors")).parent
    files = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    files |= {"README.md": b"Hello", "figure.png": b"x"}
    hub = Hub(ID, files, bytes_per_second=30 * MEGABYTE)
    environ = {"ENGINE_PYTHON": str(engine_python), "MODEL_ID": ID}
    with fake_hub(hub), running(environ | {"HF_ENDPOINT": hub.url}, folder=tmp_path) as program:
        seen: list[dict[str, Any]] = []

        def loading() -> bool:
            body = program.health()
            if body and body["phase"] == "downloading":
                seen.append(body)
            return program.health() is not None and "downloading took" in program.log()

        until(loading, "the download's end", START_SECONDS)
        program.until_ready(START_SECONDS)
        last = seen[-1]["download"]
        blobs = tmp_path / "cache/huggingface/hub/models--org--model/blobs"
        fetched = {path.name: path.stat().st_size for path in blobs.iterdir()}
    assert last["bytes_total"] == sum(fetched.values())
    assert last["files_total"] == len(fetched)
    assert len({body["download"]["bytes_done"] for body in seen}) > 3
