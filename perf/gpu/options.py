"""The options of a run; a value that cannot work is refused before anything starts."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

from perf.gpu.servers import kept
from perf.gpu.steps import STEPS, TARGETS
from vllm_engine.errors import SettingsError
from vllm_engine.plan.engine_installation import inspect_installation


def parse(words: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Return the options; of a wrong one, prints what was expected and exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.gpu",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine-python", type=_engine_python, required=True, help="a Python with vLLM")
    parser.add_argument("--model", type=_model, required=True, help="the model's folder")
    parser.add_argument("--results", type=Path, required=True, help="a new folder for the results")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "vllm-engine-gpu",
        help="a folder for logs and caches; logs of an earlier run are deleted (%(default)s)",
    )
    parser.add_argument(
        "--flags", type=_flags, default=[], help="flags of vllm serve for every server, in one word"
    )
    parser.add_argument(
        "--plain-flags", type=_flags, default=[], help="flags of plain vllm serve, in one word"
    )
    parser.add_argument(
        "--cold", type=_settings, default={}, help="settings of the cold start: NAME=VALUE ..."
    )
    parser.add_argument(
        "--settings", type=_settings, default={}, help="settings of our other servers: NAME=VALUE ..."
    )
    parser.add_argument("--nginx", type=_program, help="the program, to measure it too")
    parser.add_argument(
        "--also", type=_also, action="append", default=[], help="NAME=COMMAND with {port}: another server"
    )
    parser.add_argument("--steps", type=_steps, default=list(STEPS), help=f"of {','.join(STEPS)}")
    parser.add_argument(
        "--targets", type=_names, default=[], help="only these servers, and nginx before them"
    )
    parser.add_argument(
        "--streams", type=_counts, default=[256, 1, 64, 1024, 256], help="the loads: 256,1,64,1024,256"
    )
    parser.add_argument("--processes", type=int, default=min(6, os.cpu_count() or 1), help="of the generator")
    parser.add_argument("--start-seconds", type=float, default=300.0, help="how long a start may take")
    parser.add_argument("--seconds", type=float, default=540.0, help="when the last leg begins at the latest")
    parser.add_argument("--keep", action="store_true", help="leave the servers running for a later call")
    given = parser.parse_args(words)
    known = [*TARGETS, *dict(given.also)]
    for name in given.targets:
        if name not in known:
            parser.error(f"argument --targets: {name!r}: expected some of {','.join(known)}")
    # It would be mixed with this run's, or lost.
    if (given.results / "rows.jsonl").exists() and not kept(given.work / "servers.json"):
        parser.error(
            f"argument --results: {str(given.results)!r} has an earlier run's rows; expected a new folder"
        )
    return given


def _engine_python(word: str) -> Path:
    python = Path(shutil.which(word) or word).absolute()
    try:
        inspect_installation(python)
    except SettingsError as error:
        why = error.problems[0].message.partition("; ")[0]
        raise ArgumentTypeError(f"{word!r}: {why}; expected a Python with vLLM") from error
    return python


def _model(word: str) -> Path:
    if not (Path(word) / "config.json").is_file():
        raise ArgumentTypeError(f"{word!r}: expected a model's folder, which has a config.json")
    return Path(word).absolute()


def _program(word: str) -> str:
    found = shutil.which(word)
    if found is None:
        raise ArgumentTypeError(f"{word!r}: expected a program")
    return str(Path(found).absolute())


def _flags(word: str) -> list[str]:
    try:
        return shlex.split(word)
    except ValueError as error:
        raise ArgumentTypeError(f"{word!r}: {error}; expected flags as in a shell") from error


def _settings(word: str) -> dict[str, str]:
    return dict(_pair(each, "NAME=VALUE") for each in _flags(word))


def _also(word: str) -> tuple[str, str]:
    name, command = _pair(word, "NAME=COMMAND")
    if "{port}" not in command:
        raise ArgumentTypeError(f"{word!r}: expected a command with {{port}}, where it is to listen")
    return name, command


def _pair(word: str, wanted: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"{word!r}: expected {wanted}")
    return name, value


def _names(word: str) -> list[str]:
    return [name for name in word.split(",") if name]


def _steps(word: str) -> list[str]:
    for name in word.split(","):
        if name not in STEPS:
            raise ArgumentTypeError(f"{name!r}: expected some of {','.join(STEPS)}")
    return word.split(",")


def _counts(word: str) -> list[int]:
    try:
        counts = [int(count) for count in word.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ArgumentTypeError(f"{word!r}: expected numbers of streams, such as 256,1")
    return counts
