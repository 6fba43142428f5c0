"""The loop of questions and answers; Ctrl-C stops an answer, and twice in a row at the prompt the program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from rich.console import Console

from vllm_engine.client.api_client import Client, ServerError
from vllm_engine.client.chat.chat_answer import AnswerView
from vllm_engine.client.chat.conversation import Conversation
from vllm_engine.client.chat.interrupts import interrupts

PROMPT = "> "
CONTINUED = "… "
HELP = """\
/clear          begin anew
/retry          another answer to the last question
/system TEXT    set the system prompt; without TEXT remove it
/exit           leave, as Ctrl-D does
A line that ends in \\ goes on in the next. Ctrl-C stops an answer."""

ReadLine = Callable[[str], str]
"""Shows a prompt and returns a line; raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""


async def answer(client: Client, conversation: Conversation, view: AnswerView) -> None:
    """Get the next answer and note it; what came of one that was stopped is noted too.

    Raises:
        ServerError: the server refuses or breaks off.
    """
    try:
        async with aclosing(client.chat(conversation.body)) as pieces:
            await view.show(pieces)
    finally:
        if view.text:
            conversation.answered(view.text)


class ChatLoop:
    """A person's side of a conversation."""

    def __init__(self, client: Client, conversation: Conversation, console: Console, read: ReadLine) -> None:
        self._client = client
        self._conversation = conversation
        self._console = console
        self._read = read

    def run(self, runner: asyncio.Runner) -> None:
        """Read and answer until the user leaves; errors of the server are shown and end nothing."""
        with interrupts(heard=False):
            self._converse(runner)

    def _converse(self, runner: asyncio.Runner) -> None:
        interrupted = False
        while True:
            try:
                with interrupts(heard=True):
                    line = self._question()
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                self._note("\nCtrl-D or /exit leaves, and so does Ctrl-C once more.")
                interrupted = True
                continue
            interrupted = False
            if line in ("/exit", "/quit"):
                return
            if self._takes(line):
                self._answer(runner)

    def _question(self) -> str:
        lines = [self._read(PROMPT)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read(CONTINUED))
        return "\n".join(lines).strip()

    def _takes(self, line: str) -> bool:
        """Carry out a command or note a question; returns whether an answer is due."""
        if not line.startswith("/"):
            if line:
                self._conversation.asks(line)
            return bool(line)
        name, _, rest = line.partition(" ")
        if name == "/retry":
            return self._conversation.reopen()
        if name == "/clear":
            self._conversation.forget()
            self._note("cleared")
        elif name == "/system":
            self._conversation.system = rest.strip() or None
            self._note("system prompt set" if rest.strip() else "no system prompt")
        else:
            self._note(HELP)
        return False

    def _answer(self, runner: asyncio.Runner) -> None:
        view = AnswerView(self._console)
        try:
            with interrupts(heard=True):
                runner.run(answer(self._client, self._conversation, view))
        except KeyboardInterrupt:
            view.end("stopped")
        except ServerError as error:
            view.end(str(error))
        else:
            view.end()

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False, markup=False)
