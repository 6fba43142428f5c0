"""A process that has imported vLLM already and becomes the next engine; see `warm.py` for how."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.standby_process import RECORD
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.system.device import free_memory_bytes

WARM = Path(__file__).with_name("standby_process.py")
BYTES_EACH = 700 << 20
"""What a process that has imported vLLM takes at most (measured: docs/lifecycle.md)."""
BYTES_LEFT = 4 << 30
"""What `auto` leaves free for everybody else."""

_MAIN = ("-m", "vllm.entrypoints.cli.main")
_SETTLED_SECONDS = 3.0
"""An engine that is lost sooner than this after it was ready would lose its standby too."""
_IMPORT_SECONDS = 300.0
_ANSWER_SECONDS = 2.0
_LOOK_SECONDS = 10.0
_MOST_FAILURES = 3
_OWN_STOP_SECONDS = 1.0

logger = logging.getLogger("gateway.standby")


@dataclass
class _Process:
    """One standby."""

    command: EngineCommand
    process: EngineProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_taken: bool = False

    async def until_ready(self, nodes: Sequence[Any]) -> None:
        """Have it import everything; raises OSError if it ends before, TimeoutError if it takes too long."""
        self.writer.write(json.dumps(nodes).encode() + b"\n")
        async with asyncio.timeout(_IMPORT_SECONDS):
            if await self.reader.readline() != b"ready\n":
                raise OSError("it ended while it imported vLLM")

    async def go(self, arguments: Sequence[str]) -> bool:
        """Have it be the engine; False if it does not answer."""
        self.is_taken = True
        self.writer.write(json.dumps({"arguments": list(arguments)}).encode() + b"\n")
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self.reader.readline() == b"going\n"
        except (OSError, TimeoutError):
            return False
        finally:
            self.writer.close()

    async def end(self) -> None:
        """End it, and all that it has started."""
        self.writer.close()
        await self.process.stop(_OWN_STOP_SECONDS)


class Standby:
    """Keeps one standby while an engine serves, and hands it over when the next one is wanted.

    Whatever goes wrong with it costs the time that it would have saved and nothing else.
    """

    def __init__(
        self,
        record: Path,
        mode: bool | Literal["auto"],
        *,
        on_line: Callable[[str], None],
        tell: Callable[[int | None], None],
    ) -> None:
        """Make it.

        Args:
            record: where engines write down what processes they start; in a folder of our own.
            mode: whether there is one; auto: if memory allows.
            on_line: takes the lines of a standby that has become the engine.
            tell: told how many bytes it takes when it is ready, None when there is none any more.
        """
        self._record = record
        self._mode = mode
        self._on_line = on_line
        self._tell = tell
        self._current: _Process | None = None

    def entry(self, command: EngineCommand) -> EngineCommand:
        """Return the command by way of `warm.py`; unchanged where no standby is wanted."""
        argv = list(command.argv)
        if not self._mode or tuple(argv[2:4]) != _MAIN:
            return command
        argv[2:4] = [str(WARM)]
        return EngineCommand(tuple(argv), {**command.environ, RECORD: str(self._record)})

    async def take(self, command: EngineCommand) -> EngineProcess | None:
        """Make the standby the engine; None if there is none that is ready and of the same environment."""
        one, self._current = self._current, None
        # The next engine writes its own.
        self._record.unlink(missing_ok=True)
        if one is not None:
            self._tell(None)
            if one.command.environ == command.environ and await one.go(command.argv[3:]):
                return one.process
            logger.warning("the standby is of no use: a new engine is started")
            await one.end()
        return None

    async def keep(self, command: EngineCommand, leader: int) -> None:
        """Keep a standby for the engine `leader`, which is ready; cancelled when that is lost."""
        failures = 0
        is_refused = not self._mode
        while failures < _MOST_FAILURES and not is_refused:
            await asyncio.sleep(_SETTLED_SECONDS * 4**failures)
            nodes = spawned(self._record, leader)
            is_refused = not self._has_room(_count(nodes))
            if not is_refused:
                failures += 1
                with suppress(OSError, TimeoutError):
                    await self._have_one(command, nodes)
                    is_refused = await self._until_it_ends()
                await self.close()
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End it, if there is one."""
        one, self._current = self._current, None
        if one is not None:
            self._tell(None)
            await one.end()

    async def _have_one(self, command: EngineCommand, nodes: Sequence[Any]) -> None:
        one = await self._spawn(command)
        try:
            await one.until_ready(nodes)
            self._current = one
        finally:
            if self._current is None:
                # Perhaps the engine was lost meanwhile: a new one has better use for the cores.
                await asyncio.shield(one.end())
        size = await asyncio.to_thread(session_bytes, one.process.pid)
        self._tell(size)
        logger.info("a standby is ready: %d process(es), %.0f MB", _count(nodes), size / 1e6)

    async def _spawn(self, command: EngineCommand) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            made: list[_Process] = []

            def on_line(line: str) -> None:
                if made and made[0].is_taken:
                    self._on_line(line)
                else:
                    logger.debug("%s", line)

            argv = [*command.argv[:3], "--standby"]
            try:
                process = await EngineProcess.spawn(
                    argv, command.environ, on_line=on_line, cwd=Path.cwd(), stdin=theirs.fileno()
                )
            except OSError:
                writer.close()
                raise
        made.append(_Process(command, process, reader, writer))
        return made[0]

    async def _until_it_ends(self) -> bool:
        """Wait until the standby ends by itself; True if it was let go because memory has become short."""
        assert self._current is not None  # noqa: S101 - called with one
        exited = asyncio.ensure_future(self._current.process.wait())
        try:
            while not (await asyncio.wait({exited}, timeout=_LOOK_SECONDS))[0]:
                if self._mode == "auto" and free_memory_bytes() < BYTES_LEFT // 4:
                    logger.warning("the standby is let go: memory has become short")
                    return True
            logger.warning("the standby ended by itself")
            return False
        finally:
            exited.cancel()

    def _has_room(self, processes: int) -> bool:
        wanted = processes * BYTES_EACH + BYTES_LEFT
        if self._mode is True or free_memory_bytes() >= wanted:
            return True
        logger.info(
            "no standby: %d process(es) would leave too little of %.1f GB free memory; STANDBY=1 insists",
            processes,
            free_memory_bytes() / 1e9,
        )
        return False


def spawned(record: Path, leader: int) -> list[dict[str, Any]]:
    """Return what processes the engine `leader` has started, as `warm.py` wants to be told it."""
    try:
        notes = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []

    def below(pid: int) -> list[dict[str, Any]]:
        return [
            {"set": note["set"], "unset": note["unset"], "children": below(note["pid"])}
            for note in notes
            if note["parent"] == pid
        ]

    return below(leader)


def session_bytes(leader: int, proc: Path = Path("/proc")) -> int:
    """Return the memory that the processes of a session take, each shared page counted once over all."""
    return sum(_proportional(proc / str(pid)) for pid in _session(leader, proc))


def _session(leader: int, proc: Path) -> Iterable[int]:
    for entry in proc.iterdir():
        with suppress(OSError, ValueError, IndexError):
            # proc(5): the fields after the name in parentheses; the fourth of them is the session.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                yield int(entry.name)


def _proportional(folder: Path) -> int:
    with suppress(OSError):
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _count(nodes: Sequence[Any]) -> int:
    return 1 + sum(_count(node["children"]) for node in nodes)
