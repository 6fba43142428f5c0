"""The bundled model for real: the engine's Python, the real weights, the libraries that vLLM uses."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.models.bundled import describe_bundled, ensure_bundled
from vllm_engine.models.engine_script import EnginePython
from vllm_engine.models.engine_scripts.bundled_files import FILES, MANIFEST, SOURCES, WEIGHTS, is_intact
from vllm_engine.models.engine_scripts.chat_format import read_chat_format

pytestmark = pytest.mark.e2e

NAME = "smollm2-135m-instruct"
MODEL = f"bundled:{NAME}"

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
generated = model.generate(**prompt, max_new_tokens=32, do_sample=False, repetition_penalty=1.0)[0][prompt["input_ids"].shape[1]:]
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
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def folder(cache: Path, engine_python: Path) -> Path:
    """The converted model: two conversions were begun, one was stopped midway."""
    seen: list[tuple[int, ...]] = []

    async def convert() -> Path:
        engine = EnginePython(engine_python, {})
        midway = asyncio.Event()
        stopped = asyncio.create_task(
            ensure_bundled(MODEL, cache_dir=cache, engine=engine,
                           on_progress=lambda done, _: midway.set() if done else None)
        )  # fmt: skip
        await midway.wait()
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        assert not (cache / "bundled" / NAME).exists()
        two = [
            ensure_bundled(MODEL, cache_dir=cache, engine=engine, on_progress=lambda *step: seen.append(step))
            for _ in range(2)
        ]
        first, second = await asyncio.gather(*two)
        assert first == second == cache / "bundled" / NAME
        return first

    folder = asyncio.run(convert())
    done = [step[0] for step in seen]
    assert (done, done[-1]) == (sorted(set(done)), seen[-1][1]), "one of the two did it, byte by byte"
    return folder


def test_folder(folder: Path, engine_python: Path) -> None:
    assert is_intact(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, MANIFEST}
    assert {path.name for path in folder.parent.iterdir()} == {NAME, f".{NAME}.lock"}
    assert json.loads((folder / MANIFEST).read_text())["source_sha256"] == SOURCES[NAME].sha256
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert SOURCES[NAME].sha256 in (folder / "NOTICE").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    exact = {"rms_norm_eps": 1e-05, "rope_theta": 100000, "max_position_embeddings": 8192}
    assert config | exact == config
    told, size, template = asyncio.run(describe_bundled(MODEL, EnginePython(engine_python, {})))
    assert template == read_chat_format(folder).template.strip()
    header = int.from_bytes((folder / WEIGHTS).read_bytes()[:8], "little") + 8
    assert (told, size + header) == (config, (folder / WEIGHTS).stat().st_size)
    sampling = json.loads((folder / "generation_config.json").read_text())
    assert sampling | SOURCES[NAME].generation == sampling


def test_older_folder(folder: Path, engine_python: Path, tmp_path: Path) -> None:
    """What the first version wrote gets the new files beside its weights, which are not converted again."""
    older = tmp_path / "bundled" / NAME
    shutil.copytree(folder, older, copy_function=os.link)
    manifest = json.loads((older / MANIFEST).read_text())
    (older / MANIFEST).unlink()
    del manifest["weights_version"]
    (older / MANIFEST).write_text(json.dumps(manifest | {"converter_version": 1}))
    (older / "generation_config.json").unlink()
    (older / "generation_config.json").write_text("{}")
    weights = (older / WEIGHTS).stat().st_ino
    assert not is_intact(older)
    engine = EnginePython(engine_python, {})
    asyncio.run(ensure_bundled(MODEL, cache_dir=tmp_path, engine=engine, on_progress=lambda *_: None))
    assert (is_intact(older), (older / WEIGHTS).stat().st_ino) == (True, weights)


@pytest.fixture(scope="module")
def loaded(folder: Path, engine_python: Path) -> dict[str, Any]:
    """What Transformers makes of the folder."""
    texts = [*TOKEN_IDS, "  spaces, tabs\tand\r\nlines\n\n", "don't — Ωμέγα привет العربية", "👩‍👩‍👧🏽 🇫🇷 ✅"]
    result = subprocess.run(
        [engine_python, "-I", "-c", ASK, folder, json.dumps(texts)], stdout=subprocess.PIPE, check=True
    )
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_tokenizer(loaded: dict[str, Any]) -> None:
    assert {text: loaded["ids"][text] for text in TOKEN_IDS} == TOKEN_IDS
    assert loaded["back"] == {text: text for text in loaded["back"]}
    assert loaded["named"] == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    assert sorted(loaded["specials"].values()) == [[number] for number in range(17)]
    assert loaded["plain"] == "ab"


def test_chat_template(loaded: dict[str, Any]) -> None:
    system = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    name = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert loaded["prompt"] == system.format(name) + "<|im_start|>assistant\n"
    assert loaded["own_system"] == system.format("Be brief.")


def test_answers(loaded: dict[str, Any]) -> None:
    """Greedy and so repeatable; with the rows of query and key in the wrong order it is gibberish."""
    assert loaded["dtype"] == "torch.bfloat16"
    assert loaded["rope"]["rope_theta"] == 100000
    assert loaded["eos"] == 2
    assert loaded["answer"] == "The capital of France is Paris."
