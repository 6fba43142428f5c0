"""Runs a plan in a closed or an open loop: a row for each request, and a summary."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import uvloop

from vllm_engine.client.api_client import Client, Server, base_url
from vllm_engine.client.bench.bench_connection import Connection, Exchange, connect
from vllm_engine.client.bench.bench_plan import METRICS, Metric, Plan, arrival_seconds, request_bytes
from vllm_engine.client.bench.bench_report import Row, Summary, count_gaps, render, summarise, write_rows
from vllm_engine.errors import Problem, SettingsError

_START_SECONDS = 0.5
"""Each new process of a pool is kept busy for so long, so that every one has started."""
_LEAD_SECONDS = 0.2
"""Between the order to the processes and the first request, so that all begin at once."""


def run_bench(plan: Plan, rows_path: Path | None = None) -> tuple[Summary, str]:
    """Run a plan and return its summary, also as text.

    Args:
        plan: what to send; an empty `model` stands for the first that the server lists, and the base URL may
            end in `/v1`, as OpenAI's clients expect it.
        rows_path: where to append one JSON object per request.

    Raises:
        SettingsError: the base URL is invalid.
        ServerError: the server does not list a model.
    """
    plan = replace(plan, base_url=base_url(plan.base_url))
    if not plan.model:
        plan = replace(plan, model=uvloop.run(_first_model(plan)))
    rows = run_load(plan)
    if rows_path is not None:
        write_rows(rows_path, rows)
    summary = summarise(rows, plan.slos_ms)
    return summary, render(summary)


def parse_slos(words: Sequence[str]) -> dict[Metric, float]:
    """Parse SLOs in the form of `vllm bench serve --goodput`: `ttft:500 tpot:50`, in milliseconds.

    Raises:
        SettingsError: one is invalid.
    """
    slos: dict[Metric, float] = {}
    for word in itertools.chain.from_iterable(each.split() for each in words):
        name, _, limit = word.partition(":")
        metric = next((each for each in METRICS if each == name), None)
        try:
            if metric is None:
                raise ValueError(name)
            slos[metric] = float(limit)
        except ValueError:
            expected = f"expected METRIC:MILLISECONDS with one of {', '.join(METRICS)}"
            raise SettingsError([Problem("--slo", word, expected)]) from None
    return slos


async def _first_model(plan: Plan) -> str:
    key = plan.headers.get("authorization", "").removeprefix("Bearer ")
    async with Client(Server(plan.base_url, key or None, plan.tls)) as client:
        return await client.first_model()


def run_load(plan: Plan, pool: ProcessPoolExecutor | None = None) -> list[Row]:
    """Run a plan to its end, in a pool's processes if it wants several; rows in order of their requests."""
    if plan.processes == 1:
        return uvloop.run(_run_share(plan, 0))
    if pool is None:
        with load_pool(plan.processes) as own:
            return run_load(plan, own)
    begin = time.perf_counter() + _LEAD_SECONDS
    shares = [pool.submit(_run_share_in_process, plan, share, begin) for share in range(plan.processes)]
    return sorted((row for share in shares for row in share.result()), key=lambda row: row.number)


def load_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool whose processes have all started."""
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    list(pool.map(time.sleep, [_START_SECONDS] * processes))
    return pool


def _run_share_in_process(plan: Plan, share: int, begin: float) -> list[Row]:
    return uvloop.run(_run_share(plan, share, begin))


async def _run_share(plan: Plan, share: int, begin: float = 0.0) -> list[Row]:
    sender = _Sender(plan, range(share, plan.requests, plan.processes))
    # perf_counter is the machine's clock: the same in every process.
    sender.begin = max(begin, time.perf_counter())
    await asyncio.sleep(sender.begin - time.perf_counter())
    try:
        await (_open_loop if plan.rate else _closed_loop)(plan, share, sender)
    finally:
        sender.close()
    return [_row(number, late, exchange, sender.begin) for number, late, exchange in sender.done]


async def _closed_loop(plan: Plan, share: int, sender: _Sender) -> None:
    numbers = iter(range(share, plan.requests, plan.processes))
    workers = len(range(share, plan.concurrency, plan.processes))

    async def worker() -> None:
        for number in numbers:
            await sender.send(number)

    await asyncio.gather(*(worker() for _ in range(workers)))


async def _open_loop(plan: Plan, share: int, sender: _Sender) -> None:
    async with asyncio.TaskGroup() as tasks:
        arrivals = itertools.islice(enumerate(arrival_seconds(plan)), share, None, plan.processes)
        for number, due in arrivals:
            wait = sender.begin + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.create_task(sender.send(number, due))


class _Sender:
    """Sends single requests over connections that it keeps open."""

    def __init__(self, plan: Plan, numbers: Iterable[int]) -> None:
        self._plan = plan
        # Built before the start, so that a burst is not delayed by it.
        self._requests = {number: request_bytes(plan, number) for number in numbers}
        self._idle: list[Connection] = []
        self.begin = 0.0
        self.done: list[tuple[int, float, Exchange]] = []

    async def send(self, number: int, due: float | None = None) -> None:
        """Send one request and record its result, also if it fails."""
        request = self._requests.pop(number)
        exchange = Exchange()
        late = 0.0 if due is None else exchange.sent - self.begin - due
        connection = self._take_idle()
        was_used = connection is not None
        await self._try(connection, request, exchange)
        if was_used and exchange.failure and exchange.status == 0 and exchange.failure != "timeout":
            # A server may close an idle connection just as it is used again: that is no failure.
            retry = Exchange()
            retry.sent = exchange.sent
            exchange = retry
            await self._try(None, request, exchange)
        self.done.append((number, late, exchange))

    async def _try(self, connection: Connection | None, request: bytes, exchange: Exchange) -> None:
        try:
            connection = connection or await connect(self._plan.base_url, self._plan.tls)
        except OSError as error:
            exchange.end(f"cannot connect: {error.strerror or error}")
            return
        await connection.ask(request, exchange, self._plan.timeout_seconds)
        if connection.is_open:
            self._idle.append(connection)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def close(self) -> None:
        """Close idle connections."""
        for connection in self._idle:
            connection.close()


def _row(number: int, late: float, exchange: Exchange, begin: float) -> Row:
    row = Row(
        number=number,
        sent_s=round(exchange.sent - begin, 6),
        late_ms=_ms(late),
        status=exchange.status,
        e2el_ms=_ms(exchange.last - exchange.sent),
        events=exchange.events,
        tokens=exchange.reader.tokens or exchange.events,
        itl_ms=count_gaps(exchange.gaps),
        error=exchange.failure,
    )
    return row if exchange.first is None else replace(row, ttft_ms=_ms(exchange.first - exchange.sent))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 4)
