"""What a person sees of `serve --ask`: the start as it goes, one answer, lines to paste."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import aiohttp
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vllm_engine.ask import ask, client_url, follow, recipes
from vllm_engine.engine.state import EngineStatus, StatusReader
from vllm_engine.gateway.tls import client_context
from vllm_engine.settings import Settings

_TRUST = """\
Clients must trust the certificate in TLS_CERT_FILE (curl: --cacert) and use a name that it is for.

"""


@dataclass(frozen=True)
class Presenter:
    """Follows one start on a console and puts the first question."""

    settings: Settings
    question: str
    console: Console

    async def __call__(self, status: StatusReader) -> None:
        """Show the start; once ready, ask and print what to do next."""
        began = time.monotonic()
        self.console.print(f"Starting {self.settings.model_id} …", highlight=False)
        last = await (self._bar(status) if self.console.is_terminal else self._lines(status))
        if not last.is_ready:
            return
        cert = self.settings.tls_cert_file
        base_url = client_url(self.settings.host, self.settings.port, is_tls=cert is not None)
        # The one who answers is ourselves, so this very certificate is to be trusted, and no other.
        trusted = client_context(cert) if cert else None
        name = self.settings.served_names[0]
        self.console.print(f"\nQ: {self.question}\nA: ", end="", highlight=False, markup=False)
        try:
            answer = await ask(base_url, name, self.question, self._piece, trusted)
        except aiohttp.ClientError as error:
            self.console.print(f"\nThe first question failed: {error}", highlight=False, markup=False)
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
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        current = status.current
        with Progress(*columns, console=self.console, transient=False) as progress:
            task = progress.add_task(str(current.phase), total=None)
            async for current in follow(status):
                fraction = current.fraction
                progress.update(
                    task,
                    description=f"{current.phase:<18}",
                    total=None if fraction is None else 1.0,
                    completed=fraction or 0.0,
                )
            progress.update(task, total=1.0, completed=1.0)
            await asyncio.sleep(0)
        return current
