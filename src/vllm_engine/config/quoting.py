"""Finds quotes, comments and invisible characters that a value contains because no shell removed them."""

from __future__ import annotations

import re

_EDGES = re.compile(r"\A[\s\ufeff\u200b-\u200f\u2060]+|[\s\ufeff\u200b-\u200f\u2060]+\Z")
"""Blanks and line ends, a byte order mark, and characters without width."""

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“"}
_BLANK = "contains nothing but blanks; unset it, or give it a value"
_KEPT = "docker --env-file, Compose's list form and Kubernetes take them as part of the value"


def clean(value: str) -> str:
    """Return a value without the invisible characters at its ends."""
    return _EDGES.sub("", value)


def stray_in_text(value: str) -> str | None:
    """Say what is wrong with a plain value, such as a path or a number; None where nothing is.

    A legal one neither begins nor ends with a quote, and contains no comment and no unprintable character.
    """
    first, last = value[:1], value[-1:]
    if value and not clean(value):
        return _BLANK
    if first in _QUOTES:
        return _quotes(first)
    if last in _QUOTES.values() and last not in value[:-1]:
        return _quotes(last)
    if " #" in value:
        return 'the "#" and what follows is part of the value; write comments on a line of their own'
    return _unprintable(value, "")


def stray_in_list(value: str) -> str | None:
    """Say what is wrong with words that are separated by blanks or commas; None where nothing is.

    A legal word neither begins nor ends with a quote, nor does what follows its first colon (`name:key`).
    """
    if value and not clean(value):
        return _BLANK
    for word in value.replace(",", " ").split():
        for part in (word, word.partition(":")[2]):
            if part[:1] in _QUOTES:
                return _quotes(part[0])
            if part[-1:] in _QUOTES.values():
                return _quotes(part[-1])
    return _unprintable(value, "\n\r\t")


def stray_in_words(value: str) -> str | None:
    """Say what is wrong with a value in which quotes have a meaning, such as JSON; None where nothing is.

    A value that is wholly in one pair of quotes was meant for a shell that never saw it.
    """
    if value and not clean(value):
        return _BLANK
    first, last = value[:1], value[-1:]
    whole = len(value) > 1 and _QUOTES.get(first) == last and not {first, last} & set(value[1:-1])
    return _quotes(first) if whole else None


def _quotes(quote: str) -> str:
    return f"remove the quotes ({quote}): {_KEPT}"


def _unprintable(value: str, allowed: str) -> str | None:
    found = next((each for each in value if not each.isprintable() and each not in allowed), None)
    return f"contains an unprintable character ({ascii(found)[1:-1]})" if found else None
