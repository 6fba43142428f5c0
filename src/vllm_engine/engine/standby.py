"""Keeps a process that has already imported vLLM and becomes the next engine; see `standby_process.py`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.process_tree import RECORD, Node, changes, count, importing, spawned, to_import_with
from vllm_engine.plan.engine_command import LAUNCHER, PYTHON_ENTRY, EngineCommand
from vllm_engine.system.device import free_memory_bytes
from vllm_engine.system.process_memory import session_pss_bytes

SCRIPT = Path(__file__).with_name("standby_process.py")
BYTES_IMPORTED = 700 << 20
"""What a process that has imported vLLM takes at most (measured: docs/operate/lifecycle.md)."""
BYTES_FORKED = 32 << 20
"""What a fork of it takes beside, while it waits."""
BYTES_LEFT = 4 << 30
"""Memory that `auto` leaves free."""

_BOTH = (str(LAUNCHER),)
_SETTLED_SECONDS = 3.0
"""Before the first attempt: an engine that is lost right after it was ready needs the CPUs itself."""
_IMPORT_SECONDS = 300.0
_ANSWER_SECONDS = 2.0
_MEMORY_CHECK_SECONDS = 10.0
_MOST_ATTEMPTS = 3
_STOP_SECONDS = 1.0

logger = logging.getLogger("gateway.standby")


@dataclass
class _Waiting:
    """A standby process and our end of its control socket."""

    command: EngineCommand
    children: Sequence[Node]
    process: EngineProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_standby: bool
    """Whether it waits for the loss of an engine; else it has been started for a start under way."""
    is_taken: bool = False

    def begin(self) -> None:
        """Have it import everything and be as many processes as will be needed."""
        own = self.command.environ
        order = {
            "children": self.children,
            "cpus": sorted(os.sched_getaffinity(0)),
            "own": changes(to_import_with(own, self.children), own),
            "is_urgent": not self.is_standby,
        }
        self.writer.write(json.dumps(order).encode() + b"\n")

    async def until_ready(self) -> None:
        """Wait until it has; raises an OSError if it ends."""
        async with asyncio.timeout(_IMPORT_SECONDS):
            if await self.reader.readline() != b"ready\n":
                raise OSError("it ended while it imported vLLM")

    async def become_engine(self, arguments: Sequence[str]) -> bool:
        """Tell it to be the engine; False if it does not answer."""
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
        """End it and its child processes."""
        self.writer.close()
        await self.process.stop(_STOP_SECONDS)


class Taken(NamedTuple):
    """A process that had imported vLLM in advance and is the engine now."""

    process: EngineProcess
    was_standby: bool


class Standby:
    """Has a process import vLLM in advance: for a start that is prepared, and while an engine serves.

    If anything goes wrong with it, only the time that it would have saved is lost.

    Args:
        record: the file in which an engine records the processes that it starts; in a private folder.
        mode: whether a standby is kept; auto: if memory allows.
        on_line: takes the output of a standby that has become the engine.
        tell: told how many bytes the standby takes when it is ready, and None when there is none.
        remember: given the processes that an engine has started.
    """

    def __init__(
        self,
        record: Path,
        mode: bool | Literal["auto"],
        *,
        on_line: Callable[[str], None],
        tell: Callable[[int | None], None],
        remember: Callable[[Sequence[Node]], None] = lambda _: None,
        spawn: Callable[..., Awaitable[EngineProcess]] = EngineProcess.spawn,
        free_memory: Callable[[], int] = free_memory_bytes,
    ) -> None:
        self._record = record
        self._mode = mode
        self._on_line = on_line
        self._tell = tell
        self._remember = remember
        self._spawn_process = spawn
        self._free_memory = free_memory
        self._current: _Waiting | None = None

    def entry(self, command: EngineCommand) -> EngineCommand:
        """Return the command run through `standby_process.py`; unchanged where no standby is wanted."""
        argv = list(command.argv)
        entry = next(
            (entry for entry in (PYTHON_ENTRY, _BOTH) if tuple(argv[2 : 2 + len(entry)]) == entry), None
        )
        if not self._mode or entry is None:
            return command
        argv[2 : 2 + len(entry)] = [str(SCRIPT)]
        return EngineCommand(tuple(argv), {**command.environ, RECORD: str(self._record)})

    @property
    def may_begin(self) -> bool:
        """Whether a process is wanted that imports in advance, and none is there."""
        return bool(self._mode) and self._current is None

    async def begin(self, command: EngineCommand, children: Sequence[Node]) -> None:
        """Have a process import for the start that is being prepared, whose command begins like this.

        It is the next that `take` returns, if it then has the right environment.
        """
        command = self.entry(command)
        if not self.may_begin or command.argv[2] != str(SCRIPT):
            return
        try:
            self._current = await self._spawn(command, children, is_standby=False)
            self._current.begin()
            processes = count(children)
            shared = f"; its {processes} processes will share the imports" if processes > 1 else ""
            logger.info("importing vLLM already, while the start is being prepared%s", shared)
        except OSError as error:
            logger.warning("vLLM cannot be imported in advance (%s)", error)

    async def take(self, command: EngineCommand) -> Taken | None:
        """Make the process that waits the engine; None if none is ready with the same environment."""
        # The next engine writes its own.
        self._record.unlink(missing_ok=True)
        waiting = self._current
        if waiting is None:
            return None
        if different := changes(waiting.command.environ, command.environ):
            why = f"the engine needs another {', '.join(sorted(different))}"
        else:
            why = await self._try_to_take(waiting, command)
        self._current = None
        self._tell(None)
        if not why:
            return Taken(waiting.process, waiting.is_standby)
        name = "the standby" if waiting.is_standby else "the process that imported vLLM in advance"
        logger.warning("%s cannot be used (%s): a new engine is started", name, why)
        await waiting.end()
        return None

    async def _try_to_take(self, waiting: _Waiting, command: EngineCommand) -> str:
        """Return why the process is not the engine now; empty if it is."""
        try:
            if not waiting.is_standby:
                await waiting.until_ready()
            return "" if await waiting.become_engine(command.argv[3:]) else "it does not answer"
        except (OSError, TimeoutError):
            return "it has ended, or takes too long"

    async def keep(self, command: EngineCommand, leader: int) -> None:
        """Keep a standby for the engine with the process id `leader`; never returns: cancel it.

        The engine is ready, or was until it was stopped for being idle. A standby that is there is kept.
        """
        for attempt in range(_MOST_ATTEMPTS if self._mode else 0):
            has_memory = True
            with suppress(OSError, TimeoutError):
                process = self._current.process if self._current else None
                if process is None:
                    await asyncio.sleep(_SETTLED_SECONDS * 4**attempt)
                    nodes = spawned(self._record, leader)
                    self._remember(nodes)
                    if not self._has_memory(command, nodes):
                        break
                    process = await self._start_one(command, nodes)
                has_memory = await self._until_it_ends(process)
            await self.close()
            if not has_memory:
                break
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End the standby, if there is one."""
        waiting, self._current = self._current, None
        if waiting is not None:
            self._tell(None)
            await waiting.end()

    async def _start_one(self, command: EngineCommand, nodes: Sequence[Node]) -> EngineProcess:
        waiting = await self._spawn(command, nodes, is_standby=True)
        try:
            waiting.begin()
            await waiting.until_ready()
            self._current = waiting
        finally:
            if self._current is None:
                # Perhaps the engine was lost meanwhile: the next one needs the CPUs.
                await asyncio.shield(waiting.end())
        size = await asyncio.to_thread(session_pss_bytes, waiting.process.pid)
        self._tell(size)
        logger.info("a standby is ready: %d process(es), %.0f MB", count(nodes), size / 1e6)
        return waiting.process

    async def _spawn(self, command: EngineCommand, nodes: Sequence[Node], *, is_standby: bool) -> _Waiting:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            started: list[_Waiting] = []

            def on_line(line: str) -> None:
                if started and started[0].is_taken:
                    self._on_line(line)
                else:
                    logger.debug("%s", line)

            argv = [*command.argv[:3], "--standby"]
            try:
                process = await self._spawn_process(
                    argv,
                    to_import_with(command.environ, nodes),
                    on_line=on_line,
                    cwd=Path.cwd(),
                    stdin=theirs.fileno(),
                )
            except OSError:
                writer.close()
                raise
        started.append(_Waiting(command, nodes, process, reader, writer, is_standby))
        return started[0]

    async def _until_it_ends(self, process: EngineProcess) -> bool:
        """Wait until the standby exits by itself; False if memory runs short first: the caller stops it."""
        exited = asyncio.ensure_future(process.wait())
        try:
            while not (await asyncio.wait({exited}, timeout=_MEMORY_CHECK_SECONDS))[0]:
                if self._mode == "auto" and self._free_memory() < BYTES_LEFT // 4:
                    logger.warning("stopping the standby: too little memory is available")
                    return False
            logger.warning("the standby exited unexpectedly")
            return True
        finally:
            exited.cancel()

    def _has_memory(self, command: EngineCommand, nodes: Sequence[Node]) -> bool:
        importers = importing(nodes, to_import_with(command.environ, nodes))
        needed = importers * BYTES_IMPORTED + (count(nodes) - importers) * BYTES_FORKED
        free = self._free_memory()
        if self._mode is True or free >= needed + BYTES_LEFT:
            return True
        logger.info(
            "no standby: its %d process(es) would leave less than %.1f GB of the %.1f GB available memory; "
            "set STANDBY=1 to keep one anyway",
            count(nodes),
            BYTES_LEFT / 1e9,
            free / 1e9,
        )
        return False
