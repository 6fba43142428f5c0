"""vLLM's parser in small: argparse with the catalogue's flags, which says everything that is wrong at once.

`vllm serve` first rewrites its arguments (`FlexibleArgumentParser.parse_args`, 0.32 and 0.33): underscores in
long flags become dashes, `-O2` becomes `--optimization-level 2`, and dotted keys are collected into one JSON
value for each flag. That is repeated here; then argparse decides, as it does there. We refuse a little more:
dotted keys of a flag that takes no JSON, a flag in the place of a dotted key's value, `--`, `--help`, and
flags that one of our settings replaces.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from vllm_engine.config.flags.flag import SECRET_FLAGS, Flag, bare_name
from vllm_engine.config.flags.flag_values import Refusal, nested_value, refusal, wanted
from vllm_engine.config.redaction import HIDDEN, without_passwords
from vllm_engine.config.spelling import did_you_mean

_UNDERSCORED_PART = re.compile(r"(?<=--)[^.]*")
_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")
"""argparse's own idea of a number, which lets a word that starts with a dash be a value."""
_OPTIMIZATION_LEVELS = frozenset("0123")

Refusals = Iterator[tuple[str, Refusal]]
"""Parts of a command line as they may be shown, and why each is refused."""


class FlagParser(argparse.ArgumentParser):
    """Checks what follows `vllm serve MODEL`."""

    def __init__(self, version: str, flags: Iterable[Flag], reserved: Mapping[str, str]) -> None:
        """Take vLLM's version, its flags, and by name those that a setting replaces, with that setting."""
        super().__init__(
            prog="vllm serve", add_help=False, argument_default=argparse.SUPPRESS, exit_on_error=False
        )
        self._version = version
        self._flags = {flag.name: flag for flag in flags}
        self._by_option = {alias: flag for flag in self._flags.values() for alias in flag.aliases}
        for flag in self._flags.values():
            self.add_argument(*flag.aliases, dest=flag.name, **_arguments(flag, reserved))
        is_help = Refusal("is not taken here", "it prints vLLM's help and ends")
        self.add_argument("-h", "--help", nargs="*", action=_Refuse, const=is_help)

    def check(self, words: Sequence[str]) -> Refusals:
        """Say everything that the real parser would refuse, flag by flag."""
        plain, nested, found = _without_dotted_keys(list(_rewritten(words)))
        yield from found
        for chunk in _chunks(plain):
            yield from ((_shown(chunk), each) for each in self._refused(chunk))
        for option, value in nested.items():
            chunk = [option, json.dumps(value)]
            yield from ((_shown(chunk), each) for each in self._refused(chunk, is_nested=True))

    def error(self, message: str) -> NoReturn:
        """Raise instead of ending the process."""
        raise argparse.ArgumentError(None, message)

    def _refused(self, chunk: list[str], *, is_nested: bool = False) -> Iterator[Refusal]:
        """Say what is wrong with one flag and the words up to the next."""
        try:
            namespace, extra = self.parse_known_args(chunk)
        except argparse.ArgumentError as error:
            yield self._unparsed(error)
            return
        if extra[:1] == chunk[:1]:
            yield self._unknown(chunk[0])
            return
        for name, value in vars(namespace).items():
            values = value if isinstance(value, list) else [value]
            refused = [each for each in values if isinstance(each, Refusal)]
            yield from refused[:1]
            if refused or name not in self._flags:
                return
            yield from _misused(self._flags[name], chunk[0], extra, is_nested=is_nested)

    def _unparsed(self, error: argparse.ArgumentError) -> Refusal:
        flag = self._by_option.get((error.argument_name or "").split("/")[0])
        if flag is None:
            return Refusal(f"could be {error.message.rpartition(' could match ')[2]}", "write it in full")
        if flag.kind in ("bool", "switch"):
            return _no_value(flag)
        remedy = f"write --{flag.name}=VALUE if it starts with a dash"
        return Refusal(f"expected a value after it: {wanted(flag)}", remedy)

    def _unknown(self, word: str) -> Refusal:
        name = word.partition("=")[0]
        if not is_flag(name):
            flags = "expected flags such as --max-num-seqs 64"
            remedy = "vllm serve takes nothing after it" if name == "--" else flags
            return Refusal("is not a flag", remedy)
        if not name.startswith("--") and name[:3] in self._by_option:
            remedy = f"put a space after {name[:3]}"
        else:
            options = [option for option in self._by_option if option.startswith("--")]
            remedy = did_you_mean(name, options) or "`vllm serve --help=all` lists them"
        return Refusal(f"is not a flag of vllm serve {self._version}", remedy, listed=True)


def mask(argv: Sequence[str]) -> list[str]:
    """Return a command line to be shown: secret flags' values and URLs' passwords become `***`."""
    shown: list[str] = []
    secret = False
    for word in argv:
        if not is_flag(word):
            shown.append(HIDDEN if secret else without_passwords(word))
            continue
        option, joined, _ = word.partition("=")
        name = bare_name(option).partition(".")[0] if option.startswith("--") else ""
        # argparse takes any unambiguous beginning of a flag; hiding too much does no harm.
        secret = bool(name) and any(flag.startswith(name) for flag in SECRET_FLAGS)
        shown.append(f"{option}={HIDDEN}" if secret and joined else without_passwords(word))
    return shown


class _Refuse(argparse.Action):
    """Refuses a flag whatever follows it."""

    def __call__(self, _parser: object, namespace: argparse.Namespace, *_: object) -> None:
        setattr(namespace, self.dest, self.const)


def _arguments(flag: Flag, reserved: Mapping[str, str]) -> dict[str, Any]:
    """Return how argparse takes a flag: in place of each value it stores why that is refused, or None."""
    if flag.name in reserved or flag.name == "model":
        owned = Refusal("is not taken here", f"set {reserved.get(flag.name, 'MODEL_ID')} instead")
        return {"action": _Refuse, "nargs": "*", "const": owned}
    if flag.kind in ("bool", "switch"):
        return {"action": "store_true"}
    check = partial(refusal, flag)
    if flag.repeat:
        return {"action": "append", "type": check}
    return {"type": check, "nargs": "+" if flag.kind == "list" else "?" if flag.bare else None}


def _misused(flag: Flag, option: str, extra: list[str], *, is_nested: bool) -> Iterator[Refusal]:
    """Refuse what argparse accepts although it is surely a mistake."""
    if is_nested and not flag.dotted:
        yield Refusal(f"--{flag.name} has no keys", "its value is not JSON")
    if flag.name == "config" and option != "--config":
        # FlexibleArgumentParser looks for the word `--config` alone; argparse drops the file's name.
        yield Refusal("expected --config and the file as two words", "vLLM ignores the file otherwise")
    if extra:
        is_switch = flag.kind in ("bool", "switch")
        yield _no_value(flag) if is_switch else Refusal("expected one value", "quote it if it has spaces")


def _no_value(flag: Flag) -> Refusal:
    forms = " or ".join([*flag.switched(True), *flag.switched(False)])
    return Refusal("expected no value", f"write {forms}")


def is_flag(word: str) -> bool:
    """Whether argparse takes a word for a flag; neither a number nor a word with a space is one."""
    name = word.partition("=")[0]
    is_dashed = word.startswith("-") and word not in ("-", "--")
    return is_dashed and " " not in name and not _NEGATIVE_NUMBER.fullmatch(word)


def _chunks(words: Sequence[str]) -> Iterator[list[str]]:
    """Split a command line before each flag."""
    chunk: list[str] = []
    for word in words:
        if chunk and (is_flag(word) or word == "--"):
            yield chunk
            chunk = []
        chunk.append(word)
    if chunk:
        yield chunk


def _shown(chunk: Sequence[str]) -> str:
    return " ".join(mask(chunk))


def _rewritten(words: Sequence[str]) -> Iterator[str]:
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word.startswith("--"):
            name, joined, value = word.partition("=")
            dashed = _UNDERSCORED_PART.sub(lambda found: found[0].replace("_", "-"), name, count=1)
            yield f"{dashed}{joined}{value}"
        elif word.startswith("-O") and word != "-O":
            yield "--optimization-level"
            yield word[3:] if word[2] == "=" else word[2:]
        elif word == "-O" and following in _OPTIMIZATION_LEVELS:
            yield "--optimization-level"
        else:
            yield word


def _without_dotted_keys(
    words: list[str],
) -> tuple[list[str], dict[str, dict[str, object]], list[tuple[str, Refusal]]]:
    """Return the other words, a JSON object for each flag with dotted keys, and what is wrong with those."""
    plain: list[str] = []
    nested: dict[str, dict[str, object]] = {}
    refused: list[tuple[str, Refusal]] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, joined, value = word.partition("=")
        if not name.startswith("-") or "." not in name:
            plain.append(word)
        elif _NEGATIVE_NUMBER.fullmatch(word):
            before = next((it.partition("=")[0] for it in reversed(plain) if is_flag(it)), "--flag")
            is_key = "is a dotted key to vLLM, as it starts with a dash and has a dot"
            refused.append((word, Refusal(is_key, f"write {before}={word}")))
            plain.append(word)
        elif joined:
            _nest(nested, name, value)
        elif position == len(words) or words[position].startswith("--"):
            refused.append((word, Refusal("expected a value after it", "write it as --flag.key=VALUE")))
        else:
            _nest(nested, name, words[position])
            position += 1
    return plain, nested, refused


def _nest(nested: dict[str, dict[str, object]], dotted: str, value: str) -> None:
    """Add one dotted key to what its flag has; `key+` adds to a list, values separated by commas."""
    option, first, *deeper = dotted.removesuffix("+").split(".")
    leaf: object = value.split(",") if dotted.endswith("+") else nested_value(value)
    for key in reversed(deeper):
        leaf = {key: leaf}
    _merge(nested.setdefault(option, {}), {first: leaf})


def _merge(into: dict[str, object], update: Mapping[str, object]) -> None:
    for key, value in update.items():
        held = into.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            _merge(held, value)
        elif isinstance(held, list) and isinstance(value, list):
            held.extend(value)
        else:
            into[key] = value
