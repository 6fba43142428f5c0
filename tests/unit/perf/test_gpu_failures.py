"""The recorder of CUDA failures: what it starts, in which order, and what it reads from the logs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perf.gpu.failure_cases import (
    Case,
    cases,
    explain,
    facts_of,
    our_environ,
    vllm_command,
    weight_bytes,
    write_model,
)
from perf.gpu.failures import HELD_AT, Run, follow
from tests.unit.diagnosis.failed_logs import LOGS
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.diagnosis.catalogue import BY_CODE
from vllm_engine.system.sizes import GIB

CONFIG = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2,
    "num_hidden_layers": 36, "vocab_size": 151_669, "tie_word_embeddings": True,
}  # fmt: skip
TOTAL = int(79.18 * GIB)
CASES = cases(CONFIG, TOTAL, int(79.0 * GIB))
CASE = Case("gpu-memory-in-use", {"TENSOR_PARALLEL": "2"})


def case_of(log: str) -> Case:
    return next(case for case in CASES if case.log == f"{log}.log")


def test_cases() -> None:
    """Each writes a log of its own and expects a known code; our program takes its settings."""
    assert len({case.log for case in CASES}) == len(CASES)
    assert {case.expected for case in CASES} <= BY_CODE.keys()
    for case in CASES:
        environ = our_environ(Path("python"), Path("/model"), case, 8000, ["--no-x"])
        assert load_settings(Environment(environ, {})).gpu_memory_utilization <= 0.95, case


@pytest.mark.parametrize("total", [TOTAL, 139 * GIB])
def test_sizes(total: int) -> None:
    """What has to fail does, and what comes before it fits, on either card."""
    assert weight_bytes(CONFIG) / GIB == pytest.approx(5.75, abs=0.01)
    by_log = {case.log.removesuffix(".log"): case for case in cases(CONFIG, total, total - GIB // 5)}
    sizes = {log: weight_bytes({**CONFIG, **case.config}) for log, case in by_log.items()}
    assert sizes["failed-oom-loading"] > 1.2 * total
    batch = by_log["failed-oom-profiling"]
    tokens = int(batch.settings["MAX_NUM_BATCHED_TOKENS"])
    assert tokens * batch.config["intermediate_size"] * 4 > total
    assert sizes["failed-oom-profiling"] < 6 * GIB
    assert sizes["failed-no-memory-for-kv-cache"] > 0.01 * total + GIB / 2
    cache = int(by_log["failed-oom-warming-up"].settings["KV_CACHE_MEMORY_BYTES"])
    assert 60 * GIB < cache < total - weight_bytes(CONFIG)


def test_commands() -> None:
    """Plain vLLM gets the flags for what our program gets as settings."""
    command = vllm_command(Path("/p"), Path("/m"), CASE, 8001, ["--no-x"])
    assert command[:5] == ["/p", "-m", "vllm.entrypoints.cli.main", "serve", "/m"]
    given = " ".join(command)
    assert "--port 8001 --enforce-eager --max-model-len 2048 --max-num-seqs 64" in given
    assert given.endswith("--gpu-memory-utilization 0.2 --tensor-parallel-size 2 --no-x")
    environ = our_environ(Path("/p"), Path("/m"), CASE, 8001, ["--no-x", "a b"])
    assert environ["MODEL_ID"] == "/m"
    assert environ["TENSOR_PARALLEL"] == "2"
    assert environ["VLLM_EXTRA_ARGS"] == "--no-x 'a b'"


def test_model_folder(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "made"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({**CONFIG, "max_window_layers": 36}))
    (base / "tokenizer_config.json").write_text('{"model_max_length": 32768}')
    (base / "tokenizer.json").write_text("{}")
    assert write_model(base, folder, {}) == base
    for _ in range(2):
        assert write_model(base, folder, case_of("failed-kv-cache-too-small").config) == folder
    made = json.loads((folder / "config.json").read_text())
    assert (made["num_key_value_heads"], made["hidden_size"]) == (16, 2048)
    assert "max_window_layers" not in made
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"model_max_length": 262_144}
    assert (folder / "tokenizer.json").read_text() == "{}"


def test_what_is_told_of_a_log() -> None:
    facts = facts_of(CASE, CONFIG, TOTAL)
    for name, code in (
        ("gpu-memory-in-use", "gpu-memory-in-use"),
        ("no-kv-memory", "no-memory-for-kv-cache"),
    ):
        assert explain((LOGS / f"failed/{name}.log").read_text(), 1, CASE, facts).code == code
    ours = dataclasses.replace(CASE, program="ours")
    printed = "INFO x\nvllm-engine: the engine exited; do that [gpu-memory-in-use]\n"
    assert explain(printed, 3, ours, facts).code == "gpu-memory-in-use"
    assert explain("vllm-engine: TENSOR_PARALLEL=2: 1 GPU(s) visible", 2, ours, facts).code == "bad-settings"
    assert explain("Traceback", 1, ours, facts).code == "unknown"


def test_stages(tmp_path: Path) -> None:
    """A later case is held until those before it have ended; what does not end by itself is killed."""
    mark = f"import sys, time; print({HELD_AT!r}, flush=True); time.sleep(0.3); t = time.time(); "
    says = mark + "time.sleep(float(sys.argv[1])); print(t, time.time()); sys.exit(3)"

    def run(name: str, stage: int, seconds: str) -> Run:
        return Run(Case(name, stage=stage), [sys.executable, "-c", says, seconds], {}, tmp_path)

    runs = [run("late", 1, "0.1"), run("hung", 2, "99"), run("early", 0, "0.6")]
    hog = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    began = time.monotonic()
    follow(runs, hog, 8.0)
    late, hung, early = runs
    assert (late.status, hung.status, early.status) == (3, -9, 3)
    assert (late.ended_itself, hung.ended_itself) == (True, False)
    assert float(late.text.split()[-2]) > float(early.text.split()[-1])
    assert 0 < late.seconds_on_gpu < late.seconds
    assert hog.wait(5) == -9
    assert time.monotonic() - began < 10
