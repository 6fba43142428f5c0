"""The loop of a conversation under Ctrl-C, whenever it comes."""

from __future__ import annotations

import asyncio
import io
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from rich.console import Console

from vllm_engine.client.api_client import Client, Piece
from vllm_engine.client.chat.chat_loop import ChatLoop
from vllm_engine.client.chat.conversation import Conversation


def press_ctrl_c() -> None:
    """What a terminal does to us when the key is pressed."""
    signal.raise_signal(signal.SIGINT)


class Pressed(Console):
    """A console at which Ctrl-C comes with everything that is printed."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print, between two presses."""
        press_ctrl_c()
        super().print(*objects, **how)
        press_ctrl_c()


class OneAnswer:
    """Stands for the client: an answer of one piece, then whatever is to happen."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    async def chat(self, _body: dict[str, Any]) -> AsyncIterator[Piece]:
        """Yield the piece; then wait for what `then` brings."""
        yield Piece(text="The")
        self._then()
        await asyncio.sleep(0)


class Keyboard:
    """Reads what a list holds, in order; a line that is None is Ctrl-C."""

    def __init__(self, *lines: str | None) -> None:
        self.left = list(lines)

    def __call__(self, _prompt: str) -> str:
        """Return the next line, or end."""
        if not self.left:
            raise EOFError
        line = self.left.pop(0)
        if line is None:
            press_ctrl_c()
        return cast("str", line)


def converse(keyboard: Keyboard, console: Console, then: Callable[[], None] = lambda: None) -> Conversation:
    """Hold a conversation to its end."""
    conversation = Conversation("m")
    with asyncio.Runner() as runner:
        ChatLoop(cast("Client", OneAnswer(then)), conversation, console, keyboard).run(runner)
    return conversation


@pytest.mark.parametrize("console", [Console, Pressed])
def test_twice_leaves(console: type[Console]) -> None:
    """Ctrl-C twice in a row at the prompt leaves, however often it comes in between."""
    screen, keyboard = io.StringIO(), Keyboard(None, "/help", None, None, "never read")
    converse(keyboard, console(file=screen))
    assert keyboard.left == ["never read"]
    assert screen.getvalue().count("Ctrl-C once more") == 2


@pytest.mark.parametrize("console", [Console, Pressed])
def test_stops_an_answer(console: type[Console]) -> None:
    """Ctrl-C in an answer keeps what came of it and asks the next question."""
    screen, keyboard = io.StringIO(), Keyboard("Long?", "/help")
    conversation = converse(keyboard, console(file=screen, force_terminal=True), press_ctrl_c)
    assert not keyboard.left
    assert "stopped" in screen.getvalue()
    assert conversation.body["messages"][-1] == {"role": "assistant", "content": "The"}


def test_handler_is_given_back() -> None:
    """After the loop Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    converse(Keyboard(), Console(file=io.StringIO()))
    assert signal.getsignal(signal.SIGINT) is before
