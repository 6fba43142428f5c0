"""What a person sees of a download: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from vllm_engine.models.download_progress import Download, human_bytes

_LINE_SECONDS = 10.0


class DownloadView:
    """Shows one download; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._said = -_LINE_SECONDS

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def download(self, seen: Download) -> None:
        """Show how far a download is."""
        self._show("downloading", seen.bytes_done, seen.bytes_total, str(seen))

    def convert(self, done: int, total: int) -> None:
        """Show how many bytes of the bundled model's weights are converted."""
        self._show("converting", done, total, f"{human_bytes(done)} of {human_bytes(total)}")

    def note(self, words: str) -> None:
        """Say what happened to one file."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _show(self, what: str, done: int, total: int | None, detail: str) -> None:
        if not self._console.is_terminal:
            if time.monotonic() - self._said >= _LINE_SECONDS:
                self._said = time.monotonic()
                self.note(f"{what}: {detail}")
            return
        if self._task is None:
            self._task = self._bar.add_task(what, detail="")
        self._bar.update(self._task, completed=done, total=total, detail=detail)
