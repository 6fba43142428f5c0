"""What an operator sees on the page's status view: `/ui/status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import nan

from pydantic import BaseModel

from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.observe.blocking_read import BlockingRead
from vllm_engine.gateway.observe.observation import Observation
from vllm_engine.gateway.observe.recent_failures import Failure, RecentFailures
from vllm_engine.gateway.observe.shared_answer import Shared
from vllm_engine.gateway.observe.work_totals import Totals
from vllm_engine.system.device import GpuLoad, free_memory_bytes, total_memory_bytes
from vllm_engine.system.process_memory import own_rss_bytes, session_rss_bytes

DEVICE_SECONDS = 4.0
"""How long one reading of the device and of processes' memory serves all: each starts a thread."""


class SettingRow(BaseModel):
    """One setting in effect; secrets are blanked."""

    name: str
    value: str
    source: str
    """`environment`, `.env`, `default`, or why the value was derived."""


@dataclass(frozen=True)
class Machine:
    """What the gateway is told of the machine, of this program and of its configuration."""

    gpu_loads: Callable[[], tuple[GpuLoad, ...]] | None = None
    """Asks the driver, which may block; None where the engine runs on the CPU."""
    settings: Callable[[], Sequence[SettingRow]] = tuple
    log_lines_dropped: Callable[[], int] = int
    certificate_expiry: Callable[[], float] = lambda: nan
    """In seconds since 1970; NaN without TLS."""


@dataclass(frozen=True)
class Load:
    """How many requests are at the engine, and how many wait for it, at this moment."""

    in_flight: Callable[[], int]
    waiting: Callable[[], int]

    @property
    def is_idle(self) -> bool:
        """Whether there are none."""
        return not (self.in_flight() or self.waiting())


class Memory(BaseModel):
    """Main memory: what is resident of the engine's processes and of this one, and what is available."""

    engine_bytes: int | None
    gateway_bytes: int
    available_bytes: int
    total_bytes: int


class Storage(BaseModel):
    """The file system where CACHE_DIR is."""

    folder: str
    free_bytes: int
    size_bytes: int


class Queue(BaseModel):
    """Requests under way in the gateway, and how many may be."""

    in_flight: int
    max_in_flight: int
    waiting: int
    max_queue: int


class OperatorReport(BaseModel):
    """Answer of `/ui/status`; counters are since the start of this program."""

    time: datetime
    uptime_seconds: float
    starts: int
    is_metrics_public: bool
    queue: Queue
    totals: Totals
    failures: list[Failure]
    """The engine's last failures, newest first, as many as the gateway remembers."""
    gpus: list[GpuLoad] | None
    """Null where the engine runs on the CPU; empty while the driver does not answer."""
    memory: Memory | None
    storage: Storage | None
    settings: list[SettingRow]


class Reporter:
    """Makes the report; what has to be asked of the machine is asked in threads, and not for each caller."""

    def __init__(
        self,
        settings: Settings,
        status: StatusReader,
        observation: Observation,
        machine: Machine,
        load: Load,
    ) -> None:
        self._settings, self._status, self._observation = settings, status, observation
        self._machine, self._load = machine, load
        self._failures = RecentFailures(status)
        self._began = time.monotonic()
        self._gpus = Shared(self._read_gpus, DEVICE_SECONDS)
        self._memory = Shared(BlockingRead("memory", self._read_memory).get, DEVICE_SECONDS)
        self._gpu_read = BlockingRead("gpu", machine.gpu_loads) if machine.gpu_loads else None

    async def report(self) -> OperatorReport:
        """Return the report as of now."""
        settings = self._settings
        space = await self._observation.cache_space()
        return OperatorReport(
            time=datetime.now(UTC),
            uptime_seconds=round(time.monotonic() - self._began, 1),
            starts=self._status.current.starts,
            is_metrics_public=settings.is_metrics_public,
            queue=Queue(
                in_flight=self._load.in_flight(),
                max_in_flight=settings.max_in_flight,
                waiting=self._load.waiting(),
                max_queue=settings.max_queue,
            ),
            totals=self._observation.totals(),
            failures=list(self._failures.kept),
            gpus=await self._gpus.get(),
            memory=await self._memory.get(),
            storage=space
            and Storage(folder=str(settings.cache_dir), free_bytes=space.free, size_bytes=space.size),
            settings=list(self._machine.settings()),
        )

    async def _read_gpus(self) -> list[GpuLoad] | None:
        return None if self._gpu_read is None else list(await self._gpu_read.get() or ())

    def _read_memory(self) -> Memory:
        pid = self._status.current.pid
        return Memory(
            engine_bytes=session_rss_bytes(pid) if pid else None,
            gateway_bytes=own_rss_bytes(),
            available_bytes=free_memory_bytes(),
            total_bytes=total_memory_bytes(),
        )
