"""Downloads by the engine's own hub client from a hub on localhost: `serve`, `download`, `doctor`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CACHE_DIR, MODEL, START_SECONDS
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.fake.fake_hub import COMMIT, Hub, fake_hub
from tests.support.model import CONFIG
from tests.support.program import Program, free_port, run_cli, running, until
from tests.support.terminal import terminal

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000
ID = "org/model"
SHARDS = {f"model-{n}.safetensors": bytes([n]) * (25 * MEGABYTE) for n in (1, 2, 3)}
"""The hub client (2.4) writes what it gets in pieces of 10 MB: smaller files come all at once."""

INDEX = json.dumps({"weight_map": {f"layer.{n}": name for n, name in enumerate(SHARDS)}}).encode()
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors.index.json": INDEX,
    "tokenizer/vocab.json": b"{}",
    **SHARDS,
}
HERMES = """{% if tools %}<tool_call>\n{"name": <function-name>}\n</tool_call>{% endif %}"""
BLOBS = "cache/huggingface/hub/models--org--model/blobs"
FIRST = next(iter(SHARDS))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one model in three shards, and weights in another format, which vLLM does not load."""
    with fake_hub(Hub(ID, {**FILES, "pytorch_model.bin": b"b" * MEGABYTE})) as hub:
        yield hub


@pytest.fixture
def half_fake(engine_python: Path, tmp_path: Path) -> Path:
    """The Python of an engine that is fake but for its hub client, with which it fetches as vLLM does."""
    command = [str(engine_python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert site != sysconfig.get_path("purelib")
    return make_fake_engine_python(tmp_path / "engine", {"fetch_weights": True}, packages=(Path(site),))


def environ(hub: Hub, python: Path, **variables: str) -> dict[str, str]:
    return {"ENGINE_PYTHON": str(python), "MODEL_ID": ID, "HF_ENDPOINT": hub.url, **variables}


def watched(program: Program, seconds: float = 60) -> list[dict[str, Any]]:
    """Return what /healthz said until readiness."""
    seen: list[dict[str, Any]] = []

    def ready() -> bool:
        body = program.health()
        if body is None:
            program.until_listening()
        else:
            seen.append(body)
        return body is not None and body["status"] == "ready"

    until(ready, "readiness", seconds)
    return seen


def test_serve_downloads_first_and_then_starts_offline(hub: Hub, half_fake: Path, tmp_path: Path) -> None:
    """Every byte is counted; what is there is not fetched again, and then no hub is needed at all."""
    hub.bytes_per_second = 3 * MEGABYTE
    files = {**FILES, "tokenizer_config.json": json.dumps({"chat_template": HERMES}).encode()}
    hub.files |= files
    with running(environ(hub, half_fake, MODEL_REVISION=COMMIT), folder=tmp_path) as program:
        seen = watched(program)
        log = program.log()
    phases = list(dict.fromkeys(body["phase"] for body in seen))
    assert (phases[0], phases[-1]) == ("preparing", "ready")
    assert phases.index("downloading") < phases.index("importing")
    during = [body["download"] for body in seen if body["phase"] == "downloading"]
    whole = sum(map(len, files.values()))
    assert {(each["files_total"], each["bytes_total"]) for each in during} == {(len(files), whole)}
    done = [each["bytes_done"] for each in during]
    assert (done == sorted(done), len(set(done)) > 1, done[-1] <= whole) == (True, True, True)
    assert any(each["bytes_per_second"] and each["remaining_seconds"] for each in during)
    assert seen[-1]["download"] is None
    assert "gateway.supervisor: downloading: " in log
    assert "gateway: vLLM starts offline: the model is complete" in log
    assert "TOOL_CALL_PARSER=hermes: auto: " in log
    assert log.index("TOOL_CALL_PARSER=hermes") < log.index("gateway.supervisor: downloading: ")
    assert not (tmp_path / BLOBS / hub.blob("pytorch_model.bin")).exists()
    asked = len(hub.requests)
    with running(environ(hub, half_fake), folder=tmp_path) as program:
        seen = watched(program)
    assert not [each for each in hub.requests[asked:] if each.startswith("GET") and "resolve" in each]
    unreachable = environ(hub, half_fake) | {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with running(unreachable, folder=tmp_path) as program:
        seen += watched(program)
        program.until_logged("vLLM starts offline")
    assert not [body for body in seen if body["download"] or body["phase"] == "downloading"]


def test_interrupted(hub: Hub, half_fake: Path, tmp_path: Path) -> None:
    """SIGTERM ends a download at once, and leaves nothing that is not complete."""
    hub.bytes_per_second = 2 * MEGABYTE
    with running(environ(hub, half_fake), folder=tmp_path) as program:
        until(lambda: ((program.health() or {}).get("download") or {}).get("bytes_done"), "a first byte", 60)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    left = {path.name for path in (tmp_path / BLOBS).iterdir()}
    assert hub.blob("config.json") in left
    assert not [name for name in left if name.endswith(".incomplete")]


def test_sizes_not_told(hub: Hub, half_fake: Path, tmp_path: Path) -> None:
    """A hub that lists no files leaves the download to vLLM, which then stays online."""
    hub.tells_sizes = False
    with running(environ(hub, half_fake), folder=tmp_path) as program:
        assert not [body for body in watched(program) if body["download"]]
        program.until_logged("vLLM starts online: not all files of org/model are known to be in the cache")


def test_real_engine_starts_offline(engine_python: Path, tmp_path: Path) -> None:
    """vLLM itself finds all that it wants among what was fetched for it, without the hub."""
    run_cli(
        {"ENGINE_PYTHON": str(engine_python), "CACHE_DIR": str(CACHE_DIR)}, "download", MODEL, cwd=tmp_path
    )
    source = next(CACHE_DIR.glob("bundled/*/model.safetensors")).parent
    files = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    with fake_hub(Hub(ID, files | {"figure.png": b"x"})) as hub:
        with running(environ(hub, engine_python), folder=tmp_path) as program:
            until(lambda: "vLLM starts offline" in program.log(), "the download's end", START_SECONDS)
            asked = len(hub.requests)
            program.until_ready(START_SECONDS)
        assert len(hub.requests) == asked


def download(hub: Hub, python: Path, folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run `vllm-engine download`."""
    given = environ(hub, python, **variables)
    done = run_cli({**given, "MODEL_ID": ""} if arguments else given, "download", *arguments, cwd=folder)
    assert "hf_" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_download_fetches_checks_and_repairs(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    status, out, _ = download(hub, engine_python, tmp_path, ID, "--json")
    said = json.loads(out)
    assert (status, said["model"], said["revision"], said["files"]) == (0, ID, COMMIT, len(FILES))
    assert said["bytes"] == sum(map(len, FILES.values()))
    folder = Path(said["folder"])
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert not (folder / "pytorch_model.bin").exists()
    blob = tmp_path / BLOBS / hub.blob(FIRST)
    blob.write_bytes(b"x" * len(SHARDS[FIRST]))
    (folder / "config.json").write_text("{")
    status, out, err = download(hub, engine_python, tmp_path)
    assert (status, "6 files, 75 MB (0 B fetched)" in out) == (0, True)
    assert f"{FIRST} in the cache is damaged: fetching it again" in err
    assert "checked 6 of 6: " in err
    assert blob.read_bytes() == SHARDS[FIRST]
    assert len([each for each in hub.requests if each.startswith("GET") and each.endswith(FIRST)]) == 2


def test_download_fails_with_a_remedy(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "set HF_TOKEN"),
        ({"HF_TOKEN": "hf_wrong"}, "ask for it on its page"),
        ({"HF_TOKEN": "hf_right"}, f"{FIRST} is not what the hub says it is"),
        ({"HF_TOKEN": "hf_right", "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids"),
    ]
    hub.token, hub.garbles = "hf_right", FIRST
    for variables, words in cases:
        status, _, err = download(hub, engine_python, tmp_path, **variables)
        assert (status, words in err) == (3, True), err
    assert not (tmp_path / BLOBS / hub.blob(FIRST)).exists()
    assert download(hub, engine_python, tmp_path, "no such id")[0] == 2


def test_download_on_a_terminal(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    hub.bytes_per_second = MEGABYTE / 2
    given = environ(hub, engine_python, CACHE_DIR=str(tmp_path / "cache"))
    with terminal(given, "download", ID, cwd=tmp_path) as shown:
        shown.until(" of 6 files, ", 60)
        shown.type("\x03")
        assert shown.wait() == 130


def test_download_of_what_is_local(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A folder is there already; the bundled model is made from its package; --all-caches starts the engine."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    status, out, _ = download(hub, engine_python, tmp_path, MODEL, "--json", CACHE_DIR=str(CACHE_DIR))
    assert (status, json.loads(out)["bytes"] > 200 * MEGABYTE) == (0, True)
    fake = make_fake_engine_python(tmp_path / "engine", {"fork_orphan": True})
    given = {"MODEL_ID": str(model), "PORT": "1", "LOG_FORMAT": "console", "LOG_LEVEL": "info"}
    status, out, err = download(hub, fake, tmp_path, "--all-caches", "--json", str(model), **given)
    assert (status, json.loads(out)["files"]) == (0, 1)
    assert ("ready after" in err, "stopped" in err.splitlines()[-1]) == (True, True)
    shutil.rmtree(tmp_path / "engine")
    assert download(hub, fake, tmp_path, "--all-caches", str(model), **given)[0] == 2


def test_doctor(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """Size, memory and template are known from the hub's metadata; no weight is fetched for that."""
    hub.files["tokenizer_config.json"] = b'{"chat_template": "x"}'
    given = environ(hub, engine_python, PORT=str(free_port()))

    def checks(**variables: str) -> tuple[int, dict[str, Any]]:
        done = run_cli(given | variables, "doctor", "--json", cwd=tmp_path)
        assert "hf_" not in done.stdout + done.stderr
        return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}

    status, found = checks()
    assert (status, found["model"]["status"]) == (0, "ok")
    assert COMMIT in found["model"]["sentence"]
    assert "75 MB to download" in found["space"]["sentence"]
    assert "weights 72 MiB" in found["memory"]["sentence"]
    assert found["template"]["sentence"] == "the model has a chat template"
    assert not [each for each in hub.requests if each.endswith(".safetensors")]
    hub.token = "hf_right"
    status, found = checks(HF_TOKEN="hf_wrong", CACHE_DIR=str(tmp_path / "other"))
    assert (status, found["model"]["status"], found["token"]["status"]) == (3, "fail", "fail")


@pytest.mark.parametrize("has_engine", [True, False], ids=["hub client", "plain HTTP"])
def test_plan_reads_the_configuration_and_sizes_alone(
    hub: Hub, half_fake: Path, tmp_path: Path, has_engine: bool
) -> None:
    """By the engine's hub client, which keeps what it read, or without one; both come to the same."""
    given = environ(hub, half_fake) if has_engine else {"HF_ENDPOINT": hub.url, "ENGINE_PYTHON": "absent"}
    done = run_cli(given, "plan", ID, "--gpu", "T4", "--format", "json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (done.returncode, found["weight_bytes"]) == (0, sum(map(len, SHARDS.values())))
    assert found["kv_cache_bytes_per_token_per_gpu"] == 2 * 2 * 64 * 2
    assert not any(name in request for request in hub.requests for name in SHARDS)
    hub.token = "hf_other"
    (elsewhere := tmp_path / "elsewhere").mkdir()  # with another cache
    refused = run_cli(given, "plan", ID, "--gpu", "T4", cwd=elsewhere)
    assert refused.returncode == 3 and "[hub-gated]" in refused.stderr and refused.stderr.count("\n") == 1
