"""The download: which files vLLM loads, what is fetched of them, what is shown of it, and how it fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.model_fakes import FakeHubClient, FakePython, Tell, fake_hub_client
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import ModelError
from vllm_engine.models.download_progress import Download, Rate, human_bytes, human_seconds
from vllm_engine.models.engine_script import Event, ScriptError
from vllm_engine.models.engine_scripts import hub_client
from vllm_engine.models.engine_scripts.hub_files import HubFile, Listing, wanted_files
from vllm_engine.models.hub_download import Listener, fetch_files
from vllm_engine.models.model_source import Model

A, B, C = "a.safetensors", "b.safetensors", "original/c.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("paths", "index", "load_format", "weights"),
    [
        (("model.safetensors", "pytorch_model.bin"), None, "auto", ["model.safetensors"]),
        (("pytorch_model.bin", "training.pt"), None, "auto", ["pytorch_model.bin"]),
        ((A, B, C), (A, B), "auto", [A, B]),
        ((A, C), None, "auto", [A, C]),
        (("model.safetensors", "consolidated.safetensors"), None, "auto", ["consolidated.safetensors"]),
        (("model.safetensors", "consolidated.safetensors"), ("model.safetensors",), "safetensors", ["model.safetensors"]),
        (("model.safetensors", "x.pt"), None, "pt", ["x.pt"]),
        (("model.gguf",), None, "auto", []),
    ],
)  # fmt: skip
def test_one_kind_of_weights_as_vllm_chooses_it(
    paths: tuple[str, ...], index: tuple[str, ...] | None, load_format: str, weights: list[str]
) -> None:
    found = wanted_files(Listing(tuple(HubFile(path, 100, path) for path in paths), index), load_format)
    assert [file.path for file in found.weights] == weights
    assert found.weight_bytes == 100 * len(weights)
    assert wanted_files(Listing((), (A,))).lacking == {A}


def test_small_files_beside_the_weights() -> None:
    small = ["config.json", "merges.txt", "sub/x.json", "2_Dense/model.safetensors", "sparse_linear.pt"]
    others = ["onnx/model.onnx", "figure.png", "training_args.bin", "x.tar.gz"]
    listing = Listing(tuple(HubFile(path, 1, path) for path in (*small, *others)))
    assert [file.path for file in wanted_files(listing).beside] == small


def test_rate() -> None:
    """Over ten seconds, once one second has been seen; anew when a file is fetched again."""
    rate = Rate()
    steps = [(0.0, 100, None), (0.5, 200, None), (2.0, 500, 200.0), (20.0, 500, 0.0), (21.0, 400, None)]
    assert [rate.add(now, count) for now, count, _ in steps] == [expected for *_, expected in steps]


def test_words() -> None:
    download = Download(2, 5, 1_500_000_000, 6_000_000_000, 30_000_000.0)
    assert str(download) == "2 of 5 files, 1.5 GB of 6.0 GB, 30 MB/s, 2 min 30 s left"
    assert str(Download(0, 1, 5, 10, 0.0)) == "0 of 1 files, 5 B of 10 B, 0 B/s"
    assert (download.fraction, download.remaining_seconds) == (0.25, 150.0)
    assert Download(0, 1, 0, 0).fraction is None
    sizes = {0: "0 B", 999: "999 B", 1000: "1 kB", 269_060_552: "269 MB", 5.5e12: "5500.0 GB"}
    assert {count: human_bytes(count) for count in sizes} == sizes
    times = {0.4: "0 s", 119: "119 s", 120: "2 min 00 s"}
    assert {seconds: human_seconds(seconds) for seconds in times} == times


def settings(folder: Path) -> Settings:
    return load_settings(Environment({"MODEL_ID": "org/model", "CACHE_DIR": str(folder)}, {}))


class Case:
    """A download of three files, of which one is there."""

    def __init__(self, folder: Path, *events: Event) -> None:
        self.events = events
        self.request: Mapping[str, Any] = {}
        self.shown: list[Download] = []
        self.notes: list[str] = []
        self.folder = folder
        clock = iter(range(100))
        show, note = self.shown.append, self.notes.append
        self.listener = Listener(show, lambda *_: None, note, lambda: float(next(clock)))
        (folder / "config.json").write_bytes(b"x" * 50)
        (folder / B).write_bytes(b"too short")

    def play(self, request: Mapping[str, Any], tell: Tell) -> None:
        self.request = request
        for event in self.events:
            if event["event"] == "error":
                raise ScriptError(event["kind"], "words")
            tell(event)

    async def fetch(self, *, check_all: bool = False) -> int:
        files = [HubFile("config.json", 50, "cc"), HubFile(A, 600, "aa"), HubFile(B, 400, "bb")]
        model = Model("org/model", COMMIT, {}, self.folder)
        return await fetch_files(
            settings(self.folder), FakePython(self.play), model, files, self.listener, check_all=check_all
        )

    @property
    def asked(self) -> list[str]:
        return [path for path, *_ in self.request["files"]]


async def test_what_is_missing_is_fetched_and_shown(tmp_path: Path) -> None:
    """A file at another size than the hub's is missing; totals are of all that vLLM loads."""
    steps = [{"event": "progress", "bytes": count} for count in (0, 300, 1000)]
    steps[2:2] = [{"event": "damaged", "path": A}, {"event": "checked", "path": A}]
    case = Case(tmp_path, *steps)
    assert await case.fetch() == 1000
    assert case.asked == [A, B]
    assert case.shown == [
        Download(1, 3, 50, 1050),
        Download(1, 3, 350, 1050, 300.0),
        Download(2, 3, 1050, 1050, 500.0),
    ]
    assert case.notes == [f"{A} in the cache is damaged: fetching it again", f"checked 2 of 3: {A}"]


async def test_nothing_runs_where_all_is_there(tmp_path: Path) -> None:
    case = Case(tmp_path, {"event": "progress", "bytes": 1050})
    for name, size in ((A, 600), (B, 400)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert (await case.fetch(), case.request) == (0, {})
    assert await case.fetch(check_all=True) == 0
    assert (case.asked, case.shown) == (["config.json", A, B], [])


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [("unreachable", "hub-unreachable", True), ("server", "hub-unreachable", True), ("silent", "hub-unreachable", True),
     ("gated", "hub-gated", False), ("disk_full", "disk-full", False), ("damaged", "corrupt-weights", False)],
)  # fmt: skip
async def test_failure_is_told(tmp_path: Path, kind: str, code: str, *, retryable: bool) -> None:
    with pytest.raises(ModelError) as caught:
        await Case(tmp_path, {"event": "error", "kind": kind}).fetch()
    told = caught.value.diagnosis
    assert (told.code, told.retryable, told.evidence) == (code, retryable, "words")
    assert ("interrupted" in told.message) == (kind == "unreachable")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHubClient]:
    """The script in this process, with a hub client that holds two files."""
    with fake_hub_client(tmp_path, monkeypatch) as hub:
        hub.files = {A: b"weights", "config.json": b"{}"}
        yield hub


def fetch(hub: FakeHubClient) -> None:
    files = [HubFile(path, len(it), hashlib.sha256(it).hexdigest()) for path, it in hub.files.items()]
    hub_client.fetch("org/model", COMMIT, files)


def test_script_counts_and_checks_bytes(hub: FakeHubClient, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(hub)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(event["path"] for event in events if event["event"] == "checked") == [A, "config.json"]
    assert events[-1] == {"event": "progress", "bytes": 9, "checked": 9}


def test_script_fetches_a_damaged_file_once_more(
    hub: FakeHubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damages[A] = 1
    fetch(hub)
    (hub.folder / A).unlink()
    hub.damages[A] = 2
    with pytest.raises(hub_client.DamagedError, match="is not what the hub says it is"):
        fetch(hub)
    assert capsys.readouterr().out.count('"damaged"') == 2
    assert not (hub.folder / A).exists()


def test_script_gives_up_on_a_hub_that_never_sends_the_whole_file(hub: FakeHubClient) -> None:
    """The hub client itself would start over for ever: it counts retries from the last byte that came."""
    hub.breaks = A
    with pytest.raises(ConnectionError, match="the hub does not resume"):
        fetch(hub)
