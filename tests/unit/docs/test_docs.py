"""Documents: generated parts are current, links lead somewhere, blocks are code, figures are the program's."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.doc_blocks import DOCUMENTS, ROOT, blocks
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.flags.flag import ENV_NAMES_NOT_TAKEN
from vllm_engine.config.settings import Settings
from vllm_engine.engine.supervisor import STOP_GRACE_SECONDS
from vllm_engine.errors import ExitCode
from vllm_engine.gateway.body.frontend_fields import CHAT, PYTHON_FIELDS
from vllm_engine.gateway.drain import LAST_ANSWERS_SECONDS
from vllm_engine.gateway.local.probes import PUBLIC_PATHS
from vllm_engine.gateway.policy.auth import Keyring
from vllm_engine.sizing.kv_cache import KvCache, kv_cache_of
from vllm_engine.sizing.room import WORKING_BYTES

DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
RUN_BY = {
    DOCS / "use/clients.md": "tests/e2e/test_clients.py",
    DOCS / "recipes.md": "tests/nightly/test_proxies.py",
}
"""Documents whose `run` markers a test obeys."""
GIB = 1 << 30


@pytest.mark.parametrize("name", ["generate_docs.py", "dashboard.py"])
def test_generated_parts_are_current(name: str) -> None:
    command = [sys.executable, f"tools/{name}", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_names_that_set_no_flag_are_all_named() -> None:
    [sentence] = re.findall(
        r"^Names that other programs use too .*?: (.*?)\. ",
        (DOCS / "use/configuration.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert set(re.findall(r"`(\w+)`", sentence)) == ENV_NAMES_NOT_TAKEN


def test_the_page_on_frontends_lists_what_goes_to_the_python_frontend() -> None:
    """Each field of the table, and where; beside them what is no field of its own."""
    page = (DOCS / "operate/frontends.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| (both|chat|completions) \| \S", page, re.MULTILINE)
    listed = {(name, where) for names, where in rows for name in re.findall(r"`(\w+)`", names)}
    both = {name for name, rule in PYTHON_FIELDS.items() if len(rule.routes) == 2}
    chat = {name for name, rule in PYTHON_FIELDS.items() if rule.routes == {CHAT}}
    kinds = {"both": both, "chat": chat, "completions": PYTHON_FIELDS.keys() - both - chat}
    others = {(name, "both") for name in ("max_tokens", "max_completion_tokens")}
    others |= {(name, "chat") for name in ("messages", "developer")}
    assert listed == {(name, where) for where, names in kinds.items() for name in names} | others


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, where both MkDocs and code hosts make the same."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s", "-", title) for title in plain} & {re.sub(r"[-\s]+", "-", title) for title in plain}


def test_local_links() -> None:
    for document in DOCUMENTS:
        for target, anchor in LINK.findall(FENCE.sub("", document.read_text())):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{document.name}: {target}#{anchor}"
            if document.is_relative_to(DOCS):  # the site holds docs/ alone
                assert path.resolve().is_relative_to(DOCS), f"{document.name}: {target}"


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in nav for part in entry.values() for page in pages(part)]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def check_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)


CHECKS: dict[str, Callable[[str], object]] = {
    "bash": check_shell,
    "sh": check_shell,
    "python": ast.parse,
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}


def test_every_block_is_checked_or_run_or_says_why_not() -> None:
    found = [block for document in DOCUMENTS for block in blocks(document)]
    assert {block.kind for block in found} == {"run", "not tested", ""}
    for block in found:
        assert block.kind != "run" or block.document in RUN_BY, f"{block}: no test runs this document"
        assert block.kind != "not tested" or len(block.said) > 10, f"{block}: say why it is not tested"
        if check := CHECKS.get(block.language):
            try:
                check(block.text)
            except (SyntaxError, ValueError, yaml.YAMLError) as error:
                pytest.fail(f"{block}: {error}")
        elif not block.kind:
            assert block.language in ("text", "console", "mermaid"), f"{block}: name its language, or mark it"
    for document, test in RUN_BY.items():
        assert document.name in (ROOT / test).read_text()


OPERATIONS = (DOCS / "operate/operations.md").read_text()
PARAMETERS = {  # as the models' cards say
    "SmolLM2-135M": 134.5e6,
    "Qwen2.5-3B": 3.086e9,
    "Qwen2.5-7B": 7.616e9,
    "Llama-3.1-8B": 8.030e9,
    "Llama-3.1-70B": 70.554e9,
}


def config(layers: float, heads: float, size: float) -> dict[str, Any]:
    heads_of = {"num_attention_heads": int(heads), "num_key_value_heads": int(heads), "head_dim": int(size)}
    return {"num_hidden_layers": int(layers), "hidden_size": int(heads * size)} | heads_of


def cache(layers: float, heads: float, size: float) -> KvCache:
    found = kv_cache_of(config(layers, heads, size))
    assert found is not None
    return found


def test_capacity() -> None:
    """The table and the example are what the doctor computes, and what vLLM counted at real starts."""
    rows = re.findall(r"^\| ([\w.-]+-[\d.]+[MB]) \| (.*) \|$", OPERATIONS, re.MULTILINE)
    table = {name: [float(cell) for cell in cells.split(" | ")] for name, cells in rows}
    assert table.keys() == PARAMETERS.keys()
    for name, (layers, heads, size, kib, gib, weights) in table.items():
        assert cache(layers, heads, size).token_bytes == kib * 1024
        assert cache(layers, heads, size).request_bytes(8192) / GIB == pytest.approx(gib, abs=0.005)
        assert 2 * PARAMETERS[name] / GIB == pytest.approx(weights, abs=0.01)
    example = re.search(
        r"0\.9 × 24 − ([\d.]+) − ([\d.]+) = ([\d.]+) GiB.*?([\d,]+) tokens", OPERATIONS, re.DOTALL
    )
    assert example is not None
    working, weights, room = (float(example[at]) for at in (1, 2, 3))
    assert (working * GIB, weights) == (WORKING_BYTES, table["Qwen2.5-3B"][5])
    assert room == pytest.approx(Settings().gpu_memory_utilization * 24 - working - weights)
    tokens = int(example[4].replace(",", ""))
    assert cache(36, 2, 128).longest(room * GIB) == pytest.approx(tokens, abs=1)
    assert cache(36, 2, 128).longest(32.94 * GIB) == pytest.approx(959_536, rel=0.001)
    assert cache(30, 3, 64).longest(1_509_949_440) == pytest.approx(65_536, rel=0.001)


AWQ_BYTES = (4 + 20 / 128) / 8
"""Of a weight in 4 bits: 128 share a scale of 16 bits and a zero point of 4."""
SHAPES: dict[str, tuple[tuple[int, int, int], float]] = {
    "Qwen2.5-3B": ((36, 2, 128), 2 * PARAMETERS["Qwen2.5-3B"]),
    "Llama-3.1-8B": ((32, 8, 128), 2 * PARAMETERS["Llama-3.1-8B"]),
    "Llama-3.1-70B": ((80, 8, 128), 2 * PARAMETERS["Llama-3.1-70B"]),
    # Its embedding and head, of 152,064 tokens each, stay in 16 bits.
    "Qwen2.5-14B": (
        (48, 8, 128),
        48 * (5120 * (2 * 5120 + 2 * 1024) + 3 * 5120 * 13_824) * AWQ_BYTES + 4 * 152_064 * 5120,
    ),
}


def test_which_model_fits_which_gpu() -> None:
    """README's and the recipes' figures are computed by the formula of the documentation, and each row fits."""
    readme, recipes = (ROOT / "README.md").read_text(), (DOCS / "recipes.md").read_text()
    for name, (shape, weights) in SHAPES.items():
        kv = cache(*shape).request_bytes(8192) / GIB
        figures = f"{weights / GIB:.2f}", f"{kv:.2f}"
        row = re.search(rf"^\| {name}.* \| (\d) × (\d+) GB \| ([\d.]+) \+ ([\d.]+) \|", readme, re.MULTILINE)
        assert row is not None and (row[3], row[4]) == figures, (name, figures)
        assert int(row[1]) * (0.9 * int(row[2]) - 1.5) - weights / GIB > kv
        row = re.search(
            rf"^\| `\S+/{name}-.* \| ([\d.]+) \| ([\d.]+) \| (\d) × (\d+) \| ([\d.]+) \| ([\d,]+) \|$",
            recipes,
            re.MULTILINE,
        )
        assert row is not None and (row[1], row[2]) == figures, (name, figures)
        room = int(row[3]) * (0.9 * int(row[4]) - 1.5) - weights / GIB
        assert float(row[5]) == pytest.approx(room, abs=0.006), (name, room)
        tokens = cache(*shape).longest(room * GIB)
        assert int(row[6].replace(",", "")) == pytest.approx(tokens, abs=400), (name, tokens)


def test_the_oldest_driver_is_that_of_the_locked_pytorch() -> None:
    """PyTorch 2.13 for CUDA 13, which NVIDIA's driver 580 and newer run: another major version is another driver."""
    lock = (ROOT / "requirements/engine-cuda.txt").read_text()
    vllm, torch, cuda = (
        match[1]
        for name in ("vllm", "torch", "nvidia-cuda-runtime")
        if (match := re.search(rf"^{name}==(\d+\.\d+)\.", lock, re.MULTILINE))
    )
    page = (DOCS / "recipes.md").read_text()
    assert f"vLLM {vllm} comes with PyTorch {torch} for CUDA {cuda}" in page
    assert cuda.startswith("13.") and "NVIDIA driver 580 or newer" in page
    assert "driver 580 or newer" in (ROOT / "README.md").read_text()


def test_stopping_and_exit_statuses() -> None:
    settings = Settings()
    seconds = settings.lame_duck_seconds + settings.drain_timeout_seconds + LAST_ANSWERS_SECONDS
    seconds += STOP_GRACE_SECONDS
    assert f" {seconds:g} s" in OPERATIONS and f" {seconds + 5:g} s" in OPERATIONS
    section = OPERATIONS.partition("### Exit statuses")[2].partition("###")[0]
    assert {int(status) for status in re.findall(r"^\| (\d) \|", section, re.MULTILINE)} == set(ExitCode)


def test_security(tmp_path: Path) -> None:
    """Its paths without a key are all, its settings exist, and its recipe makes a key that opens."""
    text = (DOCS / "operate/security.md").read_text()
    listed = text.partition("the probes:")[2].partition(". `/metrics`")[0]
    assert set(re.findall(r"`(/[^`]*)`", listed)) == PUBLIC_PATHS
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=[^`]*)?`", text)) - {"HF_HUB_OFFLINE"}
    flags = FlagCatalogue.load("0.33.0").by_env_name
    assert named and named <= {name.upper() for name in Settings.model_fields} | flags.keys()
    (script,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    command = ["bash", "-euc", script + 'printf %s "$KEY"']
    key = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    ring = Keyring(None, tmp_path / "keys")
    assert ring.check([(b"authorization", f"Bearer {key}".encode())]) == "team-a"
    assert key not in (tmp_path / "keys").read_text()
    seconds = re.search(r"proxy_read_timeout (\d+)s", text)
    assert seconds is not None and int(seconds[1]) > Settings().keep_alive_seconds
