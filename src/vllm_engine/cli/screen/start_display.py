"""What `serve` shows: the start on a terminal, with `--ask` an answer, and what to do next."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from rich.console import Console

from vllm_engine.cli.local_server import local_server
from vllm_engine.cli.screen import next_steps
from vllm_engine.cli.screen.live_line import live_line, phase_name
from vllm_engine.cli.screen.word_wrap import WordWrap
from vllm_engine.client.api_client import Client, Server, ServerError
from vllm_engine.client.chat.chat_answer import printable
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import EngineState, EngineStatus, StatusReader
from vllm_engine.models.download_progress import human_seconds
from vllm_engine.system.log import ENGINE_LOGGER

logger = logging.getLogger("gateway")


@dataclass(frozen=True)
class Presenter:
    """Shows one start on a console and asks the first question, if there is one.

    Off a terminal the log tells the start, and only the answer is printed, in one piece.
    """

    settings: Settings
    question: str | None
    console: Console
    engine: str = ""
    """What the model runs on, for the first line."""
    is_log_hidden: bool = False
    """Whether the log's lines below warnings are not on this screen."""

    async def __call__(self, status: StatusReader) -> None:
        """Show the start; once the engine is ready, ask and print what to do next; then say what happens."""
        began = time.monotonic()
        if self.console.is_terminal:
            status.watch(_Narrator(self, status.current).changed)
        last = await self.follow_start(status)
        while last.state is EngineState.BACKOFF:
            await _state_after(EngineState.BACKOFF, status)
            last = await self._show(status)
        if last.is_ready:
            await self._tell_ready(local_server(self.settings), last, began)

    async def follow_start(self, status: StatusReader) -> EngineStatus:
        """Show the start until it is over; returns the status at its end."""
        if self.console.is_terminal:
            self.print(f"Starting {self.settings.model_id}{self.engine} …")
        return await self._show(status)

    def print(self, text: str, end: str = "\n") -> None:
        """Print text as it is."""
        self.console.print(text, end=end, highlight=False, markup=False, emoji=False, soft_wrap=True)

    async def _show(self, status: StatusReader) -> EngineStatus:
        if not self.console.is_terminal:
            return await _state_after(EngineState.STARTING, status)
        if not self.console.is_interactive:  # TERM=dumb: nothing can be drawn anew
            return await self._lines(status)
        with live_line(self.console, status, keep_log_above=sys.stderr.isatty()):
            return await _state_after(EngineState.STARTING, status)

    async def _lines(self, status: StatusReader) -> EngineStatus:
        shown = None
        current = status.current
        async for current in _follow(EngineState.STARTING, status):
            if current.phase != shown:
                shown = current.phase
                self.print(f"{current.elapsed_seconds():6.1f} s  {phase_name(current.phase)}")
        return current

    async def _tell_ready(self, server: Server, last: EngineStatus, began: float) -> None:
        if self.console.is_terminal:
            self.print(f"Ready after {human_seconds(last.elapsed_seconds())}.\n")
            self.print(next_steps.addresses(self.settings, server.url))
        said = await self._ask(server, began) if self.question is not None else ""
        commands = [
            next_steps.curl(self.settings, server.url),
            next_steps.chat(self.settings, sys.argv[0], server.url),
        ]
        where = ", under a host name that the certificate is valid for" if server.tls else ""
        keys = next_steps.key_hint(self.settings)
        steps = "\n\n".join([f"\nTry it from another terminal{where}:", *keys, *commands])
        hint = " -v shows the log." if self.is_log_hidden else ""
        self.print(f"{said}{steps}\n\nServing at {server.url} until Ctrl-C.{hint}")

    async def _ask(self, server: Server, began: float) -> str:
        """Ask the first question; returns what is still to be printed of it."""
        head = f"\nQ: {self.question}\nA: "
        if self.console.is_terminal:
            self.print(head, end="")
        pieces: list[str] = []
        wrap = WordWrap(self.console.width - 1, len("A: "))

        def heard(text: str) -> None:
            pieces.append(printable(text))
            if self.console.is_terminal:
                self.print(wrap.feed(pieces[-1]), end="")

        try:
            first, whole, cut = await ask(server, self.settings.served_names[0], self.question or "", heard)
        except ServerError as error:
            logger.error("the first question failed: %s", error)
            return f"{wrap.flush()}\n"
        since = human_seconds(time.monotonic() - began)
        times = f"First token after {first:.2f} s, the answer after {whole:.2f} s, {since} after the start."
        rest = wrap.flush() if self.console.is_terminal else head + "".join(pieces)
        return f"{rest}{cut}\n\n{times}\n"


class _Narrator:
    """Says in a line what becomes of the server once its start has been shown."""

    def __init__(self, presenter: Presenter, status: EngineStatus) -> None:
        self._presenter = presenter
        self._before = status.state
        self._has_served = False

    def changed(self, status: EngineStatus) -> None:
        """Look at a new status."""
        before, self._before = self._before, status.state
        if status.state is before:
            return
        if status.state is EngineState.DRAINING:
            hurry = " (Ctrl-C once more ends running requests at once)" if self._has_served else ""
            self._presenter.print(f"\nStopping …{hurry}")
        elif status.state is EngineState.IDLE:
            self._presenter.print("Idle: the engine is stopped, and the next request starts it again.")
        elif status.state is EngineState.STOPPED:
            self._presenter.print("Stopped.")
        elif status.is_ready and self._has_served:
            self._presenter.print(f"Ready again after {human_seconds(status.elapsed_seconds())}.")
        self._has_served |= status.is_ready
        if self._presenter.is_log_hidden and status.state in (EngineState.STARTING, EngineState.READY):
            # During a start vLLM warns of what is usual; what it warns of later is worth reading.
            level = logging.WARNING if status.is_ready else logging.ERROR
            logging.getLogger(ENGINE_LOGGER).setLevel(level)


async def _state_after(state: EngineState, status: StatusReader) -> EngineStatus:
    return [each async for each in _follow(state, status)][-1]


async def _follow(state: EngineState, status: StatusReader) -> AsyncIterator[EngineStatus]:
    """Yield the current status and each new one, up to the first in another state."""
    changes: asyncio.Queue[EngineStatus] = asyncio.Queue()
    changes.put_nowait(status.current)
    end = status.watch(changes.put_nowait)
    try:
        while True:
            current = await changes.get()
            yield current
            if current.state is not state:
                return
    finally:
        end()


async def ask(
    server: Server, model: str, question: str, on_text: Callable[[str], None]
) -> tuple[float, float, str]:
    """Stream one chat completion.

    Returns the seconds to the first token, those to the end of the answer, and where it was cut, if it was.
    """
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "messages": messages, "max_tokens": next_steps.FIRST_ANSWER_TOKENS}
    sent = time.monotonic()
    first, cut = 0.0, ""
    async with Client(server) as client, aclosing(client.chat(body)) as answer:
        async for piece in answer:
            if piece.text:
                first = first or time.monotonic() - sent
                on_text(piece.text)
            if piece.is_cut:
                cut = f" … (stopped at {next_steps.FIRST_ANSWER_TOKENS} tokens)"
    return first, time.monotonic() - sent, cut
