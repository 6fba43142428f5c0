"""`vllm-engine chat`."""

from __future__ import annotations

import sys

import click

from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.target import server_at, takes_server


@click.command("chat")
@takes_server
@click.option("--system", help="The system prompt.")
@click.option(
    "--temperature", type=click.FloatRange(0), help="0 for the most likely answer. Default: the server's."
)
@click.option("--max-tokens", type=click.IntRange(1), help="Per answer. Default: the server's.")
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

    from vllm_engine.cli.chat_session import answer_once, converse
    from vllm_engine.client.chat.conversation import Conversation

    options = {"temperature": temperature, "max_tokens": max_tokens}
    given = {key: value for key, value in options.items() if value is not None}
    conversation = Conversation(model, system, given)
    with exit_on_error(), asyncio.Runner() as runner:
        server = server_at(base_url, api_key)
        if sys.stdin.isatty():
            converse(runner, server, conversation)
        else:
            runner.run(answer_once(server, conversation))
