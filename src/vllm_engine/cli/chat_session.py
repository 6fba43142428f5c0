"""What `vllm-engine chat` does: one answer in a pipe, or a conversation on a terminal."""

from __future__ import annotations

import asyncio
import readline  # noqa: F401 - its import gives input() history and editing
import signal
import sys
from dataclasses import replace

import click
from rich.text import Text

from vllm_engine.cli.console import console
from vllm_engine.client.api_client import Client, Server, ServerError
from vllm_engine.client.chat.chat_answer import AnswerView
from vllm_engine.client.chat.chat_loop import ChatLoop, answer
from vllm_engine.client.chat.conversation import Conversation
from vllm_engine.client.wait_ready import until_ready

_READY_SECONDS = 1800.0


async def answer_once(server: Server, conversation: Conversation, question: str) -> None:
    """Ask one question, and print the answer."""
    if not question:
        raise click.UsageError('expected a question, as in `vllm-engine chat "Why?"` or piped in; got none')
    async with Client(server) as client:
        conversation.model = await _model(client, conversation.model)
        conversation.asks(question)
        view = AnswerView(console())
        await answer(client, conversation, view)
        view.end()


def converse(runner: asyncio.Runner, server: Server, conversation: Conversation) -> None:
    """Hold a conversation until the user exits; ask for a key if the server rejects the request without."""
    client = runner.run(Client(server).__aenter__())
    try:
        try:
            conversation.model = runner.run(_model(client, conversation.model))
        except ServerError as error:
            if error.status != 401:
                raise
            key = click.prompt(f"API key for {server.url}", hide_input=True, err=True)
            runner.run(client.__aexit__(None, None, None))
            client = runner.run(Client(replace(server, api_key=key)).__aenter__())
            conversation.model = runner.run(_model(client, conversation.model))
        hello = f"{conversation.model} at {server.url}. /help for commands, Ctrl-D to exit."
        console().print(Text(hello, style="dim"), soft_wrap=True)
        ChatLoop(client, conversation, console(), input).run(runner)
    finally:
        # Not restored: a user who left with Ctrl-C may press it once more while the program exits.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        runner.run(client.__aexit__(None, None, None))


async def _model(client: Client, model: str) -> str:
    """Wait until the server is ready; returns the model to request."""

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    await until_ready(client, tell, seconds=_READY_SECONDS, listening_seconds=0)
    try:
        first = await client.first_model()
    except ServerError as error:
        if not model or error.status == 401:
            raise
        return model  # it may answer even if it does not list models
    return model or first
