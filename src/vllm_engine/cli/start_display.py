"""What `serve` shows on a console: the progress of the start and, with `--ask`, one answer and examples."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vllm_engine.cli.local_server import local_server
from vllm_engine.client.api_client import Client, Server, ServerError
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import EngineState, EngineStatus, Phase, StatusReader
from vllm_engine.engine.startup.start_history import Estimate, estimate
from vllm_engine.models.download_progress import human_seconds

logger = logging.getLogger("gateway")

_TICK_SECONDS = 0.25
_MAX_TOKENS = 64
_TRUST = """\
Clients must trust the certificate in TLS_CERT_FILE (curl: --cacert) and use a host name that it is valid for.

"""


@dataclass(frozen=True)
class Presenter:
    """Shows one start on a console and asks the first question, if there is one."""

    settings: Settings
    question: str | None
    console: Console

    async def __call__(self, status: StatusReader) -> None:
        """Show the start; once the engine is ready, ask and print what to do next."""
        began = time.monotonic()
        last = await self.follow_start(status)
        if not last.is_ready:
            return
        server = local_server(self.settings)
        if self.question is not None:
            await self._ask_first(self.question, server, began)
        else:
            self.console.print(f"Serving at {server.url} until Ctrl-C.", highlight=False, soft_wrap=True)

    async def follow_start(self, status: StatusReader) -> EngineStatus:
        """Show the start until it is over; returns the status at its end."""
        self.console.print(f"Starting {self.settings.model_id} …", highlight=False)
        return await (self._bar(status) if self.console.is_terminal else self._lines(status))

    async def _ask_first(self, question: str, server: Server, began: float) -> None:
        name = self.settings.served_names[0]
        self._print(f"\nQ: {question}\nA: ", end="")
        try:
            first, whole = await _ask(server, name, question, lambda text: self._print(text, end=""))
        except ServerError as error:
            self.console.print()
            logger.error("the first question failed: %s", error)
            return
        self._print(
            f"\n\nFirst token after {first:.2f} s, complete answer after {whole:.2f} s; "
            f"{time.monotonic() - began:.1f} s since the start.\n\n"
            f"Try it from another terminal, with curl or Python:\n\n{_examples(server.url, name)}\n"
            f"{_TRUST if server.tls else ''}Serving at {server.url} until Ctrl-C."
        )

    def _print(self, text: str, end: str = "\n") -> None:
        self.console.print(text, end=end, highlight=False, markup=False, soft_wrap=True)

    async def _lines(self, status: StatusReader) -> EngineStatus:
        shown = None
        current = status.current
        async for current in _follow(status):
            if current.phase != shown:
                shown = current.phase
                self.console.print(f"{current.elapsed_seconds():6.1f} s  {current.phase}", highlight=False)
        return current

    async def _bar(self, status: StatusReader) -> EngineStatus:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        current = status.current
        # Log lines go above the bar, but only those that would be on this terminal anyway.
        above = sys.stderr.isatty()
        with Progress(*columns, console=self.console, transient=True, redirect_stderr=above) as progress:
            bar = _Bar(progress, status)
            ticking = asyncio.create_task(bar.tick())
            try:
                async for current in _follow(status):
                    bar.show(current)
            finally:
                ticking.cancel()
        if current.is_ready:
            self.console.print(f"Ready after {current.elapsed_seconds():.1f} s.", highlight=False)
        return current


async def _follow(status: StatusReader) -> AsyncIterator[EngineStatus]:
    """Yield the current status, and each new one until the start is over."""
    changes: asyncio.Queue[EngineStatus] = asyncio.Queue()
    changes.put_nowait(status.current)
    end = status.watch(changes.put_nowait)
    try:
        while True:
            current = await changes.get()
            yield current
            if current.state is not EngineState.STARTING:
                return
    finally:
        end()


class _Bar:
    """One bar for the whole start if an earlier start says how long it takes, else one for each phase."""

    def __init__(self, progress: Progress, status: StatusReader) -> None:
        self._progress = progress
        self._status = status
        self._task = progress.add_task("", total=None, detail="")

    async def tick(self) -> None:
        while True:
            self.show(self._status.current)
            await asyncio.sleep(_TICK_SECONDS)

    def show(self, status: EngineStatus) -> None:
        forecast = estimate(status, time.monotonic())
        fraction = forecast.fraction if forecast else status.fraction
        self._progress.update(
            self._task,
            description=status.phase.value,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            detail=_detail(status, forecast),
        )


def _detail(status: EngineStatus, forecast: Estimate | None) -> str:
    if status.phase is Phase.DOWNLOADING and status.download is not None:
        return str(status.download)
    return f"about {human_seconds(forecast.remaining_seconds)} left" if forecast else ""


async def _ask(
    server: Server, model: str, question: str, on_text: Callable[[str], None]
) -> tuple[float, float]:
    """Stream one chat completion; returns the seconds to the first token and to the end of the answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
    }
    sent = time.monotonic()
    first = 0.0
    async with Client(server) as client, aclosing(client.chat(body)) as answer:
        async for piece in answer:
            if piece.text:
                first = first or time.monotonic() - sent
                on_text(piece.text)
    return first, time.monotonic() - sent


def _examples(base_url: str, model: str) -> str:
    return f"""\
curl {base_url}/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Tell me a joke."}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{base_url}/v1", api_key="none")
chat = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "Tell me a joke."}}]
)
print(chat.choices[0].message.content)
"""
