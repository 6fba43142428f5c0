"""The stored flags are those of the installed vLLM, and our verdict on a command line is its parser's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_engine.config import flags
from vllm_engine.config.flags import FlagCatalogue

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "tools" / "vllm_flags.py"
# Read before any fixture hides the machine's environment.
ENGINE_PYTHON = Path(os.environ.get("ENGINE_PYTHON", REPOSITORY / ".venv-engine" / "bin" / "python"))
IMPORT_SECONDS = 300

# What the environment gives: some values look like flags.
ENVIRONMENTS: list[dict[str, str]] = [
    {"ENABLE_AUTO_TOOL_CHOICE": "1", "TOOL_CALL_PARSER": "hermes"},
    {"MAX_NUM_SEQS": "64", "MAX_MODEL_LEN": "8k", "KV_CACHE_MEMORY_BYTES": "1G"},
    {"ENABLE_PREFIX_CACHING": "0", "NO_ENFORCE_EAGER": "0", "DISABLE_LOG_STATS": "1"},
    {"MM_PROCESSOR_CACHE_GB": "-0.5", "CHAT_TEMPLATE": "--x", "RESPONSE_ROLE": "two words"},
    {"COMPILATION_CONFIG": '{"mode": 3, "max_cudagraph_capture_size": 1k}'},
    {"SERVED_MODEL_NAME": '["a", "b c"]', "CUDAGRAPH_CAPTURE_SIZES": "1 2 4", "MIDDLEWARE": "a b"},
    {"LORA_MODULES": '[{"name": "a", "path": "/a"}, "b=/b"]', "MAX_LORA_RANK": "16"},
    {"MOE_BACKEND": "Deep-GEMM", "SAFETENSORS_LOAD_STRATEGY": "None", "DEVICE_IDS": "0,GPU-1"},
]

# Command lines, taken and refused. The few of which we refuse more than the parser are left out.
LINES = """
    --max_num_seqs=64 --no_enforce_eager | -tp 2 -q awq -n2 -r=0 -ep -O2 | -tp4 |
    --gpu-mem .9 --no-enable-pre -t 2 | --enforce --trust |
    -qawq -ep --hf-token --ignore-patterns a b --middleware a --middleware b |
    --chat-template=--x --response-role 'two words' | --response-role two words |
    --served-model-name a b --lora-modules a=/a '{"name": "b", "path": "/b"}' |
    --collect-detailed-traces all None --max-lora-rank ' 16' | --max-num-s 4 |
    -cc.mode=3 --compilation-config.cudagraph_capture_sizes+ 1,2 | -cc.moed=3 | -cc.mode |
    --compilation-config 3 | --lora-modules.name a --lora-modules.path /a | --lora-modules.name a |
    --seed -1 --ignore-patterns a -1 | --seed -1e5 | --mm-processor-cache-gb -0.5 | --mm-processor-cache-gb=-0.5 |
    --chat-template '-a b' --hf-token | --max-num-seqs 8k | --max-num-batched-tokens 1.5K |
    --scheduling-policy fcsf | --max-log-len '' | --max-num-seqs '' | --enforce-eager=true |
    --enforce-eager true | --max-num-seqs | --max-num-sequences 4 | --model other | stray |
    --enforce-eager -- | --help | -O
"""
COMMAND_LINES = [line.strip() for line in LINES.split("|")]

CHILD = """
import contextlib, io, json, sys
lines = json.load(sys.stdin)
sys.argv = ["vllm", "serve"]
with contextlib.redirect_stdout(sys.stderr):
    import vllm
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    parser = FlexibleArgumentParser(prog="vllm")
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    said = []
    for line in lines:
        try:
            with contextlib.redirect_stderr(io.StringIO()) as message:
                parser.parse_args(["serve", "some/model", *line])
        except (SystemExit, IndexError) as end:
            said.append(f"{end!r} {message.getvalue()[-300:]}")
        else:
            said.append("")
print(json.dumps({"version": vllm.__version__, "said": said}))
"""


@dataclass(frozen=True)
class Engine:
    """The installed vLLM and what its parser said: nothing where it took the command line."""

    version: str
    said: dict[str, str]


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run the engine's Python with nothing of ours in its environment."""
    assert ENGINE_PYTHON.exists(), f"no engine Python at {ENGINE_PYTHON}: set ENGINE_PYTHON"
    environ = {key: os.environ[key] for key in ("PATH", "HOME")}
    return subprocess.run(
        [ENGINE_PYTHON, *arguments], env=environ | {"VLLM_TARGET_DEVICE": "cpu", "VLLM_PLUGINS": ""},
        input=text, capture_output=True, text=True, timeout=IMPORT_SECONDS,
    )  # fmt: skip


def from_environments(catalogue: FlagCatalogue) -> list[list[str]]:
    """Return the arguments of every environment above, none of which has an error."""
    results = [catalogue.from_environment(env, reserved={}) for env in ENVIRONMENTS]
    assert [str(problem) for checked in results for problem in checked.problems + checked.warnings] == []
    return [checked.argv for checked in results]


def from_command_lines(catalogue: FlagCatalogue) -> dict[str, tuple[list[str], bool]]:
    """Return the words of every command line above, and whether we take them."""
    results = {raw: catalogue.check_extra_args(raw, reserved={}) for raw in COMMAND_LINES}
    return {raw: (checked.argv, not checked.problems) for raw, checked in results.items()}


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Ask the real parser about everything in one process, for vLLM takes seconds to import."""
    some = FlagCatalogue.load("")
    lines = from_environments(some) + [words for words, _ in from_command_lines(some).values()]
    child = run("-c", CHILD, text=json.dumps(lines))
    assert child.returncode == 0, child.stderr
    answer = json.loads(child.stdout.splitlines()[-1])
    said = {json.dumps(line): verdict for line, verdict in zip(lines, answer["said"], strict=True)}
    return Engine(answer["version"], said)


@pytest.fixture(scope="module")
def catalogue(engine: Engine) -> FlagCatalogue:
    """The flags of the installed vLLM, which must be among those that are stored."""
    found = FlagCatalogue.load(engine.version)
    assert found.exact, f"no catalogue of vLLM {engine.version}: run tools/vllm_flags.py"
    return found


def test_stored_flags_are_those_of_the_parser(tmp_path: Path, catalogue: FlagCatalogue) -> None:
    """And a difference is shown."""
    stored = Path(flags.__file__).with_name(f"{catalogue.version.rpartition('.')[0]}.json")
    child = run(str(SCRIPT), "--check", str(stored))
    assert child.returncode == 0, child.stdout + child.stderr
    drifted = tmp_path / stored.name
    drifted.write_text(stored.read_text(encoding="utf-8").replace("max-num-seqs", "max-num-sqs"), "utf-8")
    child = run(str(SCRIPT), "--check", str(drifted))
    assert child.returncode == 1, child.stdout + child.stderr
    assert '-  {"name": "max-num-sqs"' in child.stdout
    assert '+  {"name": "max-num-seqs"' in child.stdout


def test_the_parser_takes_what_the_environment_gives(engine: Engine, catalogue: FlagCatalogue) -> None:
    for argv in from_environments(catalogue):
        assert engine.said[json.dumps(argv)] == ""


def test_our_verdict_is_the_parsers(engine: Engine, catalogue: FlagCatalogue) -> None:
    verdicts = from_command_lines(catalogue)
    ours = {raw: taken for raw, (_, taken) in verdicts.items()}
    theirs = {raw: engine.said[json.dumps(words)] == "" for raw, (words, _) in verdicts.items()}
    assert ours == theirs
    assert set(ours.values()) == {True, False}


def test_the_installed_python_frontend_is_the_one_that_requests_are_routed_for(engine_python: Path) -> None:
    """A new vLLM is written down with tools/frontend_routes.py, which then says what the table lacks."""
    [site] = engine_python.parents[1].glob("lib/python3.*/site-packages")
    script, stored = REPOSITORY / "tools/frontend_routes.py", REPOSITORY / "tests/data/frontends"
    words: list[str | Path] = [sys.executable, script, "installed", site, stored]
    child = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")
