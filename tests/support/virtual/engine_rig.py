"""A supervisor's outside, played in virtual time: processes, the engine's API, and standbys."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import ControlClient, ControlError, Health, NotAskedError
from vllm_engine.plan.engine_command import RUST_SOCKET, EngineCommand

COMMAND = EngineCommand(("python", "-P", "-m", "vllm.entrypoints.cli.main", "serve", "m"), {"A": "1"})


@dataclass
class Life:
    """What one engine does: when it is up, how long tokens take, and when and how it exits."""

    up_after: float = 5.0
    rust_later: float = 0.0
    """How much later its Rust frontend is up, where both run."""
    frontends: str | None = None
    """What its launcher writes of both frontends; None: nothing."""
    token_seconds: float | None = 0.1
    """None: no token ever comes."""
    exits_after: float | None = None
    status: int = 1
    tail: tuple[str, ...] = ()
    health: Health = Health.GOOD
    """Once it is up."""
    fails: bool = False
    """Whether it answers a request for a token with an error."""
    spawn_error: OSError | None = None
    stop_seconds: float = 0.0
    """How long it takes to stop."""


@dataclass
class Process:
    """A played `EngineProcess`; it ends by itself, or when it is stopped or reaped."""

    pid: int
    life: Life
    born: float
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self.life.exits_after is not None:
            asyncio.get_running_loop().call_later(self.life.exits_after, self.exit, self.life.status)

    @property
    def real(self) -> EngineProcess:
        return cast(EngineProcess, self)

    @property
    def tail(self) -> tuple[str, ...]:
        return self.life.tail

    @property
    def is_running(self) -> bool:
        return not self._exit.done()

    def exit(self, status: int) -> None:
        if not self._exit.done():
            self._exit.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self._exit)

    async def stop(self, grace_seconds: float) -> int:
        self.ended.append(f"stop {grace_seconds:g}")
        await asyncio.sleep(self.life.stop_seconds)
        self.exit(-15)
        return await self.wait()

    async def reap(self) -> int:
        self.ended.append("reap")
        self.exit(-9)
        return await self.wait()


class Client:
    """A played `ControlClient`."""

    def __init__(self, process: Process, later: float = 0.0) -> None:
        self.process, self._later = process, later

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def health(self) -> Health:
        now, life = asyncio.get_running_loop().time(), self.process.life
        if not self.process.is_running or now < self.process.born + life.up_after + self._later:
            return Health.NOT_LISTENING
        return life.health

    async def counters(self) -> int:
        return 0

    async def models(self) -> bytes:
        return b'{"data": []}'

    async def generate_one(self, model: str) -> None:
        life = self.process.life
        if life.health is Health.NOT_ASKED:
            raise NotAskedError("no files")
        if life.fails:
            raise ControlError("/v1/completions answered 500")
        await asyncio.sleep(1e9 if life.token_seconds is None else life.token_seconds)


class Waiting(Process):
    """A played standby: it imports, answers or not when it is wanted, and is then the engine of its life."""

    def __init__(self, rig: Rig, pid: int, life: Life, stdin: int) -> None:
        super().__init__(pid, life, asyncio.get_running_loop().time())
        self._rig = rig
        self._link = socket.socket(fileno=os.dup(stdin))
        self._link.setblocking(False)
        self._play = asyncio.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with self._link:
            await loop.sock_recv(self._link, 4096)
            await asyncio.sleep(self._rig.import_seconds)
            await loop.sock_sendall(self._link, b"ready\n")
            if await loop.sock_recv(self._link, 4096):
                if not self._rig.standby_answers:
                    await asyncio.Event().wait()
                self.born, self._rig.engine = loop.time(), self
                await loop.sock_sendall(self._link, b"going\n")

    def exit(self, status: int) -> None:
        super().exit(status)
        self._play.cancel()


class Rig:
    """Plays each process that is spawned, one life after the other; the last is lived again and again."""

    def __init__(self, *lives: Life) -> None:
        self._lives = itertools.chain(lives, itertools.repeat(lives[-1] if lives else Life()))
        self._pids = itertools.count(1 << 23)
        self.processes: list[Process] = []
        self.engine: Process | None = None
        """The one whose API is asked."""
        self.import_seconds = 2.0
        self.standby_answers = True
        self.on_line: Callable[[str], None] = lambda _: None
        """Takes a line of output of the newest process."""

    async def spawn(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        on_line: Callable[[str], None],
        cwd: Path,
        stdin: int | None = None,
    ) -> EngineProcess:
        life, self.on_line = next(self._lives), on_line
        if life.spawn_error is not None:
            raise life.spawn_error
        if stdin is None:
            self.engine = process = Process(next(self._pids), life, asyncio.get_running_loop().time())
        else:
            process = Waiting(self, next(self._pids), life, stdin)
        self.processes.append(process)
        return process.real

    def connect(self, socket: Path, **_: object) -> ControlClient:
        assert self.engine is not None
        later = self.engine.life.rust_later if socket.name == RUST_SOCKET else 0.0
        if (told := self.engine.life.frontends) is not None:
            socket.with_name("frontends.json").write_text(told)
        return cast(ControlClient, Client(self.engine, later))
