"""Pure: finds the values that vLLM refused, and the variables that gave them, in its last words.

vLLM's parser refuses a flag by name. Its config classes (pydantic) refuse fields, some of them derived from a
flag, and what does not fit together; they are read by the field's name or by the flag that the message names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.output.engine_output import parse_line
from vllm_engine.plan.given_flags import GivenFlag

_MAX_REASON = 300
_PARSER = re.compile(r"error: argument (?P<flag>--[\w-]+)\S*: (?P<why>.+)")
_HEADER = re.compile(r"\d+ validation errors? for (?P<config>\w+)$")
_DETAIL = re.compile(r"^\s+(?P<why>\S.*?) \[type=(?P<type>\w+), input_value=.*$")
_VALUE_ERROR = "Value error, "
_CONFIG_FRAME = re.compile(
    r"in (?:create_engine_config|validate_api_server_args|validate_parsed_serve_args)$"
)
_PLAIN = re.compile(r"^(?:ValueError|KeyError): (?P<why>.+)")
_NO_PARSER = re.compile(r"invalid (?P<name>tool call parser|reasoning parser): ")
_OTHER_NAMES = {
    "cache_dtype": "kv-cache-dtype",
    "policy": "scheduling-policy",
    "backend": "attention-backend",
}
"""Fields that are not called like their flags (`vllm/engine/arg_utils.py`)."""
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Refused:
    """What vLLM said of a flag, and the user's variable that gave it, if one did."""

    flag: str
    why: str
    given: GivenFlag | None

    def __str__(self) -> str:
        if self.given is None:
            return f"--{self.flag} ({self.why})"
        return f"{self.given.assignment} ({self.why})"


def refused_values(end: EngineExit, given: Sequence[GivenFlag]) -> list[Refused]:
    """Return the refused values; those that were only derived from another are left out."""
    messages = [parse_line(line).message for line in end.tail]
    found = [*_by_parser(messages, given), *_by_fields(messages, given), *_by_plain_error(messages, given)]
    ours = [each for each in found if each.given is not None]
    return list(dict.fromkeys(ours or found))


def _by_parser(messages: Sequence[str], given: Sequence[GivenFlag]) -> Iterator[Refused]:
    for message in messages:
        if match := _PARSER.search(message):
            name = match["flag"].removeprefix("--")
            yield Refused(name, _short(match["why"]), _called(name, given))


def _by_fields(messages: Sequence[str], given: Sequence[GivenFlag]) -> Iterator[Refused]:
    config, before = "", ""
    for message in messages:
        if header := _HEADER.search(message):
            config = header["config"]
        elif config and (detail := _DETAIL.match(message)):
            why = _short(detail["why"].removeprefix(_VALUE_ERROR))
            if _HEADER.search(before):  # of no single field
                yield from _named_in(why, given)
            else:
                field = re.split(r"\W", before.strip())[0]
                names = [_OTHER_NAMES.get(field, field).replace("_", "-"), _kebab(config)]
                known = next(filter(None, (_called(name, given) for name in names)), None)
                yield Refused(known.name if known else names[0], why, known)
        before = message


def _by_plain_error(messages: Sequence[str], given: Sequence[GivenFlag]) -> Iterator[Refused]:
    """Read an error that ended the check of the flags; it may name one of them."""
    if not any(map(_CONFIG_FRAME.search, messages)):
        return
    for message in messages:
        if match := _PLAIN.match(message):
            why = _short(match["why"])
            if named := _NO_PARSER.match(why):
                name = named["name"].replace(" ", "-")
                yield Refused(name, why, _called(name, given))
            else:
                yield from _named_in(why, given)


def _named_in(why: str, given: Sequence[GivenFlag]) -> Iterator[Refused]:
    for each in given:
        words = each.name.split("-")
        # A single word may mean anything; several are a name however they are joined.
        name = r"[-_ ]".join(words) if len(words) > 1 else rf"(?:--{each.name}|{each.name}=)"
        if re.search(rf"(?<![\w-]){name}(?![\w-])", why, re.IGNORECASE):
            yield Refused(each.name, why, each)


def _called(name: str, given: Sequence[GivenFlag]) -> GivenFlag | None:
    return next((each for each in given if each.name == name), None)


def _kebab(config: str) -> str:
    return _CAPITAL.sub("-", config).lower()


def _short(why: str) -> str:
    # The text of a KeyError is quoted.
    text = why[1:-1] if why[:1] in "'\"" and why[:1] == why[-1:] else why
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
