"""`vllm-engine chat`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from vllm_engine.cli.console import console
from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.target import server_at, takes_server

if TYPE_CHECKING:
    import asyncio

    from vllm_engine.client.api_client import Client, Server

_READY_SECONDS = 1800.0


@click.command("chat")
@takes_server
@click.option("--system", help="The system prompt.")
@click.option(
    "--temperature", type=click.FloatRange(0), help="0 for the most likely answer. Default: the server's."
)
@click.option("--max-tokens", type=click.IntRange(1), help="Of each answer. Default: the server's.")
def chat_command(
    base_url: str | None,
    model: str,
    api_key: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
) -> None:
    """Chat with any OpenAI-compatible server.

    BASE_URL defaults to the server of these settings, HOST and PORT. On a terminal this is a conversation:
    /help lists its commands, Ctrl-C stops an answer. With a question piped in, only the answer is printed.
    """
    import asyncio

    options = {"temperature": temperature, "max_tokens": max_tokens}
    given = {key: value for key, value in options.items() if value is not None}
    with exit_on_error(), asyncio.Runner() as runner:
        server = server_at(base_url, api_key)
        if sys.stdin.isatty():
            _converse(runner, server, model, system, given)
        else:
            _answer_once(runner, server, model, system, given)


def _answer_once(
    runner: asyncio.Runner, server: Server, model: str, system: str | None, options: dict[str, Any]
) -> None:
    from vllm_engine.client.api_client import Client
    from vllm_engine.client.chat.chat_answer import AnswerView
    from vllm_engine.client.chat.chat_loop import answer
    from vllm_engine.client.chat.conversation import Conversation

    # UTF-8 in any locale, as the request is.
    question = sys.stdin.buffer.read().decode(errors="replace").strip()
    if not question:
        raise click.UsageError("expected a question on standard input, got nothing")

    async def run() -> None:
        async with Client(server) as client:
            conversation = Conversation(await _open(client, model), system, options)
            conversation.asks(question)
            view = AnswerView(console())
            await answer(client, conversation, view)
            view.end()

    runner.run(run())


def _converse(
    runner: asyncio.Runner, server: Server, model: str, system: str | None, options: dict[str, Any]
) -> None:
    import readline  # noqa: F401 - its import gives input() history and editing
    import signal
    from dataclasses import replace

    from rich.text import Text

    from vllm_engine.client.api_client import Client, ServerError
    from vllm_engine.client.chat.chat_loop import ChatLoop
    from vllm_engine.client.chat.conversation import Conversation

    client = runner.run(Client(server).__aenter__())
    try:
        try:
            name = runner.run(_open(client, model))
        except ServerError as error:
            if error.status != 401:
                raise
            key = click.prompt(f"API key for {server.url}", hide_input=True, err=True)
            runner.run(client.__aexit__(None, None, None))
            client = runner.run(Client(replace(server, api_key=key)).__aenter__())
            name = runner.run(_open(client, model))
        screen = console()
        hello = Text(f"{name} at {server.url}. /help for commands, Ctrl-D to leave.", style="dim")
        screen.print(hello, soft_wrap=True)
        ChatLoop(client, Conversation(name, system, options), screen, input).run(runner)
    finally:
        # Not restored: a user who left with Ctrl-C may press it once more while the program exits.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        runner.run(client.__aexit__(None, None, None))


async def _open(client: Client, model: str) -> str:
    """Wait until the server is ready; returns the model to ask."""
    from vllm_engine.client.api_client import ServerError
    from vllm_engine.client.wait_ready import until_ready

    def tell(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    await until_ready(client, tell, seconds=_READY_SECONDS, listening_seconds=0)
    try:
        first = await client.first_model()
    except ServerError as error:
        if not model or error.status == 401:
            raise
        return model  # it may answer even if it does not list models
    return model or first
