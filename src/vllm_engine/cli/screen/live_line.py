"""The one line that shows how far a start is: phase, seconds, a bar, and what is left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vllm_engine.engine.engine_state import EngineStatus, Phase, StatusReader
from vllm_engine.engine.startup.start_history import estimate
from vllm_engine.models.download_progress import human_seconds

_REFRESHES_PER_SECOND = 4
_LEAST_BAR, _MOST_BAR = 8, 30
_GAP = 2
_NAMES: Mapping[Phase, str] = {Phase.IMPORTING: "importing vLLM"}


def phase_name(phase: Phase) -> str:
    """Return what a phase is called on a screen."""
    return _NAMES.get(phase, phase.value)


def live_line(console: Console, status: StatusReader, *, keep_log_above: bool) -> Live:
    """Return the line, drawn anew by itself while it is entered and erased when it is left.

    `keep_log_above` is whether standard error is on the same screen.
    """
    spinner = Spinner("line" if console.options.ascii_only else "dots")

    def render() -> RenderableType:
        now = time.monotonic()
        frame = spinner.render(now)
        text = frame if isinstance(frame, Text) else Text("")
        return start_line(status.current, now, console.width, text)

    return Live(
        get_renderable=render,
        console=console,
        transient=True,
        refresh_per_second=_REFRESHES_PER_SECOND,
        redirect_stdout=False,
        redirect_stderr=keep_log_above,
    )


def start_line(status: EngineStatus, now: float, width: int, spinner: Text) -> RenderableType:
    """Draw it for a screen of this width; the bar has what room is left, and is left out without any."""
    forecast = estimate(status, now)
    fraction = forecast.fraction if forecast else status.fraction
    if status.phase is Phase.DOWNLOADING and status.download is not None:
        detail = status.download.amount
        fraction = status.download.fraction
    else:
        detail = f"about {human_seconds(forecast.remaining_seconds)} left" if forecast else ""
    parts = [phase_name(status.phase), human_seconds(max(0.0, now - status.started)), detail]
    room = width - 1 - len(spinner) - sum(_GAP + len(part) for part in parts if part) - _GAP
    if room < _LEAST_BAR:
        words = Text(f"{spinner.plain} {(' ' * _GAP).join(filter(None, parts))}")
        words.truncate(width - 1)
        return words
    bar = ProgressBar(
        total=None if fraction is None else 1.0,
        completed=fraction or 0.0,
        width=min(_MOST_BAR, room),
        pulse=fraction is None,
    )
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_row(spinner, Text(parts[0]), Text(parts[1]), bar, Text(detail))
    return grid
