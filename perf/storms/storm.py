"""Which storms there are, and how one is played."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perf.storms.watch import Watch, percentile
from tests.support.program import Program, free_port, until

ROOT = Path(__file__).parents[2]
SECONDS = 25
CONNECTIONS = 1500
KEYS = {"API_KEYS": "attacker:sk-attacker-1234 others:sk-others-12345"}
MOST_LIVEZ_SECONDS = 0.5
"""What the 99th percentile of `/livez` must stay under."""
_HEY_BODY = '{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64, "stream": true}'
_KEYED_TYPE = "application/json\r\nAuthorization: Bearer sk-attacker-1234"
"""slowhttptest sends no header of one's choice but this value's."""


@dataclass(frozen=True)
class Storm:
    """An attack: commands that run at once, again and again until the time is over.

    `{url}`, `{port}` and `{seconds}` stand for the program's.

    Attributes:
        name: in the table.
        variables: settings of the program, beside the usual.
        scenario: of its engine, beside the usual.
        nofile: of the program, as `SOFT:HARD`.
        growth_mib: what it may take of memory at most.
        chat_seconds: how long a chat of another client may take (99th percentile).
        keeps: see `Watch`.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    scenario: Mapping[str, float] = field(default_factory=dict)
    nofile: str | None = None
    growth_mib: int = 48
    chat_seconds: float = 5.0
    keeps: bool = False

    @property
    def tools(self) -> set[str]:
        """The programs that it needs beside Python; the blackhole needs root too."""
        own = {"iptables"} if any("blackholed" in command for command in self.commands) else set()
        return {command[0] for command in self.commands} - {sys.executable} | own


@dataclass(frozen=True)
class Result:
    """What a storm came to."""

    name: str
    livez: list[float]
    chats: list[float]
    rss_before: int
    rss_most: int
    restarts: int
    faults: list[str]


def _slow(*words: str) -> tuple[str, ...]:
    return ("slowhttptest", "-c", str(CONNECTIONS), "-r", "500", "-l", "{seconds}", "-p", "3", *words)


def _own(name: str, connections: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "perf.storms.attacks", name, "{port}", str(connections), "{seconds}")


_CHAT = ("-u", "{url}/v1/chat/completions", "-t", "POST")
_HEADERS = _slow("-H", "-i", "2", "-x", "24", *_CHAT)
_BODIES = _slow("-B", "-i", "2", "-s", "100000", *_CHAT)
_READS = ("-X", "-w", "1", "-y", "64", "-z", "5", "-n", "2", "-k", "3")
_HEY = ("hey", "-z", "{seconds}s", "-c", "64", "-m", "POST", "-T", "application/json", "-d", _HEY_BODY,
        "{url}/v1/chat/completions")  # fmt: skip
_HTTPERF = ("httperf", "--hog", "--server", "127.0.0.1", "--port", "{port}", "--uri", "/livez", "--rate", "100",
            "--num-conns", "2500", "--timeout", "10")  # fmt: skip
_SLOW_STREAMS = {"MAX_IN_FLIGHT": "4096", "MAX_QUEUE": "4096", "SEND_TIMEOUT_SECONDS": "10"}
_LONG_NAME = {"SERVED_MODEL_NAME": "m" * 2000}
"""Makes events of 2 kB, which fill a client's buffers in less time."""

STORMS = (
    Storm("slowhttptest -H, chat", (_HEADERS,)),
    Storm("slowhttptest -H, chat, keys set", (_HEADERS,), KEYS),
    Storm("slowhttptest -B, chat", (_BODIES,)),
    Storm("slowhttptest -B, chat, keys set, without one", (_BODIES,), KEYS),
    Storm("slowhttptest -B, chat, keys set, with one", ((*_BODIES, "-f", _KEYED_TYPE),), KEYS),
    Storm("slowhttptest -X, /metrics", (_slow(*_READS, "-u", "{url}/metrics"),)),
    Storm("slowhttptest -X, /metrics, keys set", (_slow(*_READS, "-u", "{url}/metrics"),), KEYS),
    Storm("slowhttptest -X, /ui/state", (_slow(*_READS, "-u", "{url}/ui/state"),)),
    Storm("streams read at 64 bytes/s", (_own("slow_readers", CONNECTIONS),), {**_SLOW_STREAMS, "SERVED_MODEL_NAME": "m" * 10_000},
          scenario={"tokens_per_second": 2}, growth_mib=400, chat_seconds=10.0),
    Storm("slowhttptest -H, soft limit of 1,024 files", (_HEADERS,), nofile="1024:"),
    Storm("silent connections, soft limit of 1,024 files", (_own("idle", CONNECTIONS),), nofile="1024:"),
    Storm("silent connections, hard limit of 1,024 files", (_own("idle", CONNECTIONS),), nofile="1024:1024",
          keeps=True),
    Storm("hey, 64 streams; httperf, new connections", (_HEY, _HTTPERF)),
    Storm("pipelining behind a stream", (_own("pipelining", 60),), _SLOW_STREAMS),
    Storm("trailers without end, keys set, without one", (_own("trailers", 8),), KEYS),
    Storm("bodies behind a 404", (_own("unfinished", CONNECTIONS),)),
    Storm("blackholed clients in all places", (_own("blackholed", 8),),
          {"MAX_IN_FLIGHT": "8", "SEND_TIMEOUT_SECONDS": "5", "HANG_TIMEOUT_SECONDS": "8", **_LONG_NAME},
          chat_seconds=15.0),
)  # fmt: skip


def play(storm: Storm, program: Program, probe_port: int) -> Result:
    """Let it loose on a program that is ready, and look what its other clients see."""
    key = "sk-others-12345" if storm.variables.keys() & KEYS.keys() else None
    engine = program.engine_pid()
    watch = Watch(program.port, probe_port, program.pid, key, keeps=storm.keeps)
    watch.begin()
    until(lambda: len(watch.chats) > 4 or watch.faults, "chats before the storm")
    attack(storm, program)
    watch.close()
    lost = int(program.engines_lost())
    faults = list(dict.fromkeys(watch.faults))
    if (p99 := percentile(watch.probes, 0.99)) > MOST_LIVEZ_SECONDS:
        faults.append(f"/livez: p99 of {p99:.2f} s")
    if (p99 := percentile(watch.chats, 0.99)) > storm.chat_seconds:
        faults.append(f"chats: p99 of {p99:.1f} s")
    if (grown := (watch.rss_most - watch.rss_before) >> 20) > storm.growth_mib:
        faults.append(f"memory: {grown} MiB more, not {storm.growth_mib}")
    if lost or program.engine_pid() != engine:
        faults.append(f"engine blamed {lost} times")
    return Result(storm.name, watch.probes, watch.chats, watch.rss_before, watch.rss_most, lost, faults)


def attack(storm: Storm, program: Program) -> None:
    """Run its commands until the time is over."""
    end = time.monotonic() + SECONDS
    attackers: list[subprocess.Popen[bytes] | None] = [None] * len(storm.commands)
    while time.monotonic() < end:
        for number, command in enumerate(storm.commands):
            running = attackers[number]
            if running is None or running.poll() is not None:
                seconds = max(1, round(end - time.monotonic()))
                words = [
                    w.replace("{url}", program.url).replace("{port}", str(program.port)) for w in command
                ]
                attackers[number] = subprocess.Popen(
                    [word.replace("{seconds}", str(seconds)) for word in words],
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        time.sleep(0.5)
    for running in attackers:
        assert running is not None
        try:
            running.wait(SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def health_port(storm: Storm) -> int | None:
    """Return a port for probes of its own, for a program that takes no new connections on its port."""
    return free_port() if storm.keeps else None
