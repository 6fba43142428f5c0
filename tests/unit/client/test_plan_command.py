"""`vllm-engine plan` from its words to its last line, without a network and without a vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.doc_blocks import ROOT
from vllm_engine.cli import main

CONFIG = str(ROOT / "tests/data/models/qwen2.5-3b.json")
GIVEN = ("org/model", "--config", CONFIG, "--weights-gib", "5.75")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder without `.env`, with a cache that is not there and no engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "shapeless.json").write_text('{"a": 1}')
    return tmp_path


def plan(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


def test_the_formats() -> None:
    text = plan(*GIVEN, "--gpu", "H100:2", "--users", "200", "--price", "2.5")
    assert text.exit_code == 0 and "TENSOR_PARALLEL=2" in text.stdout and "docker run" in text.stdout
    found = json.loads(plan(*GIVEN, "--gpu", "H100:2", "--format", "json").stdout)
    assert found["fits"] and found["settings"]["MAX_MODEL_LEN"] == "8192"
    assert plan(*GIVEN, "--gpu", "H100:2", "--format", "env").stdout.startswith("MODEL_ID=org/model\n")
    assert 'id: "org/model"' in plan(*GIVEN, "--gpu", "H100:2", "--format", "values").stdout


def test_what_does_not_fit_exits_with_3_and_prints_nothing_to_paste() -> None:
    big = ("org/model", "--config", CONFIG, "--weights-gib", "500", "--gpu", "L4")
    text, env = plan(*big), plan(*big, "--format", "env")
    assert (text.exit_code, env.exit_code) == (3, 3)
    assert "It does not fit" in text.stdout and env.stdout == "" and "It does not fit" in env.stderr
    found = plan(*big, "--format", "json")
    assert found.exit_code == 3 and json.loads(found.stdout)["what_would_fit"]


def test_settings_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (("MODEL_ID", "my/own"), ("MAX_MODEL_LEN", "4096"), ("GPU_MEMORY_UTILIZATION", "0.5")):
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("KV_CACHE_DTYPE", "fp8")
    monkeypatch.setenv("MAX_NUM_SEQS", "33")
    found = json.loads(plan(*GIVEN[1:], "--gpu", "H100", "--format", "json").stdout)
    assert found["settings"] == {
        **{"MODEL_ID": "my/own", "MAX_MODEL_LEN": "4096", "GPU_MEMORY_UTILIZATION": "0.5"},
        **{"KV_CACHE_DTYPE": "fp8", "MAX_NUM_SEQS": "33", "MAX_IN_FLIGHT": "33"},
    }


def test_a_folder(nowhere: Path) -> None:
    folder = nowhere / "model"
    folder.mkdir()
    (folder / "config.json").write_text(Path(CONFIG).read_text())
    (folder / "model.safetensors").write_bytes(bytes(1 << 20))
    found = json.loads(plan("./model", "--gpu", "T4", "--format", "json").stdout)
    assert (found["weight_bytes"], found["settings"]["MODEL_ID"]) == (1 << 20, str(folder))


BAD: list[tuple[tuple[str, ...], int, str]] = [
    ((*GIVEN, "--gpu", "H10"), 2, "did you mean"),
    ((*GIVEN, "--gpu", "H100", "--context", "99999"), 2, "the model holds at most 32768 tokens"),
    (("org/model", "--config", CONFIG, "--gpu", "H100"), 2, "give it, as --weights-gib 5.75"),
    (("org/model", "--config", "absent.json", "--gpu", "H100"), 2, "name the model's config.json"),
    (("org/model", "--config", ".", "--gpu", "H100"), 2, "name the model's config.json"),
    (("org/model", "--config", "deep.json", "--gpu", "H100"), 2, "cannot be read as JSON"),
    (("org/model", "--config", "shapeless.json", "--gpu", "H100"), 2, "says nothing of a model's shape"),
    ((*GIVEN[1:], "--gpu", "H100"), 2, "name the model whose file that is"),
    (("./absent", "--gpu", "H100"), 3, "no such folder"),
    ((".", "--gpu", "H100"), 3, "has no config.json"),
    (("bundled:smollm2-135m-instruct", "--gpu", "H100"), 3, "make setup"),
    (("org/model", "--gpu", "H100"), 3, "cannot be reached"),
]


@pytest.mark.parametrize(("words", "status", "told"), BAD, ids=lambda value: str(value)[-40:])
def test_bad_input_is_told_in_one_line(words: Any, status: int, told: str) -> None:
    done = plan(*words)
    assert (done.exit_code, done.stdout) == (status, "")
    assert told in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("vllm-engine: ")


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-1", "many"])
def test_a_number_that_is_none_is_refused(number: str) -> None:
    done = plan(*GIVEN, "--gpu", "H100", "--price", number)
    assert done.exit_code == 2 and "--price" in done.stderr and "Traceback" not in done.stderr
