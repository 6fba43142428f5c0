"""Shows an answer while it is streamed, on a terminal or in a pipe."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from vllm_engine.client.api_client import Piece

_KEPT = "\n\t"


def printable(text: str) -> str:
    """Remove control characters: a model's output must not control the terminal.

    Escape sequences could rewrite the screen, or what the user types next (CWE-150).
    """
    return "".join(char for char in text if char in _KEPT or unicodedata.category(char) != "Cc")


class AnswerView:
    """One answer on a console: reasoning dimmed, text plain, and on a terminal statistics at its end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._first: float | None = None
        self._tokens: int | None = None
        self._is_reasoning = False
        self.text = ""
        """The answer so far."""

    async def show(self, pieces: AsyncIterator[Piece]) -> None:
        """Print pieces as they come; reasoning is not printed into a pipe."""
        async for piece in pieces:
            if self._first is None and (piece.text or piece.reasoning):
                self._first = time.monotonic()
            if piece.reasoning and self._console.is_terminal:
                self._is_reasoning = True
                self._put(piece.reasoning, "dim")
            if piece.text:
                self._text(piece.text)
            self._tokens = piece.tokens or self._tokens

    def end(self, reason: str = "") -> None:
        """End the last line; on a terminal, print tokens and speed, or the reason why it ended early."""
        self._console.print()
        if self._console.is_terminal:
            self._console.print(reason or self._statistics(), style="dim", highlight=False, markup=False)

    def _text(self, text: str) -> None:
        if self._is_reasoning:
            self._console.print("\n")
            self._is_reasoning = False
        self.text += text
        self._put(text)

    def _put(self, text: str, style: str | None = None) -> None:
        if self._console.is_terminal and style:
            self._console.print(Text(printable(text), style=style), end="", soft_wrap=True)
            return
        # Not by rich, which would expand tabs and replace words between colons by emoji.
        self._console.file.write(printable(text) if self._console.is_terminal else text)
        self._console.file.flush()

    def _statistics(self) -> str:
        if self._first is None:
            return "no answer"
        parts = [f"first token {self._first - self._began:.2f} s"]
        if self._tokens:
            parts.insert(0, f"{self._tokens} tokens")
            seconds = time.monotonic() - self._first
            if self._tokens > 1 and seconds > 0:
                parts.append(f"{(self._tokens - 1) / seconds:.1f} tokens/s")
        return ", ".join(parts)
