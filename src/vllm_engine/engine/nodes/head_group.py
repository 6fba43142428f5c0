"""The head's side of a group of nodes: it waits for all workers, has them start, and sees one lost."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.engine.nodes.agreement import difference
from vllm_engine.engine.nodes.node_environment import reachable_at
from vllm_engine.engine.nodes.node_link import MOST_BYTES, Link, LinkLostError, silent_beats
from vllm_engine.engine.watchdog.watchdog import Loss, LossKind
from vllm_engine.errors import Diagnosis, Problem, SettingsError
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.system.network import is_own

_HELLO_SECONDS = 10.0
_MOST_STRANGERS = 64
"""Connections at once that have not said which node they are: they must not use up this process' files."""
_WORD_SECONDS = 1.0
"""How long a node's own word of its end may take."""
CODE = "node-lost"

logger = logging.getLogger("gateway.nodes")


@dataclass(frozen=True)
class NodeLoss:
    """How a worker was lost during a start or while the engine served."""

    rank: int
    address: str
    seen: str
    cause: Diagnosis | None = None
    """What the worker itself says of the end of its vLLM."""

    def diagnosis(self, *, has_served: bool) -> Diagnosis:
        """Explain it, for the log and `/healthz`."""
        node = f"node {self.rank} ({self.address})"
        if self.cause is None:
            remedy = "see that node's log and the network to it; all start again once it is back"
            return Diagnosis(CODE, f"{node} was lost: {self.seen}", remedy, retryable=True)
        cause = self.cause
        return Diagnosis(
            CODE if cause.code == "unknown" else cause.code,
            f"{node}: {cause.message}",
            cause.remedy,
            retryable=has_served or cause.retryable,
        )


@dataclass(eq=False)
class _Member:
    rank: int
    link: Link
    waits: bool = False
    """Whether its model is there and no vLLM of a former start runs."""


class HeadGroup:
    """Gathers the workers; a context manager that owns the listening socket and the connections.

    `ours` is what the nodes must agree on, `tell` is told whom the start waits for, and None when for nobody.
    With one node there is nobody to wait for or to lose.
    """

    def __init__(
        self, settings: Settings, ours: Mapping[str, str], tell: Callable[[str | None], None]
    ) -> None:
        self._settings, self._ours, self._tell = settings, ours, tell
        self._silent_beats = silent_beats(settings.hang_timeout_seconds)
        self._members: dict[int, _Member] = {}
        self._refused: dict[int, str] = {}
        self._start: str | None = None
        self._has_served = False
        self._changed = asyncio.Event()
        self._lost: asyncio.Future[NodeLoss] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        """Those of them that have not said which node they are, the oldest first."""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> HeadGroup:
        if self._settings.nodes == 1:
            return self
        port = self._settings.head_port + 1
        try:
            self._server = await asyncio.start_server(
                self._connected, await self._own_address(), port, limit=MOST_BYTES
            )
        except OSError as error:
            wanted = f"the port after it cannot be used ({error.strerror}); workers reach the head there"
            raise SettingsError([Problem("HEAD_PORT", str(port - 1), wanted)]) from error
        logger.info("node 0 of %d: workers reach it on port %d", self._settings.nodes, port)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def gather(self) -> None:
        """Wait until every worker is there and waits for a start."""
        if not self._missing():
            return
        told = None
        try:
            while missing := self._missing():
                if missing != told:
                    self._tell(missing)
                    logger.info("the start waits for %s", missing)
                    told = missing
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._tell(None)

    async def reachable(self, command: EngineCommand) -> EngineCommand:
        """Return the command with what its processes need to be reached by other nodes."""
        return reachable_at(command, await self._own_address()) if self._settings.nodes > 1 else command

    def begin(self) -> None:
        """Have every worker start its vLLM, for a start that is another one than any before."""
        if self._settings.nodes == 1:
            return
        self._start = secrets.token_hex(4)
        self._lost = asyncio.get_running_loop().create_future()
        for member in self._members.values():
            member.waits = False
            member.link.send(start=self._start)
        # Since `gather` returned.
        for rank in self._ranks - self._members.keys():
            self._lose(NodeLoss(rank, "unknown", "its connection was closed"))

    def serving(self) -> None:
        """Tell the workers that the engine serves."""
        self._has_served = True
        for member in self._members.values():
            member.link.send(serving=self._start)

    def over(self) -> None:
        """Have every worker end its vLLM."""
        start, self._start, self._lost = self._start, None, None
        if start is not None:
            for member in self._members.values():
                member.link.send(stop=start)

    async def lost(self) -> Loss:
        """Wait until a worker is lost that has been told to start."""
        if self._lost is None:
            await asyncio.Event().wait()
        assert self._lost is not None  # noqa: S101 - the line before never returns
        loss = await asyncio.shield(self._lost)
        return Loss(LossKind.NODE_LOST, loss.seen, told=loss.diagnosis(has_served=self._has_served))

    def named(self, loss: Loss) -> Loss:
        """Name those that acknowledge nothing, by rank where a node has joined from that address."""
        ranks = {member.link.peer: rank for rank, member in self._members.items()}
        names = (
            f"node {ranks[peer]} ({peer})" if peer in ranks else f"the node at {peer}"
            for peer in loss.silent_peers
        )
        return replace(loss, silent_peers=tuple(names))

    async def explained(self, told: Diagnosis) -> Diagnosis:
        """Return why the engine was lost: what a node says of its end, where the head's log does not know.

        The head may notice at a request that a node is gone before the node has said so.
        """
        if self._lost is None or not (told.is_symptom or told.code == CODE):
            return told
        try:
            async with asyncio.timeout(_WORD_SECONDS):
                loss = await asyncio.shield(self._lost)
        except TimeoutError:
            return told
        theirs = loss.diagnosis(has_served=self._has_served)
        return told if theirs.code == "head-lost" else theirs

    @property
    def _ranks(self) -> set[int]:
        return set(range(1, self._settings.nodes))

    async def _own_address(self) -> str | None:
        """Return the address of `HEAD_ADDRESS` at which other nodes reach this machine.

        None where the name is not known yet, or stands for another address, as that of a Service does: then
        all addresses are listened on, and vLLM finds its own.
        """
        with suppress(OSError, UnicodeError):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self._settings.head_address, None, type=socket.SOCK_STREAM)
            address = str(found[0][4][0])
            return address if is_own(address) else None
        return None

    def _missing(self) -> str | None:
        """Say what the start waits for; None if for nothing."""
        away = sorted(self._ranks - self._members.keys())
        busy = sorted(rank for rank, member in self._members.items() if not member.waits)
        if not away and not busy:
            return None
        said = [f"node {rank} ({self._refused.get(rank, 'not connected')})" for rank in away]
        said += [f"node {rank} (preparing)" for rank in busy]
        return ", ".join(said)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._strangers) >= _MOST_STRANGERS:
            # A node says at once which it is.
            self._strangers.pop(next(iter(self._strangers))).cancel()
        task = asyncio.create_task(self._handle(reader, writer))
        self._connections.add(task)
        self._strangers[writer] = task

        def ended(task: asyncio.Task[None]) -> None:
            writer.close()  # one that was cancelled at once has no link that does it
            self._connections.discard(task)
            self._strangers.pop(writer, None)

        task.add_done_callback(ended)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with Link(reader, writer, silent_beats=self._silent_beats) as link:
                async with asyncio.timeout(_HELLO_SECONDS):
                    hello = await link.receive()
                self._strangers.pop(writer, None)
                await self._serve(link, hello)
        except TimeoutError:
            logger.debug("a connection to the port of the nodes: no node said which it is")
        except LinkLostError as error:
            logger.debug("a connection to the port of the nodes: %s", error)

    async def _serve(self, link: Link, hello: Mapping[str, Any]) -> None:
        rank = hello.get("rank")
        settings = hello.get("settings")
        if type(rank) is not int or not isinstance(settings, dict) or rank not in self._ranks:
            link.send(
                refused=f"expected a node of rank 1 to {self._settings.nodes - 1}, got {str(rank)[:20]}"
            )
            return
        if refusal := difference(self._ours, settings, rank):
            self._refuse(rank, link, refusal)
            return
        await self._keep(_Member(rank, link))

    def _refuse(self, rank: int, link: Link, refusal: str) -> None:
        if self._refused.get(rank) != refusal:
            logger.warning("node %d (%s) is refused: %s", rank, link.peer, refusal)
        self._refused[rank] = refusal
        self._changed.set()
        link.send(refused=refusal)

    async def _keep(self, member: _Member) -> None:
        """Listen to a worker until it is gone."""
        rank, link = member.rank, member.link
        if before := self._members.get(rank):
            # Its end was not noticed yet, as after the link between the machines was cut.
            before.link.close()
            self._lose(NodeLoss(rank, before.link.peer, "it has started anew"))
        self._members[rank] = member
        self._refused.pop(rank, None)
        link.send(joined=True)
        logger.info("node %d (%s) has joined", rank, link.peer)
        why = "this program ends"
        try:
            while True:
                self._heard(member, await link.receive())
        except LinkLostError as error:
            why = str(error)
        finally:
            if self._members.get(rank) is member:
                del self._members[rank]
                logger.warning("node %d (%s) has left: %s", rank, link.peer, why)
                self._lose(NodeLoss(rank, link.peer, why))
            self._changed.set()

    def _heard(self, member: _Member, message: Mapping[str, Any]) -> None:
        if message.get("waits"):
            member.waits = True
            self._changed.set()
        elif "ended" in message and message["ended"] == self._start:
            cause = _diagnosis(message.get("why"))
            self._lose(NodeLoss(member.rank, member.link.peer, "its vLLM has ended", cause))

    def _lose(self, loss: NodeLoss) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(loss)


def _diagnosis(told: object) -> Diagnosis | None:
    if not isinstance(told, dict):
        return None
    code, message, remedy = (str(told.get(name, "")) for name in ("code", "message", "remedy"))
    return Diagnosis(code, message, remedy, retryable=told.get("retryable") is True)
