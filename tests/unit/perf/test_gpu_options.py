"""A run on a GPU refuses options that cannot work, and begins without what an earlier one has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perf.gpu.options import parse
from perf.gpu.results import Results
from perf.gpu.servers import Rig, Server, keep
from perf.gpu.steps import STEPS, TARGETS, Steps

ROOT = Path(__file__).parents[3]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Options that are right."""
    model, site = tmp_path / "model", tmp_path / "bin"
    model.mkdir()
    site.mkdir()
    (model / "config.json").write_text("{}")
    answer = dict.fromkeys(("version", "python", "torch", "cuda", "transformers", "rust", "ray"), "1")
    lists: dict[str, list[str]] = {"tracing_lacks": [], "tool_parsers": [], "reasoning_parsers": []}
    engine = site / "python"
    engine.write_text(
        f"#!/bin/sh\necho '{json.dumps({**answer, **lists, 'distribution': 'vllm', 'ray': False})}'\n"
    )
    engine.chmod(0o755)
    places = ["--results", f"{tmp_path}/results", "--work", f"{tmp_path}/work"]
    return ["--engine-python", str(engine), "--model", str(model), *places]


def test_options_that_are_right(words: list[str]) -> None:
    more = ["--settings", "A=1 B='x y'", "--also", "both=serve --port {port}", "--targets", "vllm-2,both"]
    given = parse([*words, *more, "--streams", "2,1", "--flags", "--a 'b c'"], None)

    assert given.settings == {"A": "1", "B": "x y"}
    assert given.also == [("both", "serve --port {port}")]
    assert (given.targets, given.streams, given.flags) == (["vllm-2", "both"], [2, 1], ["--a", "b c"])
    assert parse(words, None).steps == list(STEPS)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--steps", "facts,foo", "'foo': expected some of facts,cold,"),
        ("--settings", "A=1 FOO", "'FOO': expected NAME=VALUE"),
        ("--cold", "FOO", "'FOO': expected NAME=VALUE"),
        ("--flags", "'", "expected flags as in a shell"),
        ("--also", "X", "'X': expected NAME=COMMAND"),
        ("--also", "x=serve", "expected a command with {port}"),
        ("--targets", "vllm-3", f"'vllm-3': expected some of {','.join(TARGETS)}"),
        ("--streams", "4,no", "'4,no': expected numbers of streams"),
        ("--streams", "0", "'0': expected numbers of streams"),
        ("--nginx", "/no/nginx", "'/no/nginx': expected a program"),
        ("--model", "/no/model", "'/no/model': expected a model's folder"),
        ("--engine-python", "/no/python", "'/no/python': does not run as a Python"),
        ("--engine-python", sys.executable, "has no vLLM installed; expected a Python with vLLM"),
    ],
)
def test_options_that_cannot_work(
    words: list[str], option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They end the program with status 2 at once, and what is printed names option, value and what was expected."""
    with pytest.raises(SystemExit) as ended:
        parse([*words, option, value], None)

    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"error: argument {option}: " in last
    assert expected in last


def test_results_of_two_runs_are_not_mixed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless the second goes on with the servers of the first."""
    results, work = tmp_path / "results", tmp_path / "work"
    results.mkdir()
    work.mkdir()
    (results / "rows.jsonl").touch()
    with pytest.raises(SystemExit):
        parse(words, None)
    assert "expected a new folder" in capsys.readouterr().err

    keep([Server("ours", "ours", os.getpid(), 1, "log", 0.0)], work / "servers.json")
    assert parse(words, None).results == results


def test_a_run_begins_without_the_logs_of_an_earlier_one(tmp_path: Path) -> None:
    """The caches stay, for warm starts."""
    for name in (
        "ours.log",
        "failures/oom.log",
        "nginx-vllm/error.log",
        "requests.jsonl",
        "cache/kernels/log",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a standby is ready\n")

    Results(tmp_path / "results", tmp_path).begin_anew()

    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"cache/kernels/log"}


def test_a_log_is_of_one_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier one of that name has said does not count."""
    log = tmp_path / "again.log"
    log.write_text("a standby is ready\n")

    def launch(_argv: list[str], _environ: dict[str, str], out: Path) -> subprocess.Popen[bytes]:
        assert out == log
        assert not log.exists()
        process = subprocess.Popen(["true"])
        process.wait()
        return process

    monkeypatch.setattr("perf.gpu.servers.launch", launch)
    assert Rig(Path("python"), "model", [], [], tmp_path).other("again", "serve {port}").log == str(log)


def test_a_cold_start_has_no_cache_and_one_api_server(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, str | None]] = []

    def ours(rig: Rig, name: str, environ: dict[str, str]) -> Server:
        assert not rig.cache.exists()
        started.append((name, environ.get("API_SERVER_COUNT")))
        return Server(name, "ours", 2**22 + 1, 1, str(log), 0.0)

    monkeypatch.setattr(Rig, "ours", ours)
    log = tmp_path / "log"
    log.touch()
    for more in ([], ["--cold", "API_SERVER_COUNT=2"]):
        (tmp_path / "cache/kernels").mkdir(parents=True)
        results = Results(tmp_path / "results", tmp_path)
        rig = Rig(Path("python"), "model", [], [], tmp_path)
        Steps(rig, results, parse([*words, *more], None)).run("cold")
        assert len(results.failed) == 1  # it has ended
        (tmp_path / "results/rows.jsonl").unlink()

    assert started == [("ours-cold", "1"), ("ours-cold", "2")]


def run_sh(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    places = {
        "PATH": os.environ["PATH"],
        "GATEWAY": str(folder / "gateway"),
        "PYTHON": str(folder / "python"),
    }
    argv = [str(ROOT / "perf/gpu/run.sh"), *words]
    return subprocess.run(argv, env=places | environ, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with two packed gateways, and a program in Python's place, which says what it was asked."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "version").write_text(name)
        subprocess.run(
            ["tar", "-cJf", f"{name}/gateway.tar.xz", "-C", name, "version"], cwd=tmp_path, check=True
        )
    python = tmp_path / "python"
    python.write_text(
        """#!/bin/sh
case "$1 $2" in
-c*) echo 3.12 ;;
"-m venv") rm -rf "$5"; mkdir -p "$5/bin" "$5/lib/python3.12/site-packages"
    touch "$5/pyvenv.cfg"; cp "$0" "$5/bin/python"; echo made ;;
"-m perf.gpu") echo "$@" ;;
esac
"""
    )
    python.chmod(0o755)
    return tmp_path


def test_the_packed_gateway_is_the_one_that_runs(machine: Path) -> None:
    """The environment is made anew for another archive, or another folder, and only then."""
    version = machine / "gateway/lib/python3.12/site-packages/version"
    asked = "-m perf.gpu --engine-python engine --results results --keep\n"
    for name, printed in (("one", f"made\n{asked}"), ("one", asked), ("two", f"made\n{asked}")):
        done = run_sh(machine, name, "engine", "results", "--keep")
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
        assert version.read_text() == name
    (machine / "two/gateway.tar.xz").write_bytes((machine / "one/gateway.tar.xz").read_bytes())
    assert run_sh(machine, "two", "engine", "results").stdout.startswith("made\n")
    assert version.read_text() == "one"


def test_run_sh_refuses_what_cannot_work(machine: Path) -> None:
    """In one line, with status 2."""
    other = machine / "other"
    other.write_text("#!/bin/sh\necho 3.11\n")
    other.chmod(0o755)
    (machine / "kept").mkdir()
    for done, line in (
        (run_sh(machine, "none", "e", "r"), "run.sh: FOLDER=none: expected a folder with gateway.tar.xz"),
        (run_sh(machine, "one", "e", "r", PYTHON=str(other)), "expected Python 3.12, for which the gateway"),
        (run_sh(machine, "one", "e", "r", PYTHON="/no/python"), "it is no Python"),
        (run_sh(machine, "one", "e", "r", GATEWAY=f"{machine}/kept"), "expected an environment"),
    ):
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert line in done.stderr
