"""The fake engine's inside: generation at a pace, what can befall it, and the counts of `/metrics`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from tests.support.fake.fake_requests import Job
from tests.support.fake.fake_scenarios import LiveScenario, Scenario

DRAINING = "cannot schedule new futures after shutdown"
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
WORDS = (
    "The", " quick", " brown", " fox", " doesn't", " know", " that", " naïve", " 日本語", " text", ",", " or",
    " 😀", ",", ' is "longer"', ".",
)  # fmt: skip
"""What is generated, over and over: with everything that JSON or a cut in mid-character could break."""


_PIECE = re.compile(r"\s*\S+|\s+")


class Reasoning(str):
    """Text that is not yet the answer."""

    __slots__ = ()


class EngineDeadError(Exception):
    """The engine core is gone."""


class GenerationError(Exception):
    """Generation failed, and only that of one request."""


class ConnectionCutError(Exception):
    """The scenario wants the connection closed without an end."""


class EngineCore:
    """What the API server knows of the engine core: whether it lives, and whether it still works."""

    def __init__(
        self,
        kill: Callable[[], None],
        fail: Callable[[], None] = lambda: None,
        is_node_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self.dead = asyncio.Event()
        self._fail, self._is_node_lost = fail, is_node_lost
        self.draining = False
        self.stopped = False
        self.kill = kill

    def stop(self) -> None:
        self.stopped = True
        self.kill()

    async def check(self) -> None:
        """Go on only if it works.

        Raises:
            EngineDeadError: it has died.
        """
        if self.stopped:
            await asyncio.Event().wait()
        if self._is_node_lost() and not self.dead.is_set():
            self._fail()
            await self.dead.wait()
        if self.dead.is_set():
            raise EngineDeadError

    async def pause(self, seconds: float | None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.dead.wait(), seconds)
        await self.check()


class Engine:
    """Generates for requests, and counts."""

    def __init__(self, live: LiveScenario, core: EngineCore) -> None:
        self.live = live
        self.core = core
        self.counts: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {"time_to_first_token": [], "inter_token_latency": []}
        self.running = 0
        self.waiting = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._places = asyncio.Semaphore(live.now().max_running)

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.counts["requests"] += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.counts["aborted"] += 1
            raise

    async def generate(self, job: Job) -> AsyncGenerator[tuple[int, str, int, str | None], None]:
        """Yield tokens: the choice, the text, how many this choice has now, and why it ends, if it does.

        Raises:
            EngineDeadError: the core has died.
            GenerationError: the scenario wants it to fail.
            ConnectionCutError: the scenario wants the connection cut.
        """
        scenario = self.live.now()
        began = time.monotonic()
        await self._begin(scenario)
        async with self._admitted():
            if scenario.first_token_seconds:
                await self.core.pause(scenario.first_token_seconds)
            self.counts["prompt_tokens"] += job.prompt_tokens
            words = WORDS if scenario.text is None else tuple(_PIECE.findall(scenario.text))
            total = min(job.max_tokens, scenario.tokens if scenario.text is None else len(words))
            finish = "length" if total == job.max_tokens else "stop"
            started, given = time.monotonic(), 0
            before = began
            for count in range(1, total + 1):
                await self._pace(scenario, started, count)
                now = time.monotonic()
                kind = "time_to_first_token" if count == 1 else "inter_token_latency"
                self.latencies[kind].append(now - before)
                before = now
                for choice in range(job.choices):
                    given += 1
                    self.counts["generation_tokens"] += 1
                    text = words[(count - 1) % len(words)]
                    if count <= scenario.reasoning_tokens:
                        text = Reasoning(text)
                    yield choice, text, count, finish if count == total else None
                    await self._befall(scenario, given)
            self.finished[finish] += 1

    @asynccontextmanager
    async def _admitted(self) -> AsyncIterator[None]:
        self.waiting += 1
        self.idle.clear()
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._places.release()
            if not self.running + self.waiting:
                self.idle.set()

    async def _begin(self, scenario: Scenario) -> None:
        await self.core.check()
        if scenario.health_ok_but_generation_fails:
            raise GenerationError("Internal server error")
        if scenario.generation_hangs:
            # Before it counts as running: a stuck core does not tell the API server of new requests.
            await self.core.pause(None)

    async def _pace(self, scenario: Scenario, started: float, count: int) -> None:
        rate = scenario.tokens_per_second
        ahead = started + (count - 1) / rate - time.monotonic() if rate else 0.0
        if ahead > 0:
            await self.core.pause(ahead)
        elif count % 16 == 0:
            # As fast as it goes must still let others have a turn, and disconnects be seen.
            await asyncio.sleep(0)
        await self.core.check()

    async def _befall(self, scenario: Scenario, given: int) -> None:
        if given == scenario.crash_after_n_chunks:
            # What the transport still holds would be lost with us.
            await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        if given == scenario.cut_after_n_chunks:
            raise ConnectionCutError
        if given == scenario.error_after_n_chunks:
            raise GenerationError("Internal server error")
        if given == scenario.stall_after_n_chunks:
            await self.core.pause(None)


def render_metrics(engine: Engine, model: str) -> str:
    label = f'{{engine="0",model_name="{model}"}}'
    counts = engine.counts
    lines = []
    for name, kind, text, value in (
        ("num_requests_running", "gauge", "Number of requests in model execution batches.", engine.running),
        ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", engine.waiting),
        ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", min(1.0, engine.running / 32)),
        ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", counts["prompt_tokens"]),
        ("generation_tokens_total", "counter", "Number of generation tokens processed.",
         counts["generation_tokens"]),
    ):  # fmt: skip
        lines += [f"# HELP vllm:{name} {text}", f"# TYPE vllm:{name} {kind}"]
        lines.append(f"vllm:{name}{label} {float(value)}")
    lines.append("# HELP vllm:request_success_total Count of successfully processed requests.")
    lines.append("# TYPE vllm:request_success_total counter")
    # vLLM does not count a request whose client left under any of these reasons; nor do we.
    for reason in ("stop", "length", "abort", "error", "repetition"):
        labels = f'{{engine="0",finished_reason="{reason}",model_name="{model}"}}'
        lines.append(f"vllm:request_success_total{labels} {float(engine.finished[reason])}")
    for name, seconds in engine.latencies.items():
        lines.append(f"# TYPE vllm:{name}_seconds histogram")
        for bound in (0.01, 0.025, 0.1, 0.5, 1.0, 5.0, float("inf")):
            count = sum(one <= bound for one in seconds)
            shown = "+Inf" if bound == float("inf") else bound
            lines.append(f'vllm:{name}_seconds_bucket{label[:-1]},le="{shown}"}} {float(count)}')
        lines.append(f"vllm:{name}_seconds_count{label} {float(len(seconds))}")
        lines.append(f"vllm:{name}_seconds_sum{label} {sum(seconds)}")
    for name in ("requests", "aborted"):
        lines.append(f"# TYPE fake:{name}_total counter")
        lines.append(f"fake:{name}_total {float(counts[name])}")
    return "\n".join(lines) + "\n"
