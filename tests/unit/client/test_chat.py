"""Chatting, without a server: what is remembered, what may reach a terminal, what a stream holds."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from vllm_engine.cli.local_server import first_key, local_server
from vllm_engine.client.api_client import Piece, Reply, base_url, message_of
from vllm_engine.client.chat.chat_answer import AnswerView, printable
from vllm_engine.client.chat.conversation import Conversation
from vllm_engine.config.settings import Settings
from vllm_engine.errors import SettingsError


def roles(conversation: Conversation) -> list[str]:
    """Return who spoke, in order."""
    return [message["role"] for message in conversation.body["messages"]]


def test_turns() -> None:
    """Questions and answers alternate; a question without an answer gives way to the next."""
    talk = Conversation("m", "Be brief.", {"temperature": 0.0})
    talk.asks("lost")
    talk.asks("first")
    talk.answered("yes")
    talk.asks("second")
    assert talk.body["messages"][1:] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    assert (talk.body["model"], talk.body["temperature"]) == ("m", 0.0)


def test_retry_and_clear() -> None:
    """A last answer can be had anew; nothing can be had anew before there is a question."""
    talk = Conversation("m")
    assert not talk.reopen()
    talk.asks("first")
    talk.answered("yes")
    assert talk.reopen()
    assert roles(talk) == ["user"]
    talk.system = "Be brief."
    talk.forget()
    assert roles(talk) == ["system"]


def test_printable() -> None:
    """No control character of a model's reaches a terminal; text of any language does."""
    assert printable("a\x1b[2J\x1b]0;title\x07b\rc\x9b31m\x7f") == "a[2J]0;titlebc31m"
    assert printable("one\n\ttwo 日本語 😀") == "one\n\ttwo 日本語 😀"


async def pieces(*all_of_them: Piece) -> AsyncIterator[Piece]:
    """Yield them."""
    for piece in all_of_them:
        yield piece


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_view(is_terminal: bool) -> None:
    """A terminal shows thoughts and figures and is not steered; a pipe gets the text as it is."""
    out = io.StringIO()
    view = AnswerView(Console(file=out, force_terminal=is_terminal, color_system=None, width=20))
    text = "a\tlong line that no pipe may wrap, with :smile: and [b]markup[/b] \x1b[2J"
    await view.show(pieces(Piece(reasoning="Hm."), Piece(text=text), Piece(tokens=7)))
    view.end()
    assert view.text == text
    if is_terminal:
        assert "Hm." in out.getvalue()
        assert "7 tokens" in out.getvalue()
        assert "\x1b[2J" not in out.getvalue()
    else:
        assert out.getvalue() == text + "\n"


def test_base_url() -> None:
    """Users give a base URL with or without /v1; what is none is refused."""
    assert {base_url(f"http://h:1{end}") for end in ("", "/", "/v1", "/v1/")} == {"http://h:1"}
    with pytest.raises(SettingsError, match="BASE_URL"):
        base_url("h:1")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"error": "no"}, "no"),
        ({"detail": "no"}, "no"),
        ({"message": "no"}, "no"),
        ([], "[]"),
    ],
)
def test_message_of(body: object, told: str) -> None:
    """Each server's way to say what is wrong is understood."""
    assert message_of(Reply(400, body, json.dumps(body))) == told


def test_local_server() -> None:
    """The settings' own server is asked with its own first key that is known."""
    settings = Settings(HOST="0.0.0.0", PORT=9, API_KEYS=f"a:sha256:{'0' * 64},b:eight-chars")
    server = local_server(settings)
    assert (server.url, server.api_key) == ("http://127.0.0.1:9", "eight-chars")
    assert "eight-chars" not in repr(server)
    assert local_server(settings, "mine").api_key == "mine"
    assert first_key(Settings()) is None
