"""A conversation in a terminal; Ctrl-C stops an answer, and twice in a row at the prompt the program."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

from rich.console import Console

from vllm_engine.client.api_client import Client, ServerError
from vllm_engine.client.chat.chat_answer import AnswerView
from vllm_engine.client.chat.conversation import Conversation

PROMPT = "> "
CONTINUED = "… "
HELP = """\
/clear          start a new conversation
/retry          get another answer to the last question
/system TEXT    set the system prompt; without TEXT remove it
/exit           exit, as Ctrl-D does
A line that ends in \\ continues on the next. Ctrl-C stops an answer."""

ReadLine = Callable[[str], str]
"""Shows a prompt and returns a line; raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""


@contextmanager
def interrupts(*, enabled: bool) -> Iterator[None]:
    """Turn SIGINT into KeyboardInterrupt or ignore it; restore its handler afterwards.

    A Ctrl-C between a question and its answer must not end the program. Only the main thread may set
    handlers. `asyncio.Runner` cancels its task on SIGINT only if it is not ignored.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler if enabled else signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def answer(client: Client, conversation: Conversation, view: AnswerView) -> None:
    """Show the next answer and add it to the conversation, or as much of it as came.

    Raises:
        ServerError: the server rejects the request or breaks off.
    """
    try:
        async with aclosing(client.chat(conversation.body)) as pieces:
            await view.show(pieces)
    finally:
        if view.text:
            conversation.answered(view.text)


class ChatLoop:
    """Reads questions and commands, and shows answers."""

    def __init__(self, client: Client, conversation: Conversation, console: Console, read: ReadLine) -> None:
        self._client = client
        self._conversation = conversation
        self._console = console
        self._read = read

    def run(self, runner: asyncio.Runner) -> None:
        """Read and answer until the user exits; errors of the server are shown and do not end it."""
        with interrupts(enabled=False):
            self._converse(runner)

    def _converse(self, runner: asyncio.Runner) -> None:
        interrupted = False
        while True:
            try:
                with interrupts(enabled=True):
                    line = self._question()
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                if interrupted:
                    return
                self._note("\nPress Ctrl-C once more, or Ctrl-D, to exit.")
                interrupted = True
                continue
            interrupted = False
            if line in ("/exit", "/quit"):
                return
            if self._handle(line):
                self._answer(runner)

    def _question(self) -> str:
        lines = [self._read(PROMPT)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read(CONTINUED))
        return "\n".join(lines).strip()

    def _handle(self, line: str) -> bool:
        """Run a command or add a question; returns whether to ask the server."""
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
            with interrupts(enabled=True):
                runner.run(answer(self._client, self._conversation, view))
        except KeyboardInterrupt:
            view.end("stopped")
        except ServerError as error:
            view.end(str(error))
        else:
            view.end()

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", highlight=False, markup=False)
