"""The table of fields, held to what is stored of vLLM's versions by the tool that reads their sources."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TOOL = ROOT / "tools/frontend_routes.py"
STORED = sorted((ROOT / "tests/data/frontends").glob("*.json"))
NEWEST = json.loads(STORED[-1].read_text("utf-8"))
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False)


def test_the_table_knows_every_stored_version() -> None:
    done = run("check", *STORED)
    assert (done.returncode, done.stderr, len(STORED)) == (0, "", 2)
    done = run("check", STORED[0])
    assert done.returncode == 1, "the other version needs more of the table"
    assert (
        f"{COMPLETIONS}: the Rust frontend serves the field return_weight_versions in each version"
        in done.stderr
    )


Change = Callable[[dict[str, Any], dict[str, Any]], object]
CHANGES: dict[str, Change] = {
    "chat/completions: the field new is in the Python": lambda python, _: python["fields"][CHAT].append(
        "new"
    ),
    "/completions: the field new is read by the Rust": lambda _, rust: rust["unused"][COMPLETIONS].append(
        "new"
    ),
    "/completions: the field seed is refused by the Rust": lambda _, rust: rust["refused"][CHAT].append(
        "seed"
    ),
    "the Rust frontend serves /v1/responses": lambda _, rust: rust["routes"].append("/v1/responses"),
    "the Rust frontend does not serve /v1/completions": lambda _, rust: rust["routes"].remove(COMPLETIONS),
    "the Python frontend alone reads the header x-new": lambda python, _: python["headers"].append("x-new"),
    "/completions: the field seed is refused by the Python frontend alone where it is null": lambda python, _: (
        python["not_null"][COMPLETIONS].append("seed")
    ),
    "chat/completions: the field tools is refused by the Python frontend alone where it is null": (
        lambda python, _: python["not_null"][CHAT].append("tools")
    ),
    "serves the field suffix in each version": lambda _, rust: rust["refused"][COMPLETIONS].remove("suffix"),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_change_is_named_with_what_to_do(tmp_path: Path, message: str) -> None:
    facts = json.loads(json.dumps(NEWEST)) | {"vllm": "0.99.0"}
    CHANGES[message](facts["python"], facts["rust"])
    path = tmp_path / "0.99.0.json"
    path.write_text(json.dumps(facts))
    done = run("check", path)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert message in line
    assert "frontend_fields.py" in line


PROTOCOL = (
    "from vllm.more import More, Lax\n\nclass {}(OpenAIBaseModel):\n    _private: int = 1\n    prompt: str\n"
    "    more: More = None\n    lax: Lax = 0\n    old: Optional[int]\n    any: Any = None\n    lists: list[str | None]\n"
)
ALIASES = (
    "Number: TypeAlias = Literal[1, None]\nMore = Union[str, Number]\n"
    "Lax: TypeAlias = Annotated[int, BeforeValidator(f, json_schema_input_type=int | None)]\n"
)
STRUCT = (
    "pub struct {} {{\n    /// A field.\n    #[serde(default)]\n    pub prompt: String,\n    pub idle: u32,\n"
    '    pub maybe: Option<u32>,\n    #[serde_as(as = "DefaultOnNull")]\n    pub lenient: bool,\n'
    "    #[serde(flatten)]\n    pub other: Map<String, Value>,\n}}\n\npub struct Other {{\n    pub no: u32,\n}}\n"
)
CODE = (
    'fn f() { request.prompt; request.maybe; request.lenient; bail_invalid_request!(param = "prompt", "no"); }\n'
    '#[cfg(test)]\nmod tests { fn f() { request.idle; param = "idle" } }\n'
)


def for_both(names: list[str]) -> dict[str, list[str]]:
    return {CHAT: names, COMPLETIONS: names}


def test_sources_are_read(tmp_path: Path) -> None:
    rust = tmp_path / "rust/src/server/src"
    files = {
        "vllm/_version.py": "__version__ = version = '9.9.9'\n",
        "vllm/more.py": ALIASES,
        "vllm/entrypoints/generate/base/serving.py": 'NAME = "X-One"\nr.headers.get(NAME) or headers.get("X-Two")\n',
        f"{rust}/utils.rs": 'headers.get("X-One"); headers\n  .get("X-Three")',
        f"{rust}/routes.rs": '.route("/v1/completions", post(openai::completions)).route("/v1/no", post(not_supported))',
    }
    for folder, name, module in (
        ("chat_completion", "ChatCompletionRequest", "chat_completions"),
        ("completion", "CompletionRequest", "completions"),
    ):
        files[f"vllm/entrypoints/openai/{folder}/protocol.py"] = PROTOCOL.format(name)
        files[f"{rust}/routes/openai/{module}.rs"] = ""
        files[f"{rust}/routes/openai/{module}/types.rs"] = STRUCT.format(name)
        files[f"{rust}/routes/openai/{module}/validate.rs"] = CODE
        files[f"{rust}/routes/openai/{module}/convert.rs"] = CODE
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = run("read", tmp_path)
    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "vllm": "9.9.9",
        "python": {
            "fields": for_both(["any", "lax", "lists", "more", "old", "prompt"]),
            "not_null": for_both(["lists", "prompt"]),
            "headers": ["x-one", "x-two"],
        },
        "rust": {
            "routes": [COMPLETIONS],
            "headers": ["x-one", "x-three"],
            "fields": for_both(["idle", "lenient", "maybe", "prompt"]),
            "may_be_null": for_both(["lenient", "maybe"]),
            "unused": for_both(["idle"]),
            "refused": for_both(["prompt"]),
        },
    }
    (rust / "routes/openai/completions/types.rs").write_text("pub struct Renamed {\n}\n")
    done = run("read", tmp_path)
    assert done.returncode == 1
    assert "types.rs has no struct CompletionRequest: tools/frontend_routes.py must learn" in done.stderr
