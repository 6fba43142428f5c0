"""The file of `vllm serve --config FILE`: flags in YAML, which the command line wins over.

The rules are those of `FlexibleArgumentParser.load_config_file` (vllm/utils/argparse_utils.py, 0.32, 0.33).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.errors import OptionProblem, SettingsError

_OPTION = "--config"
_ENDINGS = (".yaml", ".yml")


def without_config(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the file that `--config FILE` names, and the other words of the command line.

    Raises:
        SettingsError: the file is missing or is no YAML mapping, or two are named.
    """
    if _OPTION not in words:
        return [], list(words)
    at = list(words).index(_OPTION)
    rest = [*words[:at], *words[at + 2 :]]
    if _OPTION in rest or at + 1 == len(words):
        raise _problem("expected one file after it, whose name ends in .yaml or .yml")
    return list(_words(_content(words[at + 1]))), rest


def _content(name: str) -> Mapping[object, object]:
    if not name.endswith(_ENDINGS):
        raise _problem(f"{name}: expected a file whose name ends in .yaml or .yml")
    try:
        content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise _problem(f"{name}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # What the parser says quotes the line, which may hold a key.
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise _problem(f"{name}: is not YAML{line}; expected lines such as max-model-len: 8192") from None
    if not isinstance(content, dict):
        raise _problem(f"{name}: expected a mapping, lines such as max-model-len: 8192")
    return content


def _words(content: Mapping[object, object]) -> Iterator[str]:
    negatives = {name for flag in FlagCatalogue.load("").flags for name in flag.negatives}
    for key, value in content.items():
        option = f"--{key}"
        if isinstance(value, bool):
            negative = f"--no-{key}".replace("_", "-")
            yield from [option] if value else [negative] if negative in negatives else []
        elif isinstance(value, list):
            yield from [option, *map(str, value)] if value else []
        else:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            # A word that starts with a dash would be taken for a flag.
            yield from [f"{option}={text}"] if text.startswith("-") else [option, text]


def _problem(message: str) -> SettingsError:
    return SettingsError([OptionProblem(_OPTION, "", message)])
