"""Bad input: one line that names key, value and remedy, the right exit status, nothing started."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python, scenario_of, start_pids
from tests.support.program import run_cli


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A healthy engine, so that nothing but the bad value can stop the start."""
    return make_fake_engine_python(tmp_path / "engine")


def refused(engine: Path, model: Path, **variables: str) -> tuple[int, str]:
    """Try to serve; returns exit status and what was said, and makes sure that no engine was started."""
    environ = {"ENGINE_PYTHON": str(engine), "MODEL_ID": str(model)} | variables
    done = run_cli(environ, "serve", cwd=engine.parents[2])
    assert "Traceback" not in done.stderr
    assert start_pids(scenario_of(engine)) == []
    said = [line for line in done.stderr.splitlines() if line.startswith("vllm-engine: ")]
    (line,) = said
    return done.returncode, line.removeprefix("vllm-engine: ")


@pytest.mark.parametrize(
    ("variables", "status", "line"),
    [
        ({"DTYPE": "int4"}, 2, 'DTYPE="int4": expected auto, bfloat16, float16 or float32'),
        ({"MAX_MODEL_LEN": "0"}, 2, 'MAX_MODEL_LEN="0": expected a whole number of tokens from 1, or auto'),
        (
            {"GPU_MEMORY_UTILIZATION": "1.5"},
            2,
            'GPU_MEMORY_UTILIZATION="1.5": expected a fraction above 0 and up to 1',
        ),
        ({"TENSOR_PARALLEL": "3"}, 2, 'TENSOR_PARALLEL="3": no GPU is used here; valid values: 1 or auto'),
        (
            {"MAX_MODEL_LEN": "4096"},
            2,
            'MAX_MODEL_LEN="4096": the model holds at most 2048 tokens; set MAX_MODEL_LEN=2048 or less, or auto',
        ),
        (
            {"CACHE_DIR": "/proc/nowhere"},
            2,
            'CACHE_DIR="/proc/nowhere": cannot be written by uid',
        ),
        ({"VLLM_EXTRA_ARGS": "--max-modle-len 3"}, 2, "did you mean --max-model-len"),
        ({"VLLM_EXTRA_ARGS": "--port 3"}, 2, "PORT"),
        ({"VLLM_EXTRA_ARGS": "'"}, 2, 'VLLM_EXTRA_ARGS="\'": expected words quoted as for a shell'),
        ({"MAX_NUM_SEQS": "many"}, 2, 'MAX_NUM_SEQS="many": expected an integer'),
        ({"ENABLE_PREFIX_CACHING": "maybe"}, 2, 'ENABLE_PREFIX_CACHING="maybe": expected 1/0/true/false'),
        (
            {"TENSOR_PARALLEL_SIZE": "2"},
            2,
            'TENSOR_PARALLEL_SIZE="2": is not read; set TENSOR_PARALLEL instead',
        ),
        ({"MODEL_ID": "/no/such/model"}, 3, 'MODEL_ID="/no/such/model": no such folder'),
        ({"MODEL_ID": "bundled:x"}, 2, 'MODEL_ID="bundled:x": no such bundled model; there is bundled:smol'),
        ({"ENGINE_PYTHON": "/bin/true"}, 2, 'ENGINE_PYTHON="/bin/true": does not run as a Python'),
        ({"ENGINE_PYTHON": "/no/python"}, 2, 'ENGINE_PYTHON="/no/python": no such program'),
        ({"ENGINE_FRONTEND": "rust"}, 2, 'ENGINE_FRONTEND="rust": this vLLM lacks the Rust frontend'),
        ({"HOST": "no.such.host.invalid"}, 2, 'HOST="no.such.host.invalid": cannot be resolved'),
        ({"HOST": "203.0.113.1"}, 2, 'HOST="203.0.113.1": cannot be listened on'),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refused(engine: Path, model_folder: Path, variables: dict[str, str], status: int, line: str) -> None:
    """Each is one line, with the right exit status, and no engine was started."""
    code, said = refused(engine, model_folder, **variables)
    assert line in said
    assert code == status


def test_port_in_use(engine: Path, model_folder: Path) -> None:
    """A port that somebody has is named."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, line = refused(engine, model_folder, PORT=port)
    assert (code, line) == (2, f'PORT="{port}": already in use; stop what listens there or set another PORT')


def test_model_config_is_no_json(engine: Path, model_folder: Path) -> None:
    """A model folder with a broken config.json is said to be one."""
    (model_folder / "config.json").write_text("{")
    code, line = refused(engine, model_folder)
    assert code == 3
    assert "config.json cannot be read as JSON" in line


def test_python_without_vllm(tmp_path: Path, model_folder: Path) -> None:
    """An ENGINE_PYTHON that lacks vLLM is said to lack it."""
    environ = {"ENGINE_PYTHON": sys.executable, "MODEL_ID": str(model_folder)}
    done = run_cli(environ, "serve", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no vLLM installed; run `make setup`" in done.stderr


def test_cuda_build_without_gpu(tmp_path: Path, model_folder: Path) -> None:
    """A vLLM for GPUs on a machine without one says so, and what to do."""
    python = make_fake_engine_python(tmp_path / "engine", distribution="vllm", version="0.33.0")
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model_folder), "CUDA_VISIBLE_DEVICES": ""}
    done = run_cli(environ, "serve", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("vllm-engine: no GPU is visible, and this vLLM needs one")


def test_rust_frontend_with_api_servers(engine: Path, model_folder: Path) -> None:
    """The Rust frontend is one process: a number of API servers is refused, not ignored."""
    site = next(engine.parents[1].glob("lib/*/site-packages/vllm"))
    (site / "vllm-rs").touch(mode=0o755)
    code, line = refused(engine, model_folder, ENGINE_FRONTEND="rust", API_SERVER_COUNT="2")
    assert (code, line.split(";")[0]) == (2, 'API_SERVER_COUNT="2": the Rust frontend is one process')


def test_rust_frontend_warns(engine: Path, model_folder: Path) -> None:
    """What the Rust frontend lacks is said at the start."""
    site = next(engine.parents[1].glob("lib/*/site-packages/vllm"))
    (site / "vllm-rs").touch(mode=0o755)
    environ = {"ENGINE_PYTHON": str(engine), "MODEL_ID": str(model_folder), "ENGINE_FRONTEND": "rust"}
    done = run_cli(environ, "serve", "--dry-run", cwd=engine.parents[2])
    assert done.returncode == 0, done.stderr
    assert "no n > 1, no /v1/responses, no /v1/messages" in done.stderr
    assert "VLLM_USE_RUST_FRONTEND=1" in done.stdout


def test_several_at_once(engine: Path, model_folder: Path) -> None:
    """What is wrong with flags, device and folders is reported together."""
    environ = {
        "ENGINE_PYTHON": str(engine),
        "MODEL_ID": str(model_folder),
        "TENSOR_PARALLEL": "3",
        "MAX_NUM_SEQS": "x",
        "CACHE_DIR": "/proc/x",
    }
    done = run_cli(environ, "serve", cwd=engine.parents[2])
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 3


def test_almost_a_setting_warns(engine: Path, model_folder: Path) -> None:
    """A variable that is nearly one of vLLM's flags is pointed out; it may well be something else."""
    environ = {"ENGINE_PYTHON": str(engine), "MODEL_ID": str(model_folder), "MAX_NUM_SEQ": "3"}
    done = run_cli(environ, "serve", "--dry-run", cwd=engine.parents[2])
    assert done.returncode == 0
    assert "MAX_NUM_SEQS" in done.stderr


def test_settings_report(engine: Path, model_folder: Path) -> None:
    """`settings` tells each value and where it comes from, secrets masked."""
    (engine.parents[2] / ".env").write_text("DTYPE=float16\n")
    environ = {
        "ENGINE_PYTHON": str(engine),
        "MODEL_ID": str(model_folder),
        "HF_TOKEN": "hf_secret",
        "MAX_NUM_SEQS": "4",
    }
    done = run_cli(environ, "settings", "--json", cwd=engine.parents[2])
    assert done.returncode == 0, done.stderr
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows["DTYPE"] == ("float16", ".env")
    assert rows["HF_TOKEN"] == ("***", "environment")
    assert rows["PORT"] == ("8000", "default")
    assert rows["MAX_MODEL_LEN"] == ("2048", "the model's maximum, less than the default of 8192")
    assert rows["MAX_NUM_SEQS"] == ("4", "environment")
    assert rows["SERVED_MODEL_NAME"] == (str(model_folder), "MODEL_ID")
    assert rows["ENGINE_PYTHON"][0] == str(engine)
    plain = run_cli(environ, "settings", cwd=engine.parents[2])
    assert "hf_secret" not in plain.stdout + done.stdout


def test_settings_without_the_model(engine: Path) -> None:
    """A model that cannot be had leaves a report of all that is known, and marks what is not."""
    environ = {"ENGINE_PYTHON": str(engine), "MODEL_ID": "some-org/some-model", "TENSOR_PARALLEL": "auto"}
    done = run_cli(environ, "settings", "--json", cwd=engine.parents[2])
    assert done.returncode == 0
    assert 'MODEL_ID="some-org/some-model"' in done.stderr
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert [key for key, row in rows.items() if not row["known"]] == [
        "TENSOR_PARALLEL",
        "MAX_MODEL_LEN",
        "KV_CACHE_MEMORY_BYTES",
    ]
    assert "NOT KNOWN" in rows["MAX_MODEL_LEN"]["source"]
    assert (rows["PORT"]["value"], rows["API_SERVER_COUNT"]["value"]) == ("8000", "1")
    plain = run_cli(environ | {"SSL_CERT_FILE": "/gone"}, "settings", cwd=engine.parents[2])
    assert plain.returncode == 2
    assert "some-org/some-model" in plain.stdout and "SSL_CERT_FILE" in plain.stderr


def test_dry_run_is_exact(engine: Path, model_folder: Path) -> None:
    """`serve --dry-run` prints the command that really runs, without starting it or showing secrets."""
    environ = {"ENGINE_PYTHON": str(engine), "MODEL_ID": str(model_folder), "HF_TOKEN": "hf_secret"}
    done = run_cli(environ, "serve", "--dry-run", cwd=engine.parents[2])
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].strip()
    assert command.startswith(f"{engine} -P -m vllm.entrypoints.cli.main serve {model_folder} ")
    assert "--max-model-len 2048" in command
    assert "HF_TOKEN='***'" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr
    assert start_pids(scenario_of(engine)) == []


@pytest.mark.parametrize("command", ["serve", "download", "settings", "doctor"])
def test_a_misspelt_name_stops_every_command(engine: Path, model_folder: Path, command: str) -> None:
    """None of them goes on with another model than was meant."""
    (engine.parents[2] / ".env").write_text(f"MODLE_ID={model_folder}\nENGINE_PYTHON={engine}\n")
    done = run_cli({}, command, cwd=engine.parents[2])
    assert done.returncode == 2
    assert 'MODLE_ID="***": nothing reads this name; did you mean MODEL_ID?' in done.stderr


@pytest.mark.parametrize("command", ["serve", "settings"])
def test_another_engines_name_is_read_and_said(engine: Path, model_folder: Path, command: str) -> None:
    """The model that is meant is served."""
    environ = {"MODEL_NAME": str(model_folder), "ENGINE_PYTHON": str(engine)}
    arguments = (command, "--dry-run") if command == "serve" else (command,)
    done = run_cli(environ, *arguments, cwd=engine.parents[2])
    assert done.returncode == 0
    assert "MODEL_NAME is read as MODEL_ID" in done.stderr
    assert str(model_folder) in done.stdout
