"""Pure: breaks text between words while it comes in pieces."""

from __future__ import annotations

import re

from rich.cells import cell_len

_PARTS = re.compile(r"\s|\S+")
_LONGEST_HELD = 24
"""A longer word is not waited for: some languages have no spaces."""


class WordWrap:
    """Takes pieces of a text and gives back what can be shown of it, in lines of a width."""

    def __init__(self, width: int, column: int) -> None:
        """Begin in a column of a screen."""
        self._width = width
        self._column = column
        self._space = ""
        self._word = ""

    def feed(self, text: str) -> str:
        """Take a piece; a word that may go on is held back."""
        parts = _PARTS.findall(self._word + text)
        self._word = ""
        if parts and not parts[-1].isspace() and len(parts[-1]) <= _LONGEST_HELD:
            self._word = parts.pop()
        return "".join(map(self._place, parts))

    def flush(self) -> str:
        """Return what is held back."""
        word, self._word = self._word, ""
        return self._place(word) if word else ""

    def _place(self, part: str) -> str:
        if part == "\n":
            self._column, self._space = 0, ""
            return part
        if part.isspace():
            self._space += part
            return ""
        space, self._space = self._space, ""
        size = cell_len(part)
        if space and self._column + cell_len(space) + size > self._width:
            self._column = size
            return f"\n{part}"
        self._column += cell_len(space) + size
        return space + part
