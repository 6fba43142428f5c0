"""One case: a load, a harm in the middle of it, and what must hold afterwards."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import httpx2
import psutil

from perf.chaos.harm import Harm, Rig
from perf.chaos.load import Ask, Outcome, Volley
from tests.support.program import Program, until

_OF_FRONTENDS = re.compile(r'^gateway_frontend_requests_total\{frontend="(\w+)"\} (\S+)$', re.MULTILINE)
_COUNTED = re.compile(r"^gateway_requests_total\{[^}]*/v1/chat/completions[^}]*\} (\S+)$", re.MULTILINE)
GROWTH_BYTES = 48 << 20
GROWTH_FILES = 4


@dataclass(frozen=True)
class Case:
    """Something to do to a program that serves.

    Attributes:
        streams: how many streams run; `wholes`: how many requests want their answer whole.
        words: of each prompt; many make a long prefill.
        begun: the harm waits until so many have had a first token.
        times: how often it is done, each time when the engine serves again.
        leave: clients leave after up to so many seconds.
        notice: within how many seconds readiness has to end; None for no limit.
        beforehand: what is done just before the harm, and takes a time of its own.
        may_live: whether the engine may go on all the same.
    """

    name: str
    harm: Harm | None
    streams: int = 6
    wholes: int = 2
    tokens: int = 48
    words: int = 8
    begun: int = 3
    times: int = 1
    leave: float | None = None
    notice: float | None = 1.0
    beforehand: Harm | None = None
    may_live: bool = False

    def asks(self, rig: Rig) -> list[Ask]:
        """Return the requests."""
        kinds = [True] * self.streams + [False] * self.wholes
        return [
            Ask(
                rig.program.url,
                rig.model,
                stream,
                self.tokens,
                self.words,
                self._leave(number, len(kinds)),
                for_python=rig.has_both and number % 2 == 1,
            )
            for number, stream in enumerate(kinds)
        ]

    def _leave(self, number: int, count: int) -> float | None:
        return None if self.leave is None else 0.01 + self.leave * number / count


@dataclass
class Result:
    """What a case came to."""

    name: str
    requests: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    noticed_seconds: float | None = None
    back_seconds: float | None = None
    faults: list[str] = field(default_factory=list)


class Vigil:
    """Notes when readiness ends and comes back, watching closely."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._before = program.engines_lost()
        self._stop = threading.Event()
        self.lost: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        with httpx2.Client(base_url=self._program.url, timeout=10) as client:
            while not self._stop.wait(0.02):
                # The count stays, should the time without an engine be too short to be seen.
                if client.get("/healthz").status_code != 200 or self._program.engines_lost() > self._before:
                    self.lost = time.monotonic()
                    return

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True)
class Footprint:
    """What the gateway holds."""

    memory: int
    files: int
    threads: int

    @classmethod
    def of(cls, rig: Rig) -> Footprint:
        """Measure it."""
        gateway = psutil.Process(rig.program.pid)
        return cls(gateway.memory_info().rss, gateway.num_fds(), gateway.num_threads())


def play(case: Case, rig: Rig, start_seconds: float) -> Result:
    """Do it to a program that is ready, and have it ready again."""
    result = Result(case.name)
    # So that what is kept for the next request (connections, threads of libraries) is there already.
    Volley.fire([replace(ask, tokens=1, words=1, leave=None) for ask in case.asks(rig)]).outcomes()
    before, counted, shares = Footprint.of(rig), counted_requests(rig), requests_by_frontend(rig)
    volley = Volley.fire(case.asks(rig))
    result.requests = len(volley.shots)
    until(lambda: volley.began >= case.begun or not volley.running, "answers that have begun", start_seconds)
    for number in range(case.times):
        if case.harm is not None:
            _harm(case, rig, result, start_seconds, is_first=number == 0)
    result.outcomes = volley.outcomes()
    result.faults += volley.faults()
    _aftermath(case, rig, result, before, counted)
    if rig.has_both:
        now = requests_by_frontend(rig)
        idle = [name for name in ("python", "rust") if now.get(name, 0.0) == shares.get(name, 0.0)]
        result.faults += [f"the {name} frontend got no request" for name in idle]
    return result


def _harm(case: Case, rig: Rig, result: Result, start_seconds: float, *, is_first: bool) -> None:
    assert case.harm is not None
    engine = rig.engine()
    if case.beforehand is not None:
        case.beforehand(rig)
    vigil = Vigil(rig.program)
    began = time.monotonic()
    case.harm(rig)
    try:
        if not case.may_live:
            until(lambda: vigil.lost is not None, "an end of readiness", start_seconds)
    finally:
        vigil.close()
    rig.program.until_ready(start_seconds)
    back = time.monotonic() - began
    if vigil.lost is not None and is_first:
        result.noticed_seconds, result.back_seconds = vigil.lost - began, back
        if case.notice is not None and vigil.lost - began > case.notice + 0.5:
            result.faults.append(f"noticed after {vigil.lost - began:.2f} s only")
    if vigil.lost is not None:
        left = [one for one in engine if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        result.faults += [f"orphan: {one}" for one in left]


def _aftermath(case: Case, rig: Rig, result: Result, before: Footprint, counted: float) -> None:
    wanted = counted + result.requests
    deadline = time.monotonic() + 30
    while counted_requests(rig) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    if counted_requests(rig) != wanted:
        result.faults.append(f"{counted_requests(rig) - counted:g} of {result.requests} requests counted")
    if case.times == 1 and result.outcomes[Outcome.POISON]:
        result.faults.append("suspected, though the engine was lost once")
    # As many connections to the engine as it had requests at once may be kept for the next ones.
    before = replace(before, files=before.files + result.requests)
    while _grown(before, Footprint.of(rig)) and time.monotonic() < deadline:
        time.sleep(0.1)
    result.faults += _grown(before, Footprint.of(rig))
    after = Volley.fire([Ask(rig.program.url, rig.model, tokens=4)])
    if after.outcomes() != Counter([Outcome.ANSWERED]):
        result.faults.append(f"afterwards: {after.shots[0].outcome} {after.shots[0].detail}")


def _grown(before: Footprint, after: Footprint) -> list[str]:
    faults = []
    if after.memory > before.memory + GROWTH_BYTES:
        faults.append(f"memory grew from {before.memory} to {after.memory}")
    if after.files > before.files + GROWTH_FILES:
        faults.append(f"files grew from {before.files} to {after.files}")
    if after.threads > before.threads + 2:
        faults.append(f"threads grew from {before.threads} to {after.threads}")
    return faults


def counted_requests(rig: Rig) -> float:
    """Return how many requests the gateway has counted, of those that go to the engine."""
    text = rig.program.client.get("/metrics").text
    return sum(float(value) for value in _COUNTED.findall(text))


def requests_by_frontend(rig: Rig) -> dict[str, float]:
    """Return how many requests each of vLLM's frontends has got."""
    text = rig.program.client.get("/metrics").text
    return {name: float(value) for name, value in _OF_FRONTENDS.findall(text)}


def play_sigterm(rig: Rig, streams: int, tokens: int, begun: int, seconds: float) -> Result:
    """SIGTERM under streams: none is cut short, and the program ends with 0."""
    result = Result(f"SIGTERM under {streams} streams", streams)
    everybody = rig.program.processes()
    volley = Volley.fire(
        [
            Ask(rig.program.url, rig.model, tokens=tokens, for_python=rig.has_both and number % 2 == 1)
            for number in range(streams)
        ]
    )
    until(lambda: volley.began >= begun, "streams that have begun", seconds)
    until(lambda: rig.program.metric("gateway_in_flight") == streams, "all of them at the engine", seconds)
    rig.program.send(signal.SIGTERM)
    result.outcomes = volley.outcomes()
    result.faults += volley.faults()
    if result.outcomes[Outcome.ANSWERED] != streams:
        result.faults.append("not all were answered")
    if (status := rig.program.wait(60)) != 0:
        result.faults.append(f"exit status {status}")
    until(lambda: not any(one.is_running() for one in everybody[1:]), "everybody's end", 30)
    return result
