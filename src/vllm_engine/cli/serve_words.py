"""What may follow `vllm-engine serve`: a model, our settings as options, and the flags of `vllm serve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from vllm_engine.config.environment import Environment
from vllm_engine.config.flags import Flag, FlagCatalogue
from vllm_engine.config.flags.flag_parser import is_flag
from vllm_engine.config.flags.flag_values import human_int
from vllm_engine.config.settings import Settings, is_secret, is_switch, legal
from vllm_engine.config.spelling import closest
from vllm_engine.errors import OptionProblem, Problem, SettingsError
from vllm_engine.plan.engine_command import RESERVED_FLAGS

_OF_THE_IMAGE = frozenset({"ENABLE_SSHD", "PUBLIC_KEY", "SSH_PORT"})
_MEANT_OTHERWISE = frozenset({"uds", "enable-ssl-refresh"})
"""Flags that our settings replace, whose values mean something else than the settings' do."""

_SETTINGS: Mapping[str, str] = {name.replace("_", "-"): name.upper() for name in Settings.model_fields}
_LISTS = frozenset({"SERVED_MODEL_NAME"})


@dataclass
class ServeWords:
    """The words in their meanings."""

    settings: dict[str, str] = field(default_factory=dict)
    """By variable."""
    flags: list[str] = field(default_factory=list)
    """For vLLM, as they are; they are checked with the rest."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """For the log: what was taken, and means less than its user may think."""


class FlagRule(Protocol):
    """What one of vLLM's flags means, where that is not what it means after `vllm-engine serve`."""

    def __call__(self, found: ServeWords, option: str, values: Sequence[str], is_on: bool, /) -> None:
        """Add to what was found; `is_on` is False for the form that turns a switch off."""


def understand(words: Sequence[str], rules: Mapping[str, FlagRule] = {}) -> ServeWords:
    """Sort the words; how many values a flag takes is what the newest vLLM that is known says.

    `rules` are by the flag's name without dashes.
    """
    return _Reader(words, rules).read()


def with_words(environment: Environment, words: Sequence[str]) -> Environment:
    """Return the environment with what was given on the command line, which wins.

    Raises:
        SettingsError: a word cannot be meant, or must not be there.
    """
    return with_found(environment, understand(words))


def with_found(environment: Environment, found: ServeWords) -> Environment:
    """Return the environment with words that have been sorted.

    Raises:
        SettingsError: a word cannot be meant, or must not be there.
    """
    if found.problems:
        raise SettingsError(found.problems)
    model, before = found.settings.get("MODEL_ID"), environment.merged.get("MODEL_ID")
    is_told = model and before and model != before and environment.source("MODEL_ID")
    notes = [f"MODEL_ID={before} is not used: the command line says {model}"] if is_told else []
    return replace(
        environment,
        options=found.settings,
        flags=tuple(found.flags),
        notes=(*environment.notes, *found.notes, *notes),
    )


class _Reader:
    """Goes through the words once."""

    def __init__(self, words: Sequence[str], rules: Mapping[str, FlagRule]) -> None:
        self._words = list(words)
        self._rules = rules
        self._found = ServeWords()
        flags = FlagCatalogue.load("").flags
        self._by_option = {alias: flag for flag in flags for alias in flag.aliases}

    def read(self) -> ServeWords:
        while self._words:
            word = self._words.pop(0)
            if is_flag(word):
                self._option(word)
            elif not word.strip():
                self._refuse("''", "expected a model, and got an empty word; is a variable unset?")
            elif "MODEL_ID" in self._found.settings:
                self._refuse(word, "one model is served, and it is named already")
            else:
                self._found.settings["MODEL_ID"] = word
        return self._found

    def _option(self, word: str) -> None:
        option, joined, value = word.partition("=")
        name = option.removeprefix("--").replace("_", "-") if option.startswith("--") else ""
        flag = self._by_option.get(f"--{name}" if name else option)
        if flag and (rule := self._rules.get(flag.name)):
            values = self._values(_takes(flag, option), joined, value)
            rule(self._found, option, values, f"--{name}" not in flag.negatives)
            return
        setting = self._setting(name, flag)
        if setting in _OF_THE_IMAGE:
            self._refuse(option, f"is read by the image's entry point; set {setting}")
        elif setting and is_secret(setting):
            self._values(1, joined, value)
            self._refuse(
                option, f"a command line can be read by every process of this machine; set {setting}"
            )
        elif setting and (name == f"no-{_name(setting)}" or is_switch(setting)):
            self._found.settings[setting] = value if joined else "0" if name.startswith("no-") else "1"
        elif setting:
            values = self._values(None if setting in _LISTS else 1, joined, value)
            if not "".join(values).strip():
                self._refuse(option, f"expected a value after it: {legal(setting)}")
            self._found.settings[setting] = _as_setting(setting, " ".join(values))
        elif near := self._near(name, flag):
            self._values(1, joined, value)
            self._refuse(option, f"is not an option of serve; did you mean {near}?")
        else:
            self._found.flags += [word, *self._values(_takes(flag, option), joined, value, is_word=True)]

    def _setting(self, name: str, flag: Flag | None) -> str | None:
        """Return the variable of ours that an option stands for."""
        if flag is not None and flag.name in RESERVED_FLAGS and flag.name not in _MEANT_OTHERWISE:
            setting = RESERVED_FLAGS[flag.name]
            return None if setting == "CORS_ORIGINS" else setting
        if name.startswith("no-") and is_switch(setting := _SETTINGS.get(name.removeprefix("no-"), "")):
            return setting
        return _SETTINGS.get(name)

    def _near(self, name: str, flag: Flag | None) -> str | None:
        """Return the option of ours that a misspelt one is nearest to; vLLM's are left to their own check."""
        if not name or flag is not None or "." in name:
            return None
        names = [f"--{each}" for each in _SETTINGS]
        theirs = [option for option in self._by_option if option.startswith("--")]
        if any(option.startswith(f"--{name}") for option in theirs):
            return None
        near = closest(f"--{name}", [*names, *theirs], similarity=0.7)
        return near if near in names else None

    def _values(self, count: int | None, joined: str, value: str, *, is_word: bool = False) -> list[str]:
        """Take the values that follow an option: so many, or all up to the next option."""
        if joined:
            return [] if is_word else [value]
        return list(self._following(count))

    def _following(self, count: int | None) -> Iterator[str]:
        while self._words and not is_flag(self._words[0]) and count != 0:
            count = None if count is None else count - 1
            yield self._words.pop(0)

    def _refuse(self, shown: str, message: str) -> None:
        self._found.problems.append(OptionProblem(shown, "", message))


def _takes(flag: Flag | None, option: str) -> int | None:
    """Return how many values follow; None for all up to the next option."""
    if flag is None and "." not in option and not option.startswith("--"):
        return 0  # a short one with its value, such as -O3
    if flag is None or flag.kind == "value" or flag.repeat:
        return 1
    return None if flag.kind == "list" else 0


def _name(setting: str) -> str:
    return setting.lower().replace("_", "-")


def _as_setting(setting: str, value: str) -> str:
    """Return a value as the setting has it: vLLM takes lengths such as 8k, too, and -1 for auto."""
    if setting == "MAX_MODEL_LEN":
        if value == "-1":
            return "auto"
        with suppress(ValueError):
            return str(human_int(value))
    return value
