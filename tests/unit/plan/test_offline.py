"""When vLLM may start offline: only where all that it loads is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import ModelError
from vllm_engine.models.engine_scripts.hub_files import HubFile, Listing
from vllm_engine.models.hub_download import Listener
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.model_files import ModelFiles, files_of, obtain_model
from vllm_engine.plan.offline import may_start_offline, network_need
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import Device

INSTALLATION = Installation(Path("python"), "3.12", "vllm", "0.32.0", "cpu", None)


def flags(*words: str, **environ: str) -> Preflight:
    environment = Environment({"MODEL_ID": "org/model", **environ}, {})
    device = Device("cpu", "a CPU", supports_bfloat16=True)
    return Preflight(load_settings(environment), environment, INSTALLATION, device, words)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model of the hub's whose files are all here."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    files = (HubFile("config.json", 2, "c"), HubFile("model.safetensors", 2, "m"), HubFile("x.onnx", 9, "x"))
    return Model("org/model", "commit", {}, tmp_path, Listing(files))


def need(model: Model, *words: str, **environ: str) -> str | None:
    preflight = flags(*words, **environ)
    files = ModelFiles(model.folder, files_of(model, preflight))
    return network_need(preflight, model, files)


def test_a_complete_model_needs_no_network(model: Model, tmp_path: Path) -> None:
    assert need(model) is None
    assert need(model, "--tokenizer", str(tmp_path), "--speculative-config", '{"method": "ngram"}') is None
    assert need(model, "--generation-config=vllm", "--trust-remote-code", "--load-format=auto") is None


NOT_KNOWN = "not all files of org/model are known to be in the cache"
NEEDS_HUB = (
    ("--tokenizer org/other", "TOKENIZER names another repository"),
    ('--speculative-config {"model":"org/draft"}', "SPECULATIVE_CONFIG names another repository"),
    ("--speculative-config.model org/draft", "SPECULATIVE_CONFIG names another repository"),
    ("--enable-lora", "ENABLE_LORA is set"),
    ("--lora_modules a=org/adapter", "LORA_MODULES is set"),
    ("--code-revision x", "CODE_REVISION is set"),
    ("--download-dir /x", "DOWNLOAD_DIR is set"),
    ("--load-format dummy", NOT_KNOWN),
    ("--ignore-patterns *.x", NOT_KNOWN),
)


def test_flags_that_need_the_hub(model: Model) -> None:
    for words, reason in NEEDS_HUB:
        assert need(model, *words.split()) == reason


def test_a_model_that_needs_the_hub(model: Model, tmp_path: Path) -> None:
    assert need(model, VLLM_USE_MODELSCOPE="1") == "VLLM_USE_MODELSCOPE is set"
    speculator = Model("org/model", "c", {"speculators_config": {}}, tmp_path, model.listing)
    assert need(speculator) == "the model is a speculator for another one"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "org/o--a.B"}}))
    assert need(model) is None
    assert need(model, "--trust-remote-code") == "its remote code is in another repository"
    (tmp_path / "model.safetensors").write_text("")
    assert need(model) == NOT_KNOWN


def refuse(*_: Any) -> None:
    raise AssertionError


LISTENER = Listener(refuse, refuse)


async def test_what_the_hub_did_not_list(model: Model, tmp_path: Path) -> None:
    """Without a list from the hub the folder itself tells; with an index, whether all of it is there.

    With HF_HUB_OFFLINE=1 what is missing is told at once, and not by vLLM after its imports.
    """
    unlisted = Model("org/model", "commit", {}, tmp_path)
    assert need(unlisted) is None
    assert (await obtain_model(flags(HF_HUB_OFFLINE="1"), unlisted, LISTENER)).folder == tmp_path
    index = {"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert need(unlisted) == need(Model("org/model")) == NOT_KNOWN
    for missing, variable in (
        ("other.safetensors", "HF_HUB_OFFLINE"),
        ("its weights", "TRANSFORMERS_OFFLINE"),
    ):
        with pytest.raises(ModelError) as caught:
            await obtain_model(flags(**{variable: "1"}), unlisted, LISTENER)
        told = caught.value.diagnosis
        assert (told.code, told.evidence) == ("not-cached-and-offline", f"not in the cache: {missing}")
        dummy = flags("--load-format=dummy", **{variable: "1"})
        assert await obtain_model(dummy, unlisted, LISTENER) == ModelFiles()
        (tmp_path / "model.safetensors").unlink(missing_ok=True)


def test_not_ours_to_decide(model: Model) -> None:
    for environ in ({"MODEL_ID": "/models/x"}, {"HF_HUB_OFFLINE": "0"}):
        assert not may_start_offline(flags(**environ), model, ModelFiles())


async def test_only_what_vllm_loads_is_fetched(model: Model, tmp_path: Path) -> None:
    """With `--load-format dummy` it loads no weights: they are not fetched before a start."""
    (tmp_path / "model.safetensors").unlink()
    assert await obtain_model(flags("--load-format=dummy"), model, LISTENER) == ModelFiles()
