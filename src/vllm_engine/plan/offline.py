"""Whether vLLM can start with HF_HUB_OFFLINE=1: only if everything it loads is on this machine."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

from vllm_engine.config.settings import Settings
from vllm_engine.models.bundled import is_bundled
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import flag_value
from vllm_engine.plan.model_files import ModelFiles, loads_files
from vllm_engine.plan.preflight import Preflight

logger = logging.getLogger("gateway")

_NEEDS_HUB = frozenset(
    {
        *("enable-lora", "lora-modules", "default-mm-loras"),  # adapters, some of them loaded while it serves
        *("code-revision", "tokenizer-revision"),  # files of another commit
        "download-dir",  # configuration and tokenizer are looked for in the hub client's usual cache
    }
)
_REPOSITORIES = ("tokenizer", "hf-config-path", "generation-config", "spec-model")
_WITHOUT_REPOSITORY = ("auto", "vllm")
"""What `--generation-config` takes beside a folder."""

_WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def may_start_offline(preflight: Preflight, model: Model, files: ModelFiles) -> bool:
    """Whether to start vLLM with HF_HUB_OFFLINE=1; logs the reason if not.

    Local and bundled models do not need it, and a value that the user has set is left as it is.
    """
    if not _may_be_chosen(preflight):
        return False
    need = network_need(preflight, model, files)
    logger.info("vLLM starts %s", "offline: the model is complete" if need is None else f"online: {need}")
    return need is None


def will_likely_start_offline(preflight: Preflight) -> bool:
    """Whether that is to be expected once the model is here."""
    return _may_be_chosen(preflight) and not _needed_by_settings(preflight)


def _may_be_chosen(preflight: Preflight) -> bool:
    settings = preflight.settings
    is_of_hub = not settings.is_local_model and not is_bundled(settings.model_id)
    return is_of_hub and not preflight.environment.merged.get("HF_HUB_OFFLINE")


def _needed_by_settings(preflight: Preflight) -> str | None:
    if given := _flags(preflight).intersection(_NEEDS_HUB):
        return f"{_variable(min(given))} is set"
    if preflight.environment.merged.get("VLLM_USE_MODELSCOPE", "0") not in ("", "0", "False", "false"):
        return "VLLM_USE_MODELSCOPE is set"
    return None


def _flags(preflight: Preflight) -> set[str]:
    return {name.partition(".")[0].replace("_", "-") for name in preflight.mentioned_flags}


def network_need(preflight: Preflight, model: Model, files: ModelFiles) -> str | None:
    """Return why vLLM needs access to the hub to start a model from there; None if it does not.

    `files` is what of the model is on this machine.
    """
    settings, flags = preflight.settings, _flags(preflight)
    if need := _needed_by_settings(preflight):
        return need
    if not _is_whole(preflight, files):
        return f"not all files of {settings.model_id} are known to be in the cache"
    for name in _REPOSITORIES:
        if _is_elsewhere(flag_value(preflight.flags, name), settings):
            return f"{_variable(name)} names another repository"
    if _is_draft_elsewhere(flags, preflight):
        return "SPECULATIVE_CONFIG names another repository"
    if "speculators_config" in model.config:
        return "the model is a speculator for another one"
    if "trust-remote-code" in flags and model.folder is not None and _has_foreign_code(model.folder):
        return "its remote code is in another repository"
    return None


def _is_whole(preflight: Preflight, files: ModelFiles) -> bool:
    if files.folder is None or files.wanted is None:
        return False
    folder, wanted = files.folder, files.wanted
    return not wanted.lacking and loads_files(preflight) and all(file.is_in(folder) for file in wanted.files)


def _is_elsewhere(value: str | None, settings: Settings) -> bool:
    if not value or value in _WITHOUT_REPOSITORY or value == settings.model_id:
        return False
    return not Path(value).expanduser().exists()


def _is_draft_elsewhere(flags: set[str], preflight: Preflight) -> bool:
    if "speculative-config" not in flags and "-sc" not in preflight.flags:
        return False
    try:
        config = json.loads(flag_value(preflight.flags, "speculative-config") or "")
    except ValueError:
        return True
    return not isinstance(config, dict) or _is_elsewhere(config.get("model"), preflight.settings)


def _has_foreign_code(folder: Path) -> bool:
    """Whether a class is in another repository, which transformers writes `owner/name--module.Class`."""
    for name in _WITH_CODE:
        with suppress(OSError, ValueError, AttributeError):
            if "--" in str(json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map")):
                return True
    return False


def _variable(flag: str) -> str:
    return flag.replace("-", "_").upper()
