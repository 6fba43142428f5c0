"""Whether vLLM's parser would take one value of a flag.

The rules are those of `vllm/engine/arg_utils.py` and `vllm/utils/argparse_utils.py`, 0.32 and 0.33. What
is inside a JSON object beyond its own keys is left to vLLM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_engine.config.flags.flag import Flag
from vllm_engine.config.spelling import did_you_mean

_MULTIPLIERS = {
    **{"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12},
    **{"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40},
}
_HUMAN_INT = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_HUMAN_INT_WORD = re.compile(rf"\b{_HUMAN_INT.pattern}\b")
_JSON_STRING = re.compile(r'("(?:[^"\\]|\\.)*")')
_IN_BRACES = re.compile(r"(?s)^\s*{.*}\s*$")
_LORA_REQUIRED = {"name", "path"}
_UNREADABLE = (ValueError, OverflowError, RecursionError)


@dataclass
class Refusal(ValueError):
    """Why a value or a flag is not taken, and what to do.

    `listed` is whether a list in the catalogue decided, which another version of vLLM may have extended.
    """

    reason: str
    remedy: str = ""
    listed: bool = False

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.reason, self.remedy)))


def refusal(flag: Flag, text: str) -> Refusal | None:
    """Return why vLLM's parser would refuse this one value of the flag, or None if it would take it."""
    if flag.optional and text in ("", "None"):
        return None
    if flag.name == "config" and text.rpartition(".")[2] not in ("yaml", "yml"):
        return Refusal("expected a file whose name ends in .yaml or .yml")
    try:
        value = _TYPES[flag.type][0](text)
    except _UNREADABLE:
        return Refusal(f"expected {wanted(flag)}")
    if flag.keys is not None and isinstance(value, dict):
        return _unknown_key(flag.keys, value)
    if flag.choices is not None:
        return _not_a_choice(flag, value)
    if isinstance(value, int | float) and not _is_within(flag, value):
        return Refusal(f"expected {wanted(flag)}", listed=True)
    return None


def wanted(flag: Flag) -> str:
    """Return what the flag's value must be, in words."""
    if flag.choices is not None:
        return "one of " + ", ".join([*flag.choices, *flag.platform_choices])
    words, such_as, examples = _TYPES[flag.type][1].partition(" such as ")
    bounds = _bounds(flag)
    return f"{words}{bounds}{',' if bounds and such_as else ''}{such_as}{examples}"


def _is_within(flag: Flag, value: float) -> bool:
    """Whether a number is within its bounds; NaN never is."""
    return (
        (flag.ge is None or value >= flag.ge)
        and (flag.gt is None or value > flag.gt)
        and (flag.le is None or value <= flag.le)
        and (flag.lt is None or value < flag.lt)
    )


def _bounds(flag: Flag) -> str:
    words = {"from": flag.ge, "above": flag.gt, "up to": flag.le, "below": flag.lt}
    told = " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)
    return f" {told}" if told else ""


def nested_value(text: str) -> object:
    """Read the value of a dotted key as vLLM does: JSON, else a number such as 80g, else text."""
    for read in (json.loads, human_int):
        try:
            value: object = read(text)
        except _UNREADABLE:
            continue
        return value
    return text


def human_int(text: str) -> int:
    """Read `8192`, `8k` (8000) or `8K` (8192). Raises ValueError, also on a fraction of a binary unit."""
    match = _HUMAN_INT.fullmatch(text.strip())
    if match is None:
        return int(text)
    number, unit = match.groups()
    return int(number) * _MULTIPLIERS[unit] if unit.isupper() else int(float(number) * _MULTIPLIERS[unit])


def _human_int_or_auto(text: str) -> int:
    return -1 if text.strip().lower() in ("-1", "auto") else human_int(text)


def _json_object(text: str) -> object:
    parts = _JSON_STRING.split(text)
    parts[::2] = [_HUMAN_INT_WORD.sub(lambda found: str(human_int(found[0])), part) for part in parts[::2]]
    value: object = json.loads("".join(parts))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _json_or_str(text: str) -> object:
    value: object = json.loads(text) if _IN_BRACES.match(text) else text
    return value


def _lora(text: str) -> object:
    # vLLM looks for name=path before it looks for JSON, and skips an empty item.
    if not text or ("=" in text and "," not in text):
        return text
    value: object = json.loads(text)
    if not isinstance(value, dict) or not value.keys() >= _LORA_REQUIRED:
        raise ValueError("not a LoRA module")
    return value


def _unknown_key(keys: tuple[str, ...], value: Mapping[object, object]) -> Refusal | None:
    unknown = [str(key) for key in value if key not in keys]
    if not unknown:
        return None
    remedy = did_you_mean(unknown[0], keys) or "its keys are " + ", ".join(keys)
    return Refusal(f"unknown key {unknown[0]!r} in this JSON object", remedy, listed=True)


def _not_a_choice(flag: Flag, value: object) -> Refusal | None:
    text = str(value).lower().replace("-", "_") if flag.fold_choices else str(value)
    choices = (*(flag.choices or ()), *flag.platform_choices)
    if text in choices:
        return None
    return Refusal(f"expected {wanted(flag)}", did_you_mean(text, choices), listed=True)


_TYPES: Mapping[str, tuple[Callable[[str], object], str]] = {
    "str": (str, "text"),
    "ids": (str, "device ids or UUIDs separated by commas"),
    "int": (int, "an integer"),
    "float": (float, "a number"),
    "human_int": (human_int, "an integer such as 8192, 8k or 8K"),
    "human_int_or_auto": (_human_int_or_auto, "an integer such as 8192, 8k or 8K, or auto"),
    "json": (json.loads, "JSON"),
    "json_object": (_json_object, "a JSON object"),
    "json_or_str": (_json_or_str, "text or a JSON object"),
    "lora": (_lora, "name=path, or a JSON object with name and path"),
}
"""How a value of each type is read, and what it is in words."""
