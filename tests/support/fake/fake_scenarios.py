"""What a fake engine shall do: one frozen, JSON-able dataclass, and how it travels to the child."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

SCENARIO_VARIABLE = "FAKE_ENGINE_SCENARIO"
"""Names a scenario file; without it the fake reads `scenario.json` beside its own `bin`."""

LOGS = Path(__file__).parents[2] / "data" / "logs"

Chatter = Literal["many", "long", "binary"]


@dataclass(frozen=True)
class Scenario:
    """A well-behaved engine, unless told otherwise.

    The fake reads its scenario when it starts and again before each request, so a test can make a healthy
    engine misbehave (see `write_scenario`). What concerns the start is only read at the start.
    """

    # --- the start
    startup_log: str = "cpu-0.32-eager-python-frontend.log"
    """A real log, by name in tests/data/logs or by path: its start is replayed, with our pids and clock."""
    startup_seconds: float = 0.0
    """How long the replay takes; its lines keep their real proportions in time."""
    not_both: str = ""
    """Why the launcher of both frontends falls back to the Python frontend; empty: it does not."""
    never_joins: bool = False
    """As a node without an API, never meet the head."""
    fetch_weights: bool = False
    """Have the hub client fetch the model before the first shard is read; it must be among the packages."""
    never_ready: bool = False
    """Bind the socket but never listen on it, which is how vLLM looks while it loads."""
    die_at_start: int | None = None
    """End after the start's last line with this exit status; a negative one is a signal sent to itself."""
    dies_times: int | None = None
    """How many starts of this scenario file die so; None means each."""
    last_lines: tuple[str, ...] = ()
    """Written to stderr just before an end that this scenario asks for."""

    # --- the process
    exit_after_seconds: float | None = None
    """End so long after becoming ready."""
    exit_code: int = 1
    """The status of that end."""
    ignore_sigterm: bool = False
    complain_at_stop: bool = False
    """Say at a stop that the engine core is dead, as vLLM does when it loses that race."""
    fork_orphan: bool = False
    """Have the engine core start a worker that ignores SIGTERM and outlives everybody."""
    chatter: tuple[Chatter, ...] = ()
    """Before it listens. many: 20 000 lines; long: a line of 4 MB; binary: bytes that are not UTF-8."""

    # --- the answers
    tokens: int = 16
    """Generated for each choice, unless the request asks for fewer."""
    text: str | None = None
    """What is said, in as many tokens as it has words, instead of `tokens` of the usual ones."""
    reasoning_tokens: int = 0
    """So many of the first are reasoning; in streamed chats only."""
    tokens_per_second: float = 0.0
    """0 is as fast as it goes."""
    first_token_seconds: float = 0.0
    max_running: int = 256
    """Further requests wait, and are counted as waiting."""
    generation_hangs: bool = False
    """Only generation hangs; `/health` says 200, as with a stuck engine core."""
    health_ok_but_generation_fails: bool = False
    error_status: int | None = None
    """Answer each generation request with this status and vLLM's error body."""
    error_headers: Mapping[str, str] = field(default_factory=dict)
    crash_after_n_chunks: int | None = None
    """Send itself SIGKILL when a request has been given so many tokens."""
    cut_after_n_chunks: int | None = None
    """Close the connection then, without an end, as the Rust frontend does."""
    error_after_n_chunks: int | None = None
    """Say with an error event then that generation failed."""
    stall_after_n_chunks: int | None = None
    """Send no more then, and keep the connection open."""


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file; a key that no scenario has is an error."""
    return _from_json(json.loads(path.read_text(encoding="utf-8")))


def write_scenario(path: Path, scenario: Mapping[str, Any] | Scenario) -> Path:
    """Write a scenario file, in one step, so that a running fake never reads half of one."""
    if not isinstance(scenario, Scenario):
        scenario = _from_json(dict(scenario))
    staged = path.with_suffix(".staged")
    staged.write_text(json.dumps(asdict(scenario)), encoding="utf-8")
    staged.replace(path)
    return path


def change_scenario(path: Path, **changes: Any) -> Scenario:
    """Change some keys of a scenario file; the fake that runs with it obeys from its next request on."""
    scenario = replace(load_scenario(path), **changes)
    write_scenario(path, scenario)
    return scenario


def start_pids(path: Path) -> list[int]:
    """Return the pid of every fake that was started with this scenario file, oldest first."""
    record = path.with_suffix(".starts")
    return [int(line) for line in record.read_text().split()] if record.exists() else []


def record_start(path: Path) -> int:
    """Note that this process started with the scenario file; returns how many have, it included."""
    with path.with_suffix(".starts").open("a") as record:
        record.write(f"{os.getpid()}\n")
    return len(start_pids(path))


class LiveScenario:
    """The scenario as its file says now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = 0
        self._scenario = Scenario()

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self._path

    def now(self) -> Scenario:
        """Return it, read again only if the file is another one."""
        # Each write makes a new file, so the inode tells two writes within one tick of the clock apart.
        status = self._path.stat()
        stamp = hash((status.st_ino, status.st_mtime_ns, status.st_size))
        if stamp != self._stamp:
            self._stamp, self._scenario = stamp, load_scenario(self._path)
        return self._scenario


def _from_json(values: dict[str, Any]) -> Scenario:
    known = {item.name for item in fields(Scenario)}
    if unknown := values.keys() - known:
        raise ValueError(f"no scenario has {sorted(unknown)}; known are {sorted(known)}")
    for name in ("last_lines", "chatter"):
        if name in values:
            values[name] = tuple(values[name])
    return Scenario(**values)
