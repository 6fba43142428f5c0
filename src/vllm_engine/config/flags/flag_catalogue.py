"""The flags of one version of vLLM, and the two ways in which a user gives them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Self

from vllm_engine.config.flags.flag import (
    ENV_NAMES_NOT_TAKEN,
    ENV_NAMES_OF_OTHERS,
    SECRET_FLAGS,
    Flag,
    bare_name,
    env_name,
)
from vllm_engine.config.flags.flag_parser import FlagParser
from vllm_engine.config.flags.flag_values import Refusal, refusal, wanted
from vllm_engine.config.redaction import HIDDEN, without_passwords
from vllm_engine.config.spelling import closest
from vllm_engine.errors import OptionProblem, Problem

_ON = frozenset({"1", "true"})
_OFF = frozenset({"0", "false"})
_MINOR_VERSION = re.compile(r"(\d+)\.(\d+)")
# Names of every machine that are one letter from a flag of vLLM.
_ORDINARY_NEAR_MISSES = frozenset({"SSL_CERT_FILE"})
_LEAST_NEAR_MISS = 9


@dataclass
class CheckedFlags:
    """Arguments for `vllm serve`, and what is wrong with what was given.

    `variables` are the names by which some were given. `warnings` are about a vLLM whose flags are not known
    exactly; their arguments are kept.
    """

    argv: list[str] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class FlagCatalogue:
    """Every flag of `vllm serve` of one version of vLLM, as its parser has them."""

    version: str
    exact: bool
    """Whether that is the version asked for; if not, what only the catalogue says is a warning."""
    flags: tuple[Flag, ...]

    @classmethod
    def load(cls, version: str) -> Self:
        """Return the flags of this version of vLLM, or else of the nearest version that is known.

        A patch release counts as its minor version. Anything else than a version gets the newest catalogue.
        """
        known = dict(_known_versions())
        asked = _minor(version)
        nearest = max(known) if asked is None else min(known, key=lambda minor: _distance(minor, asked))
        found = json.loads((files(__package__) / known[nearest]).read_text(encoding="utf-8"))
        flags = tuple(Flag.from_json(entry) for entry in found["flags"])
        return cls(version=found["vllm"], exact=nearest == asked, flags=flags)

    @cached_property
    def by_env_name(self) -> Mapping[str, Flag]:
        """The flag that each upper-case name sets; negative names and other long aliases included.

        The names in `ENV_NAMES_NOT_TAKEN` are not among them.
        """
        found: dict[str, Flag] = {}
        for flag in self.flags:
            options = [f"--{flag.name}", *(alias for alias in flag.aliases if alias.startswith("--"))]
            for name in map(env_name, options):
                if name not in ENV_NAMES_NOT_TAKEN:
                    found[name] = flag
        return found

    def from_environment(self, env: Mapping[str, str], *, reserved: Mapping[str, str]) -> CheckedFlags:
        """Return the arguments that upper-case names in an environment stand for.

        `reserved` maps the flags that our settings replace to those settings; such flags are left out.
        An empty value counts as not set. Switches take 1/0/true/false; a list takes words split as a shell
        would, or a JSON array. What has a problem yields no arguments.
        """
        owned = {bare_name(name) for name in reserved}
        checked = CheckedFlags()
        given: dict[str, str] = {}
        for key, flag in self.by_env_name.items():
            value = env.get(key, "")
            if not value or flag.name in owned:
                continue
            checked.variables.append(key)
            other = given.setdefault(flag.name, key)
            try:
                if other != key:
                    raise Refusal(f"expected one of {other} and {key}, not both", f"both set --{flag.name}")
                checked.argv += self._arguments(flag, key, value, checked)
            except Refusal as error:
                checked.problems.append(Problem(key, _shown(flag, value), str(error)))
        return checked

    def check_extra_args(
        self, raw: str, *, key: str = "VLLM_EXTRA_ARGS", reserved: Mapping[str, str]
    ) -> CheckedFlags:
        """Return the words of a raw command line as vLLM is to get them, whatever is wrong with them.

        `key` is the setting to name in the problems. A flag in `reserved` is a problem that names the setting
        to use instead. Words are split as a shell would, without expansion and comments.
        """
        try:
            words = shlex.split(raw)
        except ValueError as error:
            secret = any(name in raw.replace("_", "-") for name in SECRET_FLAGS)
            why = Refusal("expected words quoted as for a shell", str(error).lower())
            return CheckedFlags(
                problems=[Problem(key, HIDDEN if secret else without_passwords(raw), str(why))]
            )
        checked = CheckedFlags(words)
        for shown, why, to in self._refused(words, checked, reserved):
            to.append(Problem(key, shown, str(why)))
        return checked

    def check_options(self, words: Sequence[str], *, reserved: Mapping[str, str]) -> CheckedFlags:
        """Return options of the command line in the same way; each problem names its words alone."""
        checked = CheckedFlags(list(words))
        for shown, why, to in self._refused(words, checked, reserved):
            to.append(OptionProblem(shown, "", str(why)))
        return checked

    def _refused(
        self, words: Sequence[str], checked: CheckedFlags, reserved: Mapping[str, str]
    ) -> Iterator[tuple[str, Refusal, list[Problem]]]:
        """Yield what is refused of a command line, and where that belongs."""
        owned = {bare_name(name): setting for name, setting in reserved.items()}
        for shown, why in FlagParser(self.version, self.flags, owned).check(words):
            yield shown, why, checked.warnings if why.listed and not self.exact else checked.problems

    def near_misses(self, env: Mapping[str, str], *, known: Collection[str]) -> list[Problem]:
        """Return a warning for each variable whose name is almost a flag's, such as `MAX_MODEL_LENGTH`.

        `known` are names with a meaning of their own, such as our settings.
        """
        taken = self.by_env_name
        candidates = [name for name in taken if len(name) >= _LEAST_NEAR_MISS]
        passed_over = {*known, *taken, *ENV_NAMES_NOT_TAKEN, *_ORDINARY_NEAR_MISSES}
        warnings: list[Problem] = []
        for key in sorted(set(env) - passed_over):
            # Short names are near to each other by chance; vLLM looks after its own variables.
            if len(key) < _LEAST_NEAR_MISS or key.startswith("VLLM_"):
                continue
            if near := closest(key, candidates, similarity=0.88):
                why = Refusal("is not the name of a vLLM flag", f"did you mean {near}?")
                warnings.append(Problem(key, _shown(taken[near], env[key]), str(why)))
        return warnings

    def not_taken(self, env: Mapping[str, str], *, known: Collection[str]) -> list[Problem]:
        """Return a warning for each variable such as `SEED=5` that may be meant for vLLM, and is not taken.

        Its value must be one that vLLM would take. `known` are the names that have been dealt with.
        """
        passed_over = {*known, *ENV_NAMES_OF_OTHERS}
        warnings = []
        for flag in self.flags:
            key, value = flag.env_name, env.get(flag.env_name, "")
            if key not in ENV_NAMES_NOT_TAKEN - passed_over or not value or refusal(flag, value):
                continue
            words = shlex.join([f"--{flag.name}", without_passwords(value)])
            why = Refusal(
                "is not read, as other programs set this name too",
                f'if it is meant for vLLM, set VLLM_EXTRA_ARGS="{words}" or run `vllm-engine serve {words}`',
            )
            warnings.append(Problem(key, _shown(flag, value), str(why)))
        return warnings

    def _arguments(self, flag: Flag, key: str, value: str, checked: CheckedFlags) -> list[str]:
        """Return the arguments for one variable; a mere warning goes into `checked`."""
        if flag.kind in ("bool", "switch"):
            negative = key in map(env_name, flag.negatives)
            return flag.switched(_is_on(value) is not negative)
        items = _items(value) if flag.kind == "list" else [value]
        for item in items:
            found = refusal(flag, item)
            if found is None:
                continue
            if flag.kind == "list":
                found.reason += " for each word"
            if self.exact or not found.listed:
                raise found
            checked.warnings.append(Problem(key, _shown(flag, value), str(found)))
        return _spelled(flag, items)


def _is_on(value: str) -> bool:
    text = value.strip().lower()
    if text not in _ON | _OFF:
        raise Refusal("expected 1/0/true/false")
    return text in _ON


def _items(value: str) -> list[str]:
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
        raise Refusal("expected words quoted as for a shell, or a JSON array", str(error).lower()) from None


def _spelled(flag: Flag, items: list[str]) -> list[str]:
    option = f"--{flag.name}"
    if flag.repeat:
        return [word for item in items for word in _pair(option, item)]
    if not items:
        raise Refusal(f"expected one or more words, each of them {wanted(flag)}")
    if len(items) == 1:
        return _pair(option, items[0])
    if any(item.startswith("-") for item in items):
        raise Refusal("expected values that do not start with a dash", "vLLM takes them for flags")
    return [option, *items]


def _pair(option: str, value: str) -> list[str]:
    # vLLM would take a separate word that starts with a dash for a flag, or for a dotted key.
    return [f"{option}={value}"] if value.startswith("-") else [option, value]


def _shown(flag: Flag, value: str) -> str:
    return HIDDEN if flag.name in SECRET_FLAGS else without_passwords(value)


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
