"""Downloads: what vLLM will fetch, what the hub client's cache shows of it, and how fast it comes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_engine.engine.engine_state import Phase, StatusBoard
from vllm_engine.engine.startup.hub_cache import HubCache, watch_download
from vllm_engine.models.download_progress import Download, Rate, Weights, human_bytes, human_seconds
from vllm_engine.models.repository_files import HubFile, Listing, WantedFiles, wanted_files


def listing(*paths: str, index: tuple[str, ...] | None = None) -> Listing:
    """Return a repository of files of 100 bytes."""
    return Listing(Path("/cache"), tuple(HubFile(path, 100, f"blob-{path}") for path in paths), index)


@pytest.mark.parametrize(
    ("paths", "index", "load_format", "weights"),
    [
        (("model.safetensors", "pytorch_model.bin"), None, "auto", ["model.safetensors"]),
        (("pytorch_model.bin", "training.pt"), None, "auto", ["pytorch_model.bin"]),
        (("a.safetensors", "b.safetensors", "original/c.safetensors"), ("a.safetensors", "b.safetensors"), "auto",
         ["a.safetensors", "b.safetensors"]),
        (("a.safetensors", "original/c.safetensors"), None, "auto", ["a.safetensors", "original/c.safetensors"]),
        (("model.safetensors", "consolidated.safetensors"), None, "auto", ["consolidated.safetensors"]),
        (("model.safetensors", "consolidated.safetensors"), ("model.safetensors",), "safetensors", ["model.safetensors"]),
        (("model.safetensors", "x.pt"), None, "pt", ["x.pt"]),
        (("model.gguf",), None, "auto", []),
    ],
)  # fmt: skip
def test_wanted_weights(
    paths: tuple[str, ...], index: tuple[str, ...] | None, load_format: str, weights: list[str]
) -> None:
    """One kind of weights counts, as vLLM chooses it; nothing else of the repository."""
    found = wanted_files(listing(*paths, index=index), load_format)
    assert [file.path for file in found.weights] == weights
    assert found.weight_bytes == 100 * len(weights)


def test_wanted_beside_the_weights() -> None:
    """vLLM fetches whatever is no weight and no picture or recording; only that may count."""
    small = ["config.json", "tokenizer.json", "chat_template.jinja", "merges.txt", "README.md", "sub/x.json"]
    others = ["onnx/model.onnx", "figure.png", "training_args.bin", "x.tar.gz"]
    assert [file.path for file in wanted_files(listing(*small, *others)).beside] == small


WANTED = WantedFiles(
    weights=(HubFile("a.safetensors", 6000, "aa"), HubFile("b.safetensors", 4000, "bb")),
    beside=(HubFile("config.json", 500, "cc"), HubFile("vocab.json", 900, "never")),
)


def blob(folder: Path, name: str, size: int) -> Path:
    """Put a blob into a cache."""
    path = folder / "blobs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def test_scan(tmp_path: Path) -> None:
    """Finished files count whole, those on their way as far as they are; small ones only if they come."""
    cache = HubCache(tmp_path, WANTED)
    blob(tmp_path, "cc", 500)
    blob(tmp_path, "aa", 6000)
    blob(tmp_path, "bb.5f3a1c2e.incomplete", 1000)
    blob(tmp_path, "unrelated", 77_000)
    assert cache.scan() == Download(Weights.MISSING, True, 2, 7500, 3, 10_500, None)


def test_scan_of_an_older_hub_client(tmp_path: Path) -> None:
    """Files on their way without a random part in their names count too."""
    cache = HubCache(tmp_path, WANTED)
    blob(tmp_path, "bb.incomplete", 1000)
    assert (cache.scan().bytes_done, cache.scan().is_coming) == (1000, True)


def test_leftovers_do_not_count(tmp_path: Path) -> None:
    """What an interrupted start left is not progress: the hub client begins that file anew."""
    old = blob(tmp_path, "bb.00000000.incomplete", 3900)
    cache = HubCache(tmp_path, WANTED)
    assert (cache.scan().bytes_done, cache.scan().is_coming) == (0, False)
    new = blob(tmp_path, "bb.11111111.incomplete", 10)
    os.utime(new, ns=(1, old.stat().st_mtime_ns + 1))
    assert cache.scan().bytes_done == 10


def test_preallocated_file(tmp_path: Path) -> None:
    """A file that was given its full size counts as far as it is filled."""
    cache = HubCache(tmp_path, WantedFiles((HubFile("a", 1 << 30, "aa"),)))
    coming = blob(tmp_path, "aa.1.incomplete", 0)
    with coming.open("r+b") as file:
        file.truncate(1 << 30)
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
        assert 1 << 20 <= cache.scan().bytes_done < 1 << 24


def test_sizes_unknown(tmp_path: Path) -> None:
    """Without sizes from the hub there are bytes and files, no total; only a big file means weights."""
    cache = HubCache(tmp_path, None)
    blob(tmp_path, "cc", 500)
    small = blob(tmp_path, "tok.1.incomplete", 1000)
    assert cache.scan() == Download(Weights.UNKNOWN, False, 1, 1500)
    small.write_bytes(b"x" * (33 << 20))
    assert cache.scan().is_coming


def test_no_cache_folder(tmp_path: Path) -> None:
    """A cache that is not there yet is an empty one."""
    seen = HubCache(tmp_path / "none", WANTED).scan()
    assert (seen.weights, seen.bytes_done, seen.bytes_total) == (Weights.MISSING, 0, 10_000)


async def test_present_weights_are_no_download(tmp_path: Path) -> None:
    """Where the weights are in the cache, nothing is said of a download."""
    blob(tmp_path, "aa", 6000)
    blob(tmp_path, "bb", 4000)
    board = StatusBoard()
    await watch_download(board, HubCache(tmp_path, WANTED))
    assert (board.current.download, board.current.phase) == (None, Phase.PREPARING)


async def test_watch(tmp_path: Path) -> None:
    """The phase goes to downloading when a weight comes, and to loading when all are there."""
    board = StatusBoard()
    board.progress(Phase.IMPORTING)
    seen: list[tuple[Phase, float | None]] = []
    steps = [
        lambda: blob(tmp_path, "bb.1.incomplete", 1000),
        lambda: blob(tmp_path, "aa", 6000),
        lambda: blob(tmp_path, "bb", 4000),
    ]

    def changed(status: object) -> None:
        seen.append((board.current.phase, board.current.fraction))
        if steps:
            steps.pop(0)()

    board.watch(changed)
    await watch_download(board, HubCache(tmp_path, WANTED))
    assert seen == [
        (Phase.IMPORTING, None),
        (Phase.DOWNLOADING, 0.1),
        (Phase.DOWNLOADING, 0.7),
        (Phase.LOADING_WEIGHTS, None),
    ]


async def test_watch_ends_when_the_engine_loads(tmp_path: Path) -> None:
    """Once the engine reads weights, whatever the cache looks like is no news."""
    board = StatusBoard()
    board.progress(Phase.LOADING_WEIGHTS)
    await watch_download(board, HubCache(tmp_path, WANTED))
    assert board.current.download is None


def test_rate() -> None:
    """Over ten seconds, once one second has been seen; anew when a file begins again."""
    rate = Rate()
    assert rate.add(0.0, 100) is None
    assert rate.add(0.5, 200) is None
    assert rate.add(2.0, 500) == 200.0
    assert rate.add(20.0, 500) == 0.0
    assert rate.add(21.0, 400) is None


def test_words() -> None:
    """Files, bytes, rate and time left in one line; only what is known."""
    download = Download(Weights.MISSING, True, 2, 1_500_000_000, 5, 6_000_000_000, 30_000_000.0)
    assert str(download) == "2 of 5 files, 1.5 GB of 6.0 GB, 30 MB/s, 2 min 30 s left"
    assert str(Download(Weights.UNKNOWN, True, 2, 1500)) == "2 files, 2 kB"
    assert (download.fraction, download.remaining_seconds) == (0.25, 150.0)
    assert Download(Weights.MISSING, True, 0, 5, 1, 10, 0.0).remaining_seconds is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (269_060_552, "269 MB"), (5.5e12, "5500.0 GB")]
)  # fmt: skip
def test_human_bytes(count: float, text: str) -> None:
    """Decimal units, as the hub shows them."""
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min 00 s")])
def test_human_seconds(seconds: float, text: str) -> None:
    """Seconds while they are few, then minutes."""
    assert human_seconds(seconds) == text
