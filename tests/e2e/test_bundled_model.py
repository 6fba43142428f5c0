"""The bundled model for real: the engine's Python, the real weights, the libraries that vLLM uses."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.models.bundled import ConvertProgress, bundled_path, ensure_bundled, is_intact
from vllm_engine.models.engine_scripts import convert_gguf

pytestmark = pytest.mark.e2e

NAME = "smollm2-135m-instruct"
MODEL = f"bundled:{NAME}"
REPOSITORY = Path(__file__).parents[2]
CONVERSION_SECONDS = 180
INTACT_SECONDS = 15

# Worked out apart from the converter: GPT-2's algorithm, over the GGUF's own vocabulary and merges.
TOKEN_IDS = {
    "Hello world": [19556, 905],
    "In 1984: 12345": [788, 216, 33, 41, 40, 36, 42, 216, 33, 34, 35, 36, 37],
    "naïve 日本語": [3546, 46494, 17097, 241, 115, 40993, 179, 120, 248],
    "😀": [10813, 242, 218],
    "a\n\n\tb": [81, 1116, 197, 82],
}

ASK = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
messages = [{"role": "user", "content": "What is the capital of France?"}]
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
prompt = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
generated = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0][prompt["input_ids"].shape[1]:]
specials = tokenizer.all_special_tokens + list(tokenizer.get_added_vocab())
print(json.dumps({
    "ids": {text: tokenizer.encode(text) for text in texts},
    "back": {text: tokenizer.decode(tokenizer.encode(text)) for text in texts},
    "specials": {token: tokenizer.encode(token) for token in specials},
    "named": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token],
    "plain": tokenizer.decode(tokenizer.encode("a<|im_end|>b"), skip_special_tokens=True),
    "prompt": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
    "own_system": tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, *messages], tokenize=False
    ),
    "dtype": str(model.dtype),
    "rope": model.config.rope_parameters,
    "eos": model.generation_config.eos_token_id,
    "answer": tokenizer.decode(generated, skip_special_tokens=True),
}))
"""


@pytest.fixture(scope="module")
def engine_python() -> Path:
    """Return the engine's Python; without it these tests fail: a skip would hide that nothing was tested."""
    python = Path(os.environ.get("ENGINE_PYTHON") or REPOSITORY / ".venv-engine" / "bin" / "python")
    if not python.exists():
        pytest.fail(f"no engine's Python at {python}: run `make setup` or set ENGINE_PYTHON")
    return python


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, engine_python: Path) -> Path:
    """Return a cache directory with the converted model; the tests that damage it have it repaired."""
    cache = tmp_path_factory.mktemp("cache")
    started = time.monotonic()
    assert asyncio.run(ensure(cache, engine_python))
    assert time.monotonic() - started < CONVERSION_SECONDS
    return cache


@pytest.fixture(scope="module")
def folder(cache: Path) -> Path:
    """Return the converted model."""
    return bundled_path(MODEL, cache)


@pytest.fixture(scope="module")
def loaded(folder: Path, engine_python: Path) -> dict[str, Any]:
    """Return what Transformers makes of the folder."""
    texts = [
        *TOKEN_IDS,
        "  spaces, tabs\tand\r\nlines\n\n",
        "don't — naïve Ωμέγα привет 日本語 العربية",
        "👩‍👩‍👧🏽 🇫🇷 ✅",
        "def f(x):\n    return x ** 2",
    ]
    result = subprocess.run(
        [engine_python, "-I", "-c", ASK, folder, json.dumps(texts)], stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


async def ensure(cache: Path, engine_python: Path) -> list[ConvertProgress]:
    """Ensure the model and return the progress of the conversion: none where nothing had to be done."""
    seen: list[ConvertProgress] = []
    async with asyncio.timeout(2 * CONVERSION_SECONDS):
        path = await ensure_bundled(
            MODEL, cache_dir=cache, engine_python=engine_python, on_progress=seen.append
        )
    assert path == bundled_path(MODEL, cache)
    return seen


def names(folder: Path) -> set[str]:
    """Return what a folder holds."""
    return {entry.name for entry in folder.iterdir()}


def kill_midway(engine_python: Path, output: Path) -> int:
    """Start a conversion, kill it outright once it writes weights, and return its process id."""
    command: list[str | Path] = [
        engine_python,
        "-I",
        convert_gguf.__file__,
        "--model",
        NAME,
        "--output",
        output,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for event in map(json.loads, child.stdout):
            if event["event"] == "progress" and event["done"] > 0:
                break
        child.send_signal(signal.SIGKILL)
    return child.pid


class TestConversion:
    async def test_intact_is_used_at_once(self, cache: Path, engine_python: Path) -> None:
        await ensure(cache, engine_python)
        started = time.monotonic()
        assert await ensure(cache, engine_python) == []
        assert time.monotonic() - started < INTACT_SECONDS

    def test_files(self, folder: Path) -> None:
        assert names(folder) == {*convert_gguf.FILES, convert_gguf.MANIFEST}
        assert names(folder.parent) == {NAME, f".{NAME}.lock"}
        manifest = json.loads((folder / convert_gguf.MANIFEST).read_text())
        assert manifest["source_sha256"] == convert_gguf.SOURCES[NAME].sha256
        assert (folder / convert_gguf.WEIGHTS).stat().st_size > 269_000_000
        assert "Apache License" in (folder / "LICENSE").read_text()
        notice = (folder / "NOTICE").read_text()
        assert "HuggingFaceTB/SmolLM2-135M-Instruct" in notice
        assert convert_gguf.SOURCES[NAME].sha256 in notice

    def test_config(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert config["max_position_embeddings"] == 8192
        assert config["rms_norm_eps"] == 1e-05
        assert config["rope_theta"] == 100000
        assert config["tie_word_embeddings"] is True
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)

    async def test_flipped_bit_is_found_and_repaired(
        self, cache: Path, folder: Path, engine_python: Path
    ) -> None:
        with (folder / convert_gguf.WEIGHTS).open("r+b") as file:
            file.seek(100_000_000)
            byte = file.read(1)[0]
            file.seek(100_000_000)
            file.write(bytes([byte ^ 1]))
        assert not is_intact(folder)
        progress = await ensure(cache, engine_python)
        assert is_intact(folder)
        assert progress[0].done == 0
        assert progress[-1].done == progress[-1].total > 269_000_000
        assert [step.done for step in progress] == sorted(step.done for step in progress)

    async def test_killed_midway_is_redone(self, tmp_path: Path, engine_python: Path) -> None:
        path = bundled_path(MODEL, tmp_path)
        pid = kill_midway(engine_python, path)
        assert names(path.parent) == {f".{NAME}.lock", f".{NAME}.tmp-{pid}"}
        assert await ensure(tmp_path, engine_python)
        assert is_intact(path)
        assert names(path.parent) == {f".{NAME}.lock", NAME}

    async def test_cancelled_midway_is_redone(self, tmp_path: Path, engine_python: Path) -> None:
        path = bundled_path(MODEL, tmp_path)
        writing = asyncio.Event()
        task = asyncio.create_task(
            ensure_bundled(
                MODEL,
                cache_dir=tmp_path,
                engine_python=engine_python,
                on_progress=lambda step: writing.set() if step.done > 0 else None,
            )
        )
        async with asyncio.timeout(CONVERSION_SECONDS):
            await writing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not path.exists()
        assert await ensure(tmp_path, engine_python)
        assert names(path.parent) == {f".{NAME}.lock", NAME}

    async def test_two_at_once_convert_once(self, tmp_path: Path, engine_python: Path) -> None:
        progress = await asyncio.gather(ensure(tmp_path, engine_python), ensure(tmp_path, engine_python))
        assert is_intact(bundled_path(MODEL, tmp_path))
        assert sorted(map(bool, progress)) == [False, True]


class TestTransformers:
    def test_token_ids(self, loaded: dict[str, Any]) -> None:
        assert {text: loaded["ids"][text] for text in TOKEN_IDS} == TOKEN_IDS

    def test_round_trip(self, loaded: dict[str, Any]) -> None:
        assert loaded["back"] == {text: text for text in loaded["back"]}

    def test_special_tokens(self, loaded: dict[str, Any]) -> None:
        assert loaded["named"] == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
        assert len(loaded["specials"]) == 17
        assert sorted(loaded["specials"].values()) == [[number] for number in range(17)]
        assert loaded["plain"] == "ab"

    def test_chat_template(self, loaded: dict[str, Any]) -> None:
        assert loaded["prompt"] == (
            "<|im_start|>system\n"
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert loaded["own_system"] == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        )

    def test_answers(self, loaded: dict[str, Any]) -> None:
        """Greedy and so repeatable; with the rows of query and key in the wrong order it is gibberish."""
        assert loaded["dtype"] == "torch.bfloat16"
        assert loaded["rope"]["rope_theta"] == 100000
        assert loaded["eos"] == 2
        assert loaded["answer"] == "The capital of France is Paris."
