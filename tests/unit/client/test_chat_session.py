"""Chat without a server: what is remembered, what reaches a terminal, and Ctrl-C whenever it comes."""

from __future__ import annotations

import asyncio
import io
import json
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from rich.console import Console

from vllm_engine.cli.local_server import local_server
from vllm_engine.client.api_client import Client, Piece, Reply, base_url, message_of
from vllm_engine.client.chat.chat_answer import AnswerView, printable
from vllm_engine.client.chat.chat_loop import ChatLoop
from vllm_engine.client.chat.conversation import Conversation
from vllm_engine.config.settings import Settings
from vllm_engine.errors import SettingsError


def test_conversation() -> None:
    """Roles alternate: an unanswered question gives way, a last answer can be had again, all can be cleared."""
    talk = Conversation("m", None, {"temperature": 0.0})
    assert not talk.reopen()
    talk.asks("lost")
    talk.asks("first")
    talk.answered("yes")
    talk.asks("second")
    assert talk.body == {
        "model": "m",
        "messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "second"},
        ],
        "temperature": 0.0,
    }
    talk.answered("no")
    assert talk.reopen()
    assert [each["role"] for each in talk.body["messages"]] == ["user", "assistant", "user"]
    talk.system = "Be brief."
    talk.forget()
    assert talk.body["messages"] == [{"role": "system", "content": "Be brief."}]


def test_printable() -> None:
    """No control character of a model's reaches a terminal; text of any language does."""
    assert printable("a\x1b[2J\x1b]0;title\x07b\rc\x9b31m\x7f") == "a[2J]0;titlebc31m"
    assert printable("one\n\ttwo 日本語 😀") == "one\n\ttwo 日本語 😀"


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_answer(is_terminal: bool) -> None:
    """A terminal shows reasoning and statistics and is not controlled; a pipe gets the text as it is."""
    text = "a\tlong line that no pipe may wrap, with :smile: and [b]markup[/b] \x1b[2J"

    async def pieces() -> AsyncIterator[Piece]:
        for piece in (Piece(reasoning="Hm."), Piece(text=text), Piece(tokens=7)):
            yield piece

    out = io.StringIO()
    view = AnswerView(Console(file=out, force_terminal=is_terminal, color_system=None, width=20))
    await view.show(pieces())
    view.end()
    assert view.text == text
    if is_terminal:
        assert "Hm." in out.getvalue()
        assert "7 tokens" in out.getvalue()
        assert printable(text)[-4:] + "\n" in out.getvalue()
        assert "\x1b[2J" not in out.getvalue()
    else:
        assert out.getvalue() == text + "\n"


def test_base_url() -> None:
    assert {base_url(f"http://h:1{end}") for end in ("", "/", "/v1", "/v1/")} == {"http://h:1"}
    with pytest.raises(SettingsError, match="BASE_URL"):
        base_url("h:1")


def test_message_of() -> None:
    """Each server's way to report an error is understood."""
    for body in ({"error": {"message": "no"}}, {"error": "no"}, {"detail": "no"}, {"message": "no"}):
        assert message_of(Reply(400, body, json.dumps(body))) == "no"
    assert message_of(Reply(400, [], "[]")) == "[]"


def test_local_server() -> None:
    """The settings' own server is asked with its own first key that is not a hash."""
    settings = Settings(HOST="0.0.0.0", PORT=9, API_KEYS=f"a:sha256:{'0' * 64},b:eight-chars")
    server = local_server(settings)
    assert (server.url, server.api_key) == ("http://127.0.0.1:9", "eight-chars")
    assert "eight-chars" not in repr(server)
    assert local_server(settings, "mine").api_key == "mine"
    assert local_server(Settings(HOST="::")).url == "http://[::1]:8000"
    assert local_server(Settings()).api_key is None


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


class Pressed(Console):
    """A console at which Ctrl-C is pressed before and after whatever is printed."""

    def print(self, *objects: Any, **options: Any) -> None:
        press_ctrl_c()
        super().print(*objects, **options)
        press_ctrl_c()


class OneAnswer:
    """Stands for the client: an answer of one piece, then whatever is to happen."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    async def chat(self, _body: dict[str, Any]) -> AsyncIterator[Piece]:
        yield Piece(text="The")
        self._then()
        await asyncio.sleep(0)


def converse(
    lines: list[str | None], console: Console, then: Callable[[], None] = lambda: None
) -> Conversation:
    """Hold a conversation until the lines end or it does; a line that is None is Ctrl-C."""
    conversation = Conversation("m")

    def read(_prompt: str) -> str:
        if not lines:
            raise EOFError
        line = lines.pop(0)
        if line is None:
            press_ctrl_c()
        return cast("str", line)

    with asyncio.Runner() as runner:
        ChatLoop(cast("Client", OneAnswer(then)), conversation, console, read).run(runner)
    return conversation


@pytest.mark.parametrize("console", [Console, Pressed])
def test_ctrl_c(console: type[Console]) -> None:
    """Twice in a row at the prompt it exits; in an answer it keeps what came, and the next line is read."""
    before = signal.getsignal(signal.SIGINT)
    screen, lines = io.StringIO(), [None, "/help", None, None, "never read"]
    converse(lines, console(file=screen))
    assert lines == ["never read"]
    assert screen.getvalue().count("Ctrl-C once more") == 2
    lines = ["Long?", "/help"]
    conversation = converse(lines, console(file=screen, force_terminal=True), press_ctrl_c)
    assert not lines
    assert "stopped" in screen.getvalue()
    assert conversation.body["messages"][-1] == {"role": "assistant", "content": "The"}
    assert signal.getsignal(signal.SIGINT) is before
