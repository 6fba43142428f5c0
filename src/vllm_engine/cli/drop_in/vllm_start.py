"""What a start by vLLM's own command is here: its words as settings, and vLLM's defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vllm_engine.cli.command_group import command_meant
from vllm_engine.cli.drop_in.config_file import without_config
from vllm_engine.cli.drop_in.vllm_rules import RULES
from vllm_engine.cli.serve_words import ServeWords, understand, with_found
from vllm_engine.config.environment import Environment
from vllm_engine.config.flags.flag_parser import is_flag
from vllm_engine.errors import OptionProblem, SettingsError

DEFAULTS: Mapping[str, str] = {
    "MODEL_ID": "Qwen/Qwen3-0.6B",
    "DTYPE": "model",
    "MAX_MODEL_LEN": "auto",
    "GPU_MEMORY_UTILIZATION": "0.92",
    "REASONING_PARSER": "none",
    "HEALTH_ROUTE": "vllm",
    "METRICS_PUBLIC": "1",
}
"""vLLM's defaults where ours differ (vllm/config, 0.32 and 0.33), and what its users' probes expect.

`MAX_MODEL_LEN`: vLLM's is the model's maximum, and its start fails where memory does not allow that; `auto`
is as much of it as memory allows. `REASONING_PARSER`: clients find reasoning in the answer's text, as before.
"""

_LORA_SWITCH = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
_LORA_ROUTES = "POST /v1/load_lora_adapter, POST /v1/unload_lora_adapter"
_ON = ("1", "true")
"""As vLLM reads its switch (vllm/envs.py)."""

_READABLE = (
    "the API key is on the command line, where every process of this machine can read it; "
    "set VLLM_API_KEY or API_KEYS instead"
)


def drop_in(environment: Environment, words: Sequence[str]) -> Environment:
    """Return the environment of `vllm serve` and these words.

    Raises:
        SettingsError: a word cannot be meant, or the gateway cannot do what it asks for.
    """
    from_file, given = without_config(words)
    _check_model(given[:1])
    found, below = understand(given, RULES), understand(from_file, RULES)
    if found.settings.keys() & {"API_KEYS", "HF_TOKEN"}:
        found.notes.append(_READABLE)
    whole = ServeWords(
        settings=below.settings | found.settings,
        flags=below.flags + found.flags,
        problems=below.problems + found.problems,
        notes=below.notes + found.notes,
    )
    return with_found(replace(environment, defaults=_defaults(environment)), whole)


def _check_model(words: Sequence[str]) -> None:
    """Refuse a misspelt command: the image takes a first word that is no command as a model."""
    for word in words:
        is_model = "/" in word or is_flag(word) or Path(word).exists()
        if not is_model and (meant := command_meant(word)):
            why = "is neither a folder nor OWNER/NAME, as the hub's models are called"
            raise SettingsError([OptionProblem(word, "", f"{why}; did you mean `vllm-engine {meant}`?")])


def _defaults(environment: Environment) -> dict[str, str]:
    defaults = {**environment.defaults, **DEFAULTS}
    if environment.merged.get(_LORA_SWITCH, "").lower() in _ON:
        defaults["EXTRA_ROUTES"] = _LORA_ROUTES
    return defaults
