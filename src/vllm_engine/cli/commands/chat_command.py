"""`vllm-engine chat`."""

from __future__ import annotations

import sys

import click

from vllm_engine.cli.exit_status import exit_on_error
from vllm_engine.cli.target import server_at, takes_server, url_and_words, with_next_step


@click.command("chat")
@click.argument("words", nargs=-1, metavar="[BASE_URL] [QUESTION]")
@takes_server
@click.option("-s", "--system", help="The system prompt.")
@click.option(
    "--temperature", type=click.FloatRange(0), help="0 for the most likely answer. Default: the server's."
)
@click.option("--max-tokens", type=click.IntRange(1), help="Per answer. Default: the server's.")
def chat_command(
    words: tuple[str, ...],
    model: str,
    api_key: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
) -> None:
    """Chat with any OpenAI-compatible server.

    With a QUESTION, as an argument, piped in, or both, it prints the answer and exits. Without one it is a
    conversation: /help lists its commands, Ctrl-C stops an answer. BASE_URL defaults to the server of these
    settings, HOST and PORT.
    """
    import asyncio

    from vllm_engine.cli.chat_session import answer_once, converse
    from vllm_engine.client.chat.conversation import Conversation

    options = {"temperature": temperature, "max_tokens": max_tokens}
    given = {key: value for key, value in options.items() if value is not None}
    conversation = Conversation(model, system, given)
    url, question = url_and_words(words)
    with exit_on_error(), with_next_step(), asyncio.Runner() as runner:
        server = server_at(url, api_key)
        if sys.stdin.isatty() and not question:
            converse(runner, server, conversation)
        else:
            # UTF-8 in any locale, as the request is.
            piped = "" if sys.stdin.isatty() else sys.stdin.buffer.read().decode(errors="replace")
            text = "\n\n".join(filter(None, (piped.strip(), " ".join(question).strip())))
            runner.run(answer_once(server, conversation, text))
