"""The failures that are provoked on a GPU: settings that cannot work, what they start, and what we say of it. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.child_process import TAIL_LINES
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.errors import Diagnosis
from vllm_engine.system.sizes import GIB

_SETTINGS = {
    "ENFORCE_EAGER": "1",
    "MAX_MODEL_LEN": "2048",
    "MAX_NUM_SEQS": "64",
    "GPU_MEMORY_UTILIZATION": "0.2",
}
"""With these alone vLLM starts."""


@dataclass(frozen=True)
class Case:
    """Settings that cannot work.

    Attributes:
        name: of the log, after `failed-` or `ours-`.
        changed: settings in place of `_SETTINGS`, by our names; plain vLLM gets the flags.
        config: what is changed in the model's config.json.
        code: of the catalogue, where the name does not say it.
        program: who is started.
        stage: when it goes on; those of one stage go on together.
        delay: seconds by which it goes on later than its stage.
        hog: whether another process holds memory meanwhile, or releases it while vLLM measures.
    """

    name: str
    changed: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, int] = field(default_factory=dict)
    code: str = ""
    program: Literal["vllm", "ours"] = "vllm"
    stage: int = 0
    delay: float = 0.0
    hog: Literal["", "holds", "releases"] = ""

    @property
    def settings(self) -> Mapping[str, str]:
        return {**_SETTINGS, **self.changed}

    @property
    def expected(self) -> str:
        return self.code or self.name.replace("oom-", "cuda-out-of-memory-")

    @property
    def log(self) -> str:
        return f"{'failed' if self.program == 'vllm' else 'ours'}-{self.name}.log"


def weight_bytes(config: Mapping[str, Any]) -> int:
    """Return the size of a model of Qwen2's kind in bfloat16."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    kv = config["num_key_value_heads"] * (hidden // config["num_attention_heads"])
    layer = hidden * (2 * hidden + 2 * kv + 3 * config["intermediate_size"])
    tables = 1 if config.get("tie_word_embeddings") else 2
    return int(2 * (layers * layer + tables * config["vocab_size"] * hidden))


def _cache_that_barely_fits(config: Mapping[str, Any], free: int, requests: int) -> int:
    """Return the bytes of a KV cache that leaves 1.2 GiB free.

    The logits of 4096 requests and their copy need 2.3 GiB in the warm-up; the profile run comes before the cache.
    Beside the weights there are counts for penalties (0.26, v1/worker/gpu/sample), and CUDA's context and modules,
    0.74 GiB on an H100.
    """
    penalties: int = requests * config["vocab_size"] * 33 // 8
    return free - weight_bytes(config) - penalties - int(0.8 * GIB) - int(1.2 * GIB)


def cases(config: Mapping[str, Any], total: int, free: int) -> list[Case]:
    """Return the cases for a GPU of that much memory, with this model as the base. Pure."""
    hidden, tokens, requests = config["hidden_size"], 131_072, 4096
    over = total * 5 // 4
    # One tensor that is larger than the GPU: of the MLP's activations, of its weights, of the KV cache.
    wide_batch = {"num_hidden_layers": 1, "intermediate_size": _ceil(over, 4 * tokens)}
    wide_weights = {"num_hidden_layers": 1, "intermediate_size": _ceil(over, 4 * hidden)}
    # Many tensors that fill it, 1.4 and 0.7 GiB each.
    thick = {"intermediate_size": 180_224, "num_hidden_layers": 1}
    deep = {**thick, "num_hidden_layers": 2 * total // weight_bytes({**config, **thick}) + 1}
    # 72 GiB of KV cache for one request, more than any of the shares that it gets.
    long = {"num_key_value_heads": config["num_attention_heads"], "max_position_embeddings": 262_144}
    long_context = {"MAX_MODEL_LEN": "262144"}
    many_requests = {"MAX_NUM_SEQS": str(requests)}
    barely = {"KV_CACHE_MEMORY_BYTES": str(_cache_that_barely_fits(config, free, requests))}
    two_gpus, most = {"TENSOR_PARALLEL": "2"}, {"GPU_MEMORY_UTILIZATION": "0.95"}
    for_both = [
        Case("oom-profiling", {"MAX_NUM_BATCHED_TOKENS": str(tokens)}, wide_batch),
        Case("oom-kv-cache", {"KV_CACHE_MEMORY_BYTES": str(over)}, {"num_hidden_layers": 1}),
    ]
    return [
        Case("tensor-parallel", two_gpus, code="tensor-parallel-invalid"),
        *for_both,
        Case("gpu-memory-in-use", most, hog="holds"),
        Case(
            "no-memory-for-kv-cache", {"GPU_MEMORY_UTILIZATION": "0.01"}, {"num_hidden_layers": 12}, stage=1
        ),
        # Later and slower than the one before, so that it measures no memory that the other releases.
        Case(
            "kv-cache-too-small", long_context | {"GPU_MEMORY_UTILIZATION": "0.3"}, long, stage=1, delay=1.5
        ),
        Case("gpu-memory-changed", stage=2, hog="releases"),
        Case("oom-loading", {"GPU_MEMORY_UTILIZATION": "0.9"}, deep, stage=3),
        Case("oom-warming-up", many_requests | barely, stage=4),
        # Ours.
        *(dataclasses.replace(case, program="ours") for case in for_both),
        # With as many API servers as by default, 4 for 16 cores; the others have 1, to import less.
        Case("gpu-memory-in-use", most | {"API_SERVER_COUNT": "auto"}, hog="holds", program="ours"),
        # Refused before anything starts.
        Case("tensor-parallel", two_gpus, code="bad-settings", program="ours"),
        Case("oom-loading", {}, wide_weights, program="ours"),
        Case("kv-cache-too-small", long_context | {"KV_CACHE_MEMORY_BYTES": str(GIB)}, long, program="ours"),
    ]


def write_model(base: Path, folder: Path, config: Mapping[str, int]) -> Path:
    """Make a model folder that differs from the base in its config; returns it, or the base if nothing differs."""
    if not config:
        return base
    folder.mkdir(parents=True, exist_ok=True)
    # Absent, they are derived from the number of layers.
    whole = {**_json(base / "config.json"), **config}
    changed = {key: value for key, value in whole.items() if key not in ("layer_types", "max_window_layers")}
    written = {"config.json": changed}
    if "max_position_embeddings" in config:  # the tokenizer has a limit too
        limit = {"model_max_length": config["max_position_embeddings"]}
        written["tokenizer_config.json"] = _json(base / "tokenizer_config.json") | limit
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for path in base.iterdir():
        if path.name not in written and not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path.resolve())
    return folder


def vllm_command(python: Path, model: Path, case: Case, port: int, flags: Sequence[str]) -> list[str]:
    """Return the plain `vllm serve` of a case."""
    command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--load-format", "dummy"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    for name, value in case.settings.items():
        flag = "tensor-parallel-size" if name == "TENSOR_PARALLEL" else name.lower().replace("_", "-")
        command += [f"--{flag}"] if name == "ENFORCE_EAGER" else [f"--{flag}", value]
    return [*command, *flags]


def our_environ(python: Path, model: Path, case: Case, port: int, flags: Sequence[str]) -> dict[str, str]:
    """Return the variables of `vllm-engine serve` for a case."""
    return {
        "ENGINE_PYTHON": str(python),
        "MODEL_ID": str(model),
        "LOAD_FORMAT": "dummy",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "API_SERVER_COUNT": "1",
        "MAX_RESTARTS": "0",
        "STANDBY": "0",
        "LOG_FORMAT": "console",
        "VLLM_EXTRA_ARGS": shlex.join(flags),
        **case.settings,
    }


def explain(text: str, status: int | None, case: Case, facts: Facts) -> Diagnosis:
    """Return our diagnosis of plain vLLM's log, or the one that our program printed."""
    lines = tuple(line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip())
    if case.program == "vllm":
        return diagnose(EngineExit(status, lines[-TAIL_LINES:], was_ready=False), facts)
    printed = [line.removeprefix("vllm-engine: ") for line in lines if line.startswith("vllm-engine: ")]
    found = re.search(r"\[([\w-]+)\]$", printed[-1]) if printed else None
    code = found[1] if found else "bad-settings" if status == 2 and printed else "unknown"
    return Diagnosis(code, "\n".join(printed))


def facts_of(case: Case, config: Mapping[str, Any], total: int) -> Facts:
    """Return what our program would know of such a run."""
    numbers = {name: int(value) for name, value in case.settings.items() if value.isdecimal()}
    return Facts(
        model="model",
        is_local=True,
        dtype="bfloat16",
        max_model_len=numbers["MAX_MODEL_LEN"],
        gpu_memory_utilization=float(case.settings["GPU_MEMORY_UTILIZATION"]),
        tensor_parallel=numbers.get("TENSOR_PARALLEL", 1),
        attention_heads=config["num_attention_heads"],
        gpus=1,
        gpu_memory_bytes=total,
        weight_bytes=weight_bytes({**config, **case.config}),
        kv_cache_memory_bytes=numbers.get("KV_CACHE_MEMORY_BYTES"),
        max_num_seqs=numbers.get("MAX_NUM_SEQS"),
        max_num_batched_tokens=numbers.get("MAX_NUM_BATCHED_TOKENS"),
        enforce_eager=True,
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _ceil(amount: int, unit: int) -> int:
    """Return how many units hold the amount, as a multiple of 256."""
    return math.ceil(amount / unit / 256) * 256
