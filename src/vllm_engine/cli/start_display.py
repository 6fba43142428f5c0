"""What a person sees of `serve`: the start as it goes; with `--ask` one answer and lines to paste."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vllm_engine.cli.first_question import ask, follow, recipes
from vllm_engine.cli.local_server import client_url, first_key
from vllm_engine.client.api_client import ServerError
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import EngineStatus, Phase, StatusReader
from vllm_engine.engine.startup.estimate import Estimate, estimate
from vllm_engine.gateway.http.tls import client_context
from vllm_engine.models.download_progress import human_seconds

logger = logging.getLogger("gateway")

_TICK_SECONDS = 0.25
_TRUST = """\
Clients must trust the certificate in TLS_CERT_FILE (curl: --cacert) and use a name that it is for.

"""


@dataclass(frozen=True)
class Presenter:
    """Follows one start on a console and puts the first question, if there is one."""

    settings: Settings
    question: str | None
    console: Console

    async def __call__(self, status: StatusReader) -> None:
        """Show the start; once ready, ask and print what to do next."""
        began = time.monotonic()
        last = await self.follow_start(status)
        if not last.is_ready:
            return
        cert = self.settings.tls_cert_file
        base_url = client_url(self.settings.host, self.settings.port, is_tls=cert is not None)
        if self.question is None:
            self.console.print(f"Serving at {base_url} until Ctrl-C.", highlight=False, soft_wrap=True)
        else:
            await self._ask(self.question, base_url, began)

    async def follow_start(self, status: StatusReader) -> EngineStatus:
        """Show the start to its end; returns how it ended."""
        self.console.print(f"Starting {self.settings.model_id} …", highlight=False)
        return await (self._bar(status) if self.console.is_terminal else self._lines(status))

    async def _ask(self, question: str, base_url: str, began: float) -> None:
        cert = self.settings.tls_cert_file
        # The one who answers is ourselves, so this very certificate is to be trusted, and no other.
        trusted = client_context(cert) if cert else None
        name = self.settings.served_names[0]
        self.console.print(f"\nQ: {question}\nA: ", end="", highlight=False, markup=False)
        try:
            answer = await ask(base_url, name, question, self._piece, first_key(self.settings), trusted)
        except ServerError as error:
            self.console.print()
            logger.error("the first question failed: %s", error)
            return
        self.console.print(
            f"\n\nFirst token after {answer.first_token_seconds:.2f} s, whole answer after "
            f"{answer.seconds:.2f} s; {time.monotonic() - began:.1f} s since the start.\n\n"
            f"Try it from another terminal, with curl or Python:\n\n{recipes(base_url, name)}\n"
            f"{_TRUST if cert else ''}Serving at {base_url} until Ctrl-C.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _piece(self, text: str) -> None:
        self.console.print(text, end="", highlight=False, markup=False, soft_wrap=True)

    async def _lines(self, status: StatusReader) -> EngineStatus:
        said = None
        current = status.current
        async for current in follow(status):
            if current.phase != said:
                said = current.phase
                seconds = current.elapsed_seconds()
                self.console.print(f"{seconds:6.1f} s  {current.phase}", highlight=False)
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
                async for current in follow(status):
                    bar.show(current)
            finally:
                ticking.cancel()
        if current.is_ready:
            self.console.print(f"Ready after {current.elapsed_seconds():.1f} s.", highlight=False)
        return current


class _Bar:
    """The whole start's bar if an earlier start tells how long it takes, else one for each phase."""

    def __init__(self, progress: Progress, status: StatusReader) -> None:
        self._progress = progress
        self._status = status
        self._task = progress.add_task("", total=None, detail="")

    async def tick(self) -> None:
        """Move on between two changes."""
        while True:
            self.show(self._status.current)
            await asyncio.sleep(_TICK_SECONDS)

    def show(self, status: EngineStatus) -> None:
        """Draw a snapshot."""
        forecast = estimate(status, time.monotonic())
        fraction = forecast.fraction if forecast else status.fraction
        self._progress.update(
            self._task,
            description=status.phase.value,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            detail=bar_detail(status, forecast),
        )


def bar_detail(status: EngineStatus, forecast: Estimate | None) -> str:
    """Say beside the bar what is known: the download, or how long the start will still take."""
    if status.phase is Phase.DOWNLOADING and status.download is not None:
        return str(status.download)
    return f"about {human_seconds(forecast.remaining_seconds)} left" if forecast else ""
