"""The flags of one version of vLLM, and the two ways in which a user gives them."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Self

from vllm_engine.config.flags.command_line import NEGATIVE_NUMBER, CommandLine
from vllm_engine.config.flags.flag import (
    ENV_NAMES_NOT_TAKEN,
    SECRET_FLAGS,
    Flag,
    FlagError,
    bare_name,
    env_name,
)
from vllm_engine.config.flags.flag_values import refusal, wanted

_ON = frozenset({"1", "true"})
_OFF = frozenset({"0", "false"})
_MINOR_VERSION = re.compile(r"(\d+)\.(\d+)")
_HIDDEN = "***"
# Names of every machine that are one letter from a flag of vLLM.
_ORDINARY_NEAR_MISSES = frozenset({"SSL_CERT_FILE"})
_LEAST_NEAR_MISS = 9


@dataclass(frozen=True)
class FlagCatalogue:
    """Every flag of `vllm serve` of one version."""

    version: str
    """The version of vLLM whose parser was written down, such as `0.32.0`."""
    exact: bool
    """Whether that is the version asked for; if not, what only the catalogue says is a warning."""
    flags: tuple[Flag, ...]

    @classmethod
    def load(cls, version: str) -> Self:
        """Return the flags of this version of vLLM, or else of the nearest version that is known.

        A patch release counts as its minor version. What is no version at all gets the newest catalogue.
        """
        known = dict(_known_versions())
        asked = _minor(version)
        nearest = max(known) if asked is None else min(known, key=lambda minor: _distance(minor, asked))
        found = json.loads((files(__package__) / known[nearest]).read_text(encoding="utf-8"))
        flags = tuple(Flag.from_json(entry) for entry in found["flags"])
        return cls(version=found["vllm"], exact=nearest == asked, flags=flags)

    def by_env_name(self) -> Mapping[str, Flag]:
        """Return the flag that each upper-case name sets; negative names and other long aliases included.

        The names in `ENV_NAMES_NOT_TAKEN` are not among them.
        """
        return self._by_env_name

    def from_environment(
        self, env: Mapping[str, str], *, reserved: Mapping[str, str]
    ) -> tuple[list[str], list[FlagError]]:
        """Return the arguments that upper-case names in an environment stand for, and all that is wrong.

        `reserved` maps the flags that settings of ours own to those settings' names; they are left out.
        An empty value counts as not set. Switches take 1/0/true/false; a list takes words split as a shell
        would, or a JSON array. What has an error yields no arguments.
        """
        owned = {bare_name(name) for name in reserved}
        argv: list[str] = []
        errors: list[FlagError] = []
        given: dict[str, str] = {}
        for key, flag in self._by_env_name.items():
            value = env.get(key, "")
            if not value or flag.name in owned:
                continue
            other = given.setdefault(flag.name, key)
            if other != key:
                wanted_one = f"one of {other} and {key}, not both"
                errors.append(FlagError(key, _shown(flag, value), wanted_one, f"both set --{flag.name}"))
                continue
            try:
                argv += self._arguments(flag, key, value, errors)
            except FlagError as error:
                errors.append(error)
        return argv, errors

    def check_extra_args(
        self, raw: str, *, key: str = "VLLM_EXTRA_ARGS", reserved: Mapping[str, str]
    ) -> tuple[list[str], list[FlagError]]:
        """Return the words of a raw command line as vLLM is to get them, and all that is wrong with them.

        `key` is the setting to name in the errors. A flag in `reserved` is an error that names the setting
        to use instead. Words are split as a shell would, without expansion and comments.
        """
        try:
            words = shlex.split(raw)
        except ValueError as error:
            secret = any(name in raw.replace("_", "-") for name in SECRET_FLAGS)
            problem = str(error).lower()
            return [], [FlagError(key, _HIDDEN if secret else raw, "words quoted as for a shell", problem)]
        owned = {bare_name(name): setting for name, setting in reserved.items()}
        line = CommandLine(key, self.version, self.exact, self._by_option, owned)
        line.check(words)
        return words, line.errors

    def near_misses(self, env: Mapping[str, str], *, known: Collection[str]) -> list[FlagError]:
        """Return a warning for each variable whose name is almost a flag's, such as `MAX_MODEL_LENGTH`.

        `known` are names that mean something of their own: settings of ours, for example.
        """
        taken = self._by_env_name
        candidates = [name for name in taken if len(name) >= _LEAST_NEAR_MISS]
        passed_over = {*known, *taken, *ENV_NAMES_NOT_TAKEN, *_ORDINARY_NEAR_MISSES}
        warnings: list[FlagError] = []
        for key in sorted(set(env) - passed_over):
            # Short names are near to each other by chance; vLLM looks after its own variables.
            if len(key) < _LEAST_NEAR_MISS or key.startswith("VLLM_"):
                continue
            names = difflib.get_close_matches(key, candidates, n=1, cutoff=0.88)
            warnings.extend(_warning(key, env[key], taken[name], name) for name in names)
        return warnings

    @cached_property
    def _by_env_name(self) -> Mapping[str, Flag]:
        found: dict[str, Flag] = {}
        for flag in self.flags:
            options = [f"--{flag.name}", *(alias for alias in flag.aliases if alias.startswith("--"))]
            for name in map(env_name, options):
                if name not in ENV_NAMES_NOT_TAKEN:
                    found[name] = flag
        return found

    @cached_property
    def _by_option(self) -> Mapping[str, Flag]:
        return {alias: flag for flag in self.flags for alias in flag.aliases}

    def _arguments(self, flag: Flag, key: str, value: str, errors: list[FlagError]) -> list[str]:
        """Return the arguments for one variable. Raises FlagError; a mere warning goes into `errors`."""
        if flag.kind in ("bool", "switch"):
            negative = key in map(env_name, flag.negatives)
            return flag.switched(_is_on(key, value) is not negative)
        items = _items(key, value) if flag.kind == "list" else [value]
        for item in items:
            found = refusal(flag, item)
            if found is None:
                continue
            shown = _shown(flag, value)
            each = f"words, each of them {found.wanted}" if flag.kind == "list" else found.wanted
            if self.exact or not found.listed:
                raise FlagError(key, shown, each, found.remedy)
            errors.append(FlagError(key, shown, each, found.remedy, severity="warning"))
        return _spelled(flag, key, items)


def mask(argv: Sequence[str]) -> list[str]:
    """Return a command line to be shown: the values of `SECRET_FLAGS` become `***`."""
    shown: list[str] = []
    secret = False
    for word in argv:
        option, joined, _ = word.partition("=")
        # To argparse, neither a number nor a word with a space in it is a flag.
        if word in ("-", "--") or word[:1] != "-" or " " in option or NEGATIVE_NUMBER.fullmatch(word):
            shown.append(_HIDDEN if secret else word)
            continue
        name = bare_name(option) if option.startswith("--") else ""
        # argparse takes any unambiguous beginning of a flag; hiding too much does no harm.
        secret = bool(name) and any(flag.startswith(name) for flag in SECRET_FLAGS)
        shown.append(f"{option}={_HIDDEN}" if secret and joined else word)
    return shown


def _is_on(key: str, value: str) -> bool:
    text = value.strip().lower()
    if text not in _ON | _OFF:
        raise FlagError(key, value, "1/0/true/false")
    return text in _ON


def _items(key: str, value: str) -> list[str]:
    """Split a list: a JSON array gives its items, a JSON object is one item, all else is split into words."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return [value]
    if isinstance(found, list):
        return [item if isinstance(item, str) else json.dumps(item) for item in found]
    try:
        return shlex.split(value)
    except ValueError as error:
        words = "words quoted as for a shell, or a JSON array"
        raise FlagError(key, value, words, str(error).lower()) from None


def _spelled(flag: Flag, key: str, items: list[str]) -> list[str]:
    option = f"--{flag.name}"
    if flag.repeat:
        return [word for item in items for word in _pair(option, item)]
    if not items:
        raise FlagError(key, "", f"one or more words, each of them {wanted(flag)}")
    if len(items) == 1:
        return _pair(option, items[0])
    if any(item.startswith("-") for item in items):
        dashless = "values that do not start with a dash"
        raise FlagError(key, shlex.join(items), dashless, "vLLM takes them for flags")
    return [option, *items]


def _pair(option: str, value: str) -> list[str]:
    # vLLM would take a separate word that starts with a dash for a flag, or for a dotted key.
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _shown(flag: Flag, value: str) -> str:
    return _HIDDEN if flag.name in SECRET_FLAGS else value


def _warning(key: str, value: str, flag: Flag, name: str) -> FlagError:
    remedy = f"did you mean {name}?"
    return FlagError(key, _shown(flag, value), "the name of a vLLM flag", remedy, severity="warning")


def _known_versions() -> Iterator[tuple[tuple[int, int], str]]:
    for entry in files(__package__).iterdir():
        minor = _minor(entry.name)
        if minor is not None and entry.name.endswith(".json"):
            yield minor, entry.name


def _minor(version: str) -> tuple[int, int] | None:
    match = _MINOR_VERSION.match(version)
    return None if match is None else (int(match[1]), int(match[2]))


def _distance(known: tuple[int, int], asked: tuple[int, int]) -> tuple[int, bool]:
    # A major version is further away than any minor one. Of two as near, the newer is taken.
    return abs((known[0] - asked[0]) * 1000 + known[1] - asked[1]), known < asked
