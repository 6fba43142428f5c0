"""What is done before each start of the engine: the first looks the model up and downloads it, then it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.model_fakes import Tell
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.engine_state import EngineStatus, Phase, StatusBoard
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.engine.startup.preparation import Preparation
from vllm_engine.engine.startup.process_history import ProcessHistory
from vllm_engine.engine.startup.start_history import StartHistory, StartRecorder
from vllm_engine.errors import Diagnosis, ModelError
from vllm_engine.models.engine_script import EnginePython, ScriptError
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import Device

INSTALLATION = Installation(Path("python"), "3.12", "vllm", "0.32.0", "cpu", None)
EXIT = EngineExit(1, (), was_ready=False)
MISSING = Diagnosis("not-cached-and-offline", "a file is missing", "set it")


class Hub:
    """Plays the hub client's script: one model of two files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[object] = []
        self.error: ScriptError | None = None

    async def run(
        self, script: str, request: Mapping[str, Any], *, on_event: Tell = lambda _: None, **_: object
    ) -> Any:
        self.asked.append(request["do"])
        if self.error:
            raise self.error
        if request["do"] == "fetch":
            for path, size, _ in request["files"]:
                (self.folder / path).write_bytes(bytes(size))
            on_event({"event": "progress", "bytes": 900, "checked": 0})
        files = [["config.json", 100, "c"], ["model.safetensors", 800, "m"]]
        return {"config": {}, "revision": "abc", "folder": str(self.folder), "listing": [files, None]}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path)
    monkeypatch.setattr(EnginePython, "run", lambda _, *given, **named: hub.run(*given, **named))
    return hub


def preparation(folder: Path, **variables: str) -> Preparation:
    environment = Environment({"MODEL_ID": "org/model", "CACHE_DIR": str(folder), **variables}, {})
    board = StatusBoard()
    device = Device("cpu", "a CPU", supports_bfloat16=True)
    return Preparation(
        Preflight(load_settings(environment), environment, INSTALLATION, device),
        EngineFolders(folder, folder / "tmp"), board, StartRecorder(board, StartHistory(folder / "starts.json")),
        lambda preflight, plan: None, lambda end: MISSING, ProcessHistory(folder / "processes.json"),
    )  # fmt: skip


async def test_downloads_once_and_starts_offline(hub: Hub, tmp_path: Path) -> None:
    prepare = preparation(tmp_path)
    seen: list[EngineStatus] = []
    prepare.board.watch(seen.append)
    first = await prepare({})
    assert (first.model_revision, first.command.environ["HF_HUB_OFFLINE"]) == ("abc", "1")
    assert seen[-1].phase is Phase.DOWNLOADING
    assert seen[-1].download is not None
    assert (seen[-1].download.bytes_done, seen[-1].fraction) == (900, 1.0)
    assert await prepare({}) == first
    assert "--max-model-len 1280" in " ".join((await prepare({"MAX_MODEL_LEN": "1280"})).command.argv)
    assert hub.asked == ["look", "fetch"]


async def test_what_is_foreseen_is_what_the_command_then_needs(hub: Hub, tmp_path: Path) -> None:
    """The environment is that of the command, before and after a failure offline and with changes."""
    prepare = preparation(tmp_path)
    for changes in ({}, {"MAX_MODEL_LEN": "1280"}):
        foreseen, command = prepare.foresee(changes).command, (await prepare(changes)).command
        assert foreseen.environ == command.environ
        assert foreseen.argv == (command.argv[0], "-P", "-m", "vllm.entrypoints.cli.main")
    prepare.explain(EXIT)
    assert prepare.foresee({}).command.environ == (await prepare({})).command.environ
    online = preparation(tmp_path)
    online.preflight = replace(online.preflight, flags=("--enable-lora",))
    assert online.foresee({}).command.environ == (await online({})).command.environ


async def test_processes_are_those_of_the_last_start(hub: Hub, tmp_path: Path) -> None:
    """Of the same configuration; a file that is no record of ours is none."""
    prepare = preparation(tmp_path)
    node = {"set": {"OMP_NUM_THREADS": "7"}, "unset": [], "children": []}
    prepare.remember([node])
    assert preparation(tmp_path).foresee({}).children == [node]
    assert preparation(tmp_path, TENSOR_PARALLEL="2").foresee({}).children != [node]
    file = tmp_path / "processes.json"
    assert file.stat().st_mode & 0o777 == 0o600
    for text in ("{", "[]", '{"version": 1, "processes": []}', file.read_text().replace('"7"', "7")):
        file.write_text(text)
        assert preparation(tmp_path).foresee({}).children != [node]


async def test_a_start_tells_what_the_choice_between_frontends_needs(hub: Hub, tmp_path: Path) -> None:
    for variables, expected in (
        ({"MAX_MODEL_LEN": "1280", "REASONING_PARSER": "qwen3"}, (1280, True)),
        ({"MAX_MODEL_LEN": "auto", "REASONING_PARSER": "none"}, (None, False)),
    ):
        launch = await preparation(tmp_path, **variables)({})
        assert (launch.max_model_len, launch.has_reasoning_parser) == expected


async def test_an_engine_that_misses_a_file_offline_starts_again_online(hub: Hub, tmp_path: Path) -> None:
    prepare = preparation(tmp_path)
    assert prepare.explain(EXIT) == MISSING
    await prepare({})
    told = prepare.explain(EXIT)
    assert told == replace(MISSING, remedy="vLLM is started again with access to the hub", retryable=True)
    assert "HF_HUB_OFFLINE" not in (await prepare({})).command.environ
    assert prepare.explain(EXIT) == MISSING


async def test_a_hub_that_cannot_be_reached_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    """And whether vLLM starts offline is the user's to say."""
    prepare = preparation(tmp_path, HF_HUB_OFFLINE="0")
    hub.error = ScriptError("unreachable", "no route")
    with pytest.raises(ModelError) as caught:
        await prepare({})
    assert (caught.value.diagnosis.code, caught.value.diagnosis.retryable) == ("hub-unreachable", True)
    hub.error = None
    assert (await prepare({})).command.environ["HF_HUB_OFFLINE"] == "0"
    assert hub.asked == ["look", "look", "fetch"]


def test_only_a_file_that_is_missing_offline_starts_it_again() -> None:
    for code, is_offline, again in (
        ("hub-unreachable", True, True),
        ("hub-unreachable", False, False),
        ("disk-full", True, False),
    ):
        parts: list[Any] = [None] * 5 + [lambda _, code=code: Diagnosis(code, "it failed"), None]
        preparation = Preparation(*parts)
        preparation.is_offline = is_offline
        assert (preparation.explain(EXIT).retryable, preparation.needs_hub) == (again, again)
