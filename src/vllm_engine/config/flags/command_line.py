"""Reads the words of a command line as vLLM's parser does, and says what the parser would refuse.

vLLM first rewrites the words (`FlexibleArgumentParser.parse_args`): underscores in long flags become
dashes, `-O2` becomes `--optimization-level 2`, and dotted keys are collected into one JSON value for each
flag. Then argparse decides word by word what is a flag and what a value. Both are repeated here, because
the gateway has neither vLLM nor its parser. We refuse a little more than the parser: dotted keys of a flag
that takes no JSON, a flag taken for the value of a dotted key, `--`, `--help`, and what a setting owns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vllm_engine.config.flags.flag import SECRET_FLAGS, Flag, FlagError, Severity
from vllm_engine.config.flags.flag_values import nearest, nested_value, refusal, wanted

_UNDERSCORED_PART = re.compile(r"(?<=--)[^.]*")
NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")
"""argparse's own idea of a number, which lets a word that starts with a dash be a value."""
_OPTIMIZATION_LEVELS = frozenset("0123")
_HELP = ("-h", "--help")


@dataclass(frozen=True)
class _Word:
    text: str
    """The word as argparse would get it."""
    given: str
    """The word as the user wrote it."""


@dataclass(frozen=True)
class _Match:
    flag: Flag | None
    """None is `--help`."""
    option: str
    joined: str | None
    """The value joined to the flag by `=`, or directly to a short flag."""


@dataclass
class _Nested:
    value: dict[str, object] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)


@dataclass
class CommandLine:
    """Checks words that follow `vllm serve MODEL`; what is wrong with them collects in `errors`.

    `options` maps every option string to its flag, `reserved` a flag's name to the setting that owns it.
    `exact` says whether `options` are those of the vLLM that will run.
    """

    key: str
    version: str
    exact: bool
    options: Mapping[str, Flag]
    reserved: Mapping[str, str]
    errors: list[FlagError] = field(default_factory=list)
    _last: Flag | None = None

    def check(self, words: Sequence[str]) -> None:
        """Read all words once."""
        plain, nested = self._without_dotted(list(_rewritten(words)))
        position = 0
        while position < len(plain):
            position = self._read(plain, position)
        for option, found in nested.items():
            self._read_nested(option, found)

    def _refuse(self, value: str, wanted: str, remedy: str = "", *, severity: Severity = "error") -> None:
        self.errors.append(FlagError(self.key, value, wanted, remedy, severity=severity))

    def _without_dotted(self, words: list[_Word]) -> tuple[list[_Word], dict[str, _Nested]]:
        plain: list[_Word] = []
        nested: dict[str, _Nested] = {}
        position = 0
        while position < len(words):
            word = words[position]
            position += 1
            name, joined, value = word.text.partition("=")
            if not name.startswith("-") or "." not in name:
                plain.append(word)
            elif NEGATIVE_NUMBER.fullmatch(word.text):
                before = next((it.given for it in reversed(plain) if it.text.startswith("-")), "--flag")
                wanted = "no word that starts with a dash and has a dot, which vLLM reads as a dotted key"
                self._refuse(word.given, wanted, f"write {before}={word.given}")
                plain.append(word)
            elif joined:
                _nest(nested, name, value, word.given)
            elif position == len(words) or words[position].text.startswith("--"):
                self._refuse(word.given, "a value after it", f"write {word.given}=VALUE")
            else:
                _nest(nested, name, words[position].text, f"{word.given} {words[position].given}")
                position += 1
        return plain, nested

    def _read(self, words: list[_Word], position: int) -> int:
        """Read one flag with its values, or one word that belongs to none; return where to go on."""
        word = words[position]
        if not self._is_option(word.text):
            self._refuse_stray(word)
            return position + 1
        end = position + 1
        while end < len(words) and not self._is_option(words[end].text):
            end += 1
        match = self._known(word)
        if match is None or match.flag is None or self._is_reserved(match.flag, match.option):
            # What follows would have been its values, and says nothing of its own.
            return end
        return position + 1 + self._take(match, match.flag, word, words[position + 1 : end])

    def _is_option(self, text: str) -> bool:
        if not text.startswith("-") or text == "-":
            return False
        if self._resolve(text):
            return True
        return not NEGATIVE_NUMBER.fullmatch(text) and " " not in text

    def _resolve(self, text: str) -> list[_Match]:
        """Return the option strings this word can stand for; argparse refuses a word with more than one."""
        name, joined, value = text.partition("=")
        for whole, rest in ((text, None), (name, value if joined else None)):
            if whole in self.options or whole in _HELP:
                return [_Match(self.options.get(whole), whole, rest)]
        if text in ("-", "--"):
            return []
        return list(self._abbreviated(text))

    def _abbreviated(self, text: str) -> Iterator[_Match]:
        name, joined, value = text.partition("=")
        for option in (*self.options, *_HELP):
            if text.startswith("--"):
                if option.startswith(name):
                    yield _Match(self.options.get(option), option, value if joined else None)
            elif option == text[:2]:
                yield _Match(self.options.get(option), option, text[2:])
            elif option.startswith(text):
                yield _Match(self.options.get(option), option, None)

    def _known(self, word: _Word) -> _Match | None:
        """Return the one flag this word names, after saying so if there is none to be used."""
        name = word.text.partition("=")[0]
        shown = word.given.partition("=")[0]
        matches = self._resolve(word.text)
        if not matches:
            self._refuse_unknown(shown, name)
            return None
        if len(matches) > 1:
            self._refuse(shown, "one flag", "it could be " + ", ".join(match.option for match in matches))
            return None
        if matches[0].flag is None:
            self._refuse(shown, "flags that serve", "it prints vLLM's help and ends")
        return matches[0]

    def _refuse_unknown(self, shown: str, name: str) -> None:
        # A short flag shares too few letters with any other for "did you mean" to mean much.
        remedy = nearest(name, (option for option in self.options if option.startswith("--")))
        remedy = remedy or "`vllm serve --help=all` lists them"
        if name == "--":
            remedy = "vllm serve takes nothing after it"
        elif name.startswith("-") and not name.startswith("--") and name[:3] in self.options:
            remedy = f"write {name[:3]} {name[3:]}"
        severity: Severity = "error" if self.exact or name == "--" else "warning"
        self._refuse(shown, f"a flag of vllm serve {self.version}", remedy, severity=severity)

    def _is_reserved(self, flag: Flag, option: str) -> bool:
        setting = self.reserved.get(flag.name)
        if setting is not None:
            self._refuse(option, f"no {option} here", f"set {setting} instead")
        elif flag.name == "model":
            self._refuse(option, f"no {option} here", "the model is already the first argument of vllm serve")
        else:
            return False
        return True

    def _refuse_stray(self, word: _Word) -> None:
        shown = "***" if self._last is not None and self._last.name in SECRET_FLAGS else word.given
        if self._last is None:
            remedy = ""
        elif self._last.kind in ("bool", "switch"):
            remedy = f"--{self._last.name} takes no value"
        else:
            remedy = f"--{self._last.name} takes one value, to be quoted if it has spaces"
        self._refuse(shown, "a flag", remedy)

    def _take(self, match: _Match, flag: Flag, word: _Word, following: list[_Word]) -> int:
        """Check the values of one flag; return how many of the following words are among them."""
        self._last = flag
        if flag.kind in ("bool", "switch"):
            if match.joined is not None:
                forms = " or ".join([*flag.switched(True), *flag.switched(False)])
                self._refuse(word.given, "no value", f"write {forms}")
            return 0
        if match.joined is not None:
            self._check_value(flag, match.joined, word.given)
            if flag.name == "config":
                # FlexibleArgumentParser looks for the word `--config` alone; argparse drops the file's name.
                self._refuse(word.given, "a space instead of =", "vLLM ignores the file otherwise")
            return 0
        taken = following if flag.kind == "list" and not flag.repeat else following[:1]
        if not taken and not flag.bare:
            remedy = f"write {word.given}=VALUE if it starts with a dash"
            self._refuse(word.given, f"a value after it: {wanted(flag)}", remedy)
        for value in taken:
            self._check_value(flag, value.text, f"{word.given} {value.given}")
        return len(taken)

    def _check_value(self, flag: Flag, value: str, given: str) -> None:
        if flag.name == "config" and value.rpartition(".")[2] not in ("yaml", "yml"):
            self._refuse(given, "a file whose name ends in .yaml or .yml")
        found = refusal(flag, value)
        if found is not None:
            severity: Severity = "warning" if found.listed and not self.exact else "error"
            self._refuse(given, found.wanted, found.remedy, severity=severity)

    def _read_nested(self, option: str, found: _Nested) -> None:
        match = self._known(_Word(option, option))
        if match is None or match.flag is None or self._is_reserved(match.flag, match.option):
            return
        shown = f"--{match.flag.name} ***" if match.flag.name in SECRET_FLAGS else " ".join(found.given)
        if not match.flag.dotted:
            self._refuse(shown, f"no key after --{match.flag.name}", "its value is not JSON")
        else:
            self._check_value(match.flag, json.dumps(found.value), shown)


def _rewritten(words: Sequence[str]) -> Iterator[_Word]:
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word.startswith("--"):
            name, joined, value = word.partition("=")
            dashed = _UNDERSCORED_PART.sub(lambda found: found[0].replace("_", "-"), name, count=1)
            yield _Word(f"{dashed}{joined}{value}", word)
        elif word.startswith("-O") and word != "-O":
            yield _Word("--optimization-level", word)
            yield _Word(word[3:] if word[2] == "=" else word[2:], word)
        elif word == "-O" and following in _OPTIMIZATION_LEVELS:
            yield _Word("--optimization-level", word)
        else:
            yield _Word(word, word)


def _nest(nested: dict[str, _Nested], dotted: str, value: str, given: str) -> None:
    """Add one dotted key to what its flag has; `key+` adds to a list, values separated by commas."""
    option, first, *deeper = dotted.removesuffix("+").split(".")
    leaf: object = value.split(",") if dotted.endswith("+") else nested_value(value)
    for key in reversed(deeper):
        leaf = {key: leaf}
    found = nested.setdefault(option, _Nested())
    found.given.append(given)
    _merge(found.value, {first: leaf})


def _merge(into: dict[str, object], update: Mapping[str, object]) -> None:
    for key, value in update.items():
        held = into.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            _merge(held, value)
        elif isinstance(held, list) and isinstance(value, list):
            held.extend(value)
        else:
            into[key] = value
