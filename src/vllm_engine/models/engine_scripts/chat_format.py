"""What the files of a model's tokenizer tell of its conversations. Run by both Pythons."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

TEKKEN = "tekken.json"
_TOKENIZER = "tokenizer_config.json"
_PLAIN = "chat_template.jinja"
_IN_JSON = "chat_template.json"
_FURTHER = "additional_chat_templates/"
"""Where Transformers keeps templates with names, such as `tool_use`."""


class ChatFormat(NamedTuple):
    """How a model's conversations are written.

    Attributes:
        template: all of its chat templates; empty without any.
        tokens: its added tokens; None where the files do not list them.
        is_tekken: whether Mistral's own tokenizer is among the files.
    """

    template: str = ""
    tokens: tuple[str, ...] | None = None
    is_tekken: bool = False


UNKNOWN = ChatFormat()


def format_files(names: Iterable[str]) -> list[str]:
    """Choose the files that `read_chat_format` reads."""
    return [name for name in names if name in (_TOKENIZER, _PLAIN, _IN_JSON) or _is_further(name)]


def read_chat_format(folder: Path, *, is_tekken: bool = False) -> ChatFormat:
    """Read what is there of a model's folder; what is damaged counts as missing, for vLLM will tell."""
    tokenizer = _json(folder / _TOKENIZER)
    # Transformers prefers them in this order.
    template = _text(folder / _PLAIN) or _joined(_json(folder / _IN_JSON).get("chat_template"))
    template = template or _joined(tokenizer.get("chat_template"))
    further = [_text(path) for path in sorted((folder / _FURTHER).glob("*.jinja"))]
    added = tokenizer.get("added_tokens_decoder")
    tokens = None
    if isinstance(added, dict):
        tokens = tuple(str(entry.get("content")) for entry in added.values() if isinstance(entry, dict))
    return ChatFormat("\n".join([template, *further]), tokens, is_tekken or (folder / TEKKEN).is_file())


def _is_further(name: str) -> bool:
    return name.startswith(_FURTHER) and name.endswith(".jinja")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _joined(template: object) -> str:
    """Return a template's text: one text, or a list of templates with names."""
    if isinstance(template, list):
        named = [each.get("template") for each in template if isinstance(each, dict)]
        return "\n".join(text for text in named if isinstance(text, str))
    return template if isinstance(template, str) else ""
