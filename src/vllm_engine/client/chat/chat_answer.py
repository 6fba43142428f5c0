"""Shows an answer as it comes, on a terminal or into a pipe."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from vllm_engine.client.api_client import Piece

_KEPT = "\n\t"


def printable(text: str) -> str:
    """Return text without control characters: a model's words must not steer the terminal.

    Escape sequences could rewrite what stands there, or what the user types next (CWE-150).
    """
    return "".join(char for char in text if char in _KEPT or not _is_control(char))


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code < 0xA0


class AnswerView:
    """One answer on a console: thoughts dimmed, text plain, at the end its figures on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._first: float | None = None
        self._tokens: int | None = None
        self._thinks = False
        self.text = ""
        """What came so far."""

    async def show(self, pieces: AsyncIterator[Piece]) -> None:
        """Print pieces as they come; thoughts are left out of a pipe."""
        async for piece in pieces:
            if self._first is None and (piece.text or piece.reasoning):
                self._first = time.monotonic()
            if piece.reasoning and self._console.is_terminal:
                self._thinks = True
                self._put(piece.reasoning, "dim")
            if piece.text:
                self._text(piece.text)
            self._tokens = piece.tokens or self._tokens

    def end(self, how: str = "") -> None:
        """End the last line; on a terminal, tell tokens and speed, or how else it ended."""
        self._console.print()
        if self._console.is_terminal:
            self._console.print(how or self._figures(), style="dim", highlight=False, markup=False)

    def _text(self, text: str) -> None:
        if self._thinks:
            self._console.print("\n")
            self._thinks = False
        self.text += text
        self._put(text)

    def _put(self, text: str, style: str | None = None) -> None:
        if self._console.is_terminal and style:
            self._console.print(Text(printable(text), style=style), end="", soft_wrap=True)
            return
        # As it is: rich would expand tabs, and make pictures of words between colons.
        self._console.file.write(printable(text) if self._console.is_terminal else text)
        self._console.file.flush()

    def _figures(self) -> str:
        if self._first is None:
            return "no answer"
        parts = [f"first token {self._first - self._began:.2f} s"]
        if self._tokens:
            parts.insert(0, f"{self._tokens} tokens")
            seconds = time.monotonic() - self._first
            if self._tokens > 1 and seconds > 0:
                parts.append(f"{(self._tokens - 1) / seconds:.1f} tokens/s")
        return ", ".join(parts)
