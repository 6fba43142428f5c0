"""Two real engines behind the router: one is killed under load, then both are restarted in turn; a row for each."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perf.bench.targets import ROOT
from perf.frontends.frontend_rows import Rows
from tests.support.program import until
from tests.support.routed.replicas import Clients, Ending, Replica, kill_tree, replicas_of, restart_each
from tests.support.routed.vllm_router import Router, router_python, routing

MODEL = "bundled:smollm2-135m-instruct"
POLICIES = ("round_robin", "cache_aware")
KEY = "secret-of-the-measurement"
START_SECONDS = 600.0
_TOPICS = ("whales", "clocks", "bridges", "rivers")


def measure(rows: Rows, folder: Path, clients: int) -> None:
    """Start both engines, and do the same with each policy."""

    def environ(_: int) -> dict[str, str]:
        return {
            "ENGINE_PYTHON": os.environ.get("ENGINE_PYTHON") or str(ROOT / ".venv-engine/bin/python"),
            "CACHE_DIR": os.environ.get("CACHE_DIR") or str(ROOT / ".cache"),
            "MODEL_ID": MODEL,
            "SERVED_MODEL_NAME": "fake",
            "API_KEYS": f"me:{KEY}",
            "HANG_TIMEOUT_SECONDS": "0",  # two engines on few cores are slow
            "LAME_DUCK_SECONDS": "8",
            "DRAIN_TIMEOUT_SECONDS": "120",
            "LOG_LEVEL": "warning",
        }

    with replicas_of(2, folder, environ, START_SECONDS) as replicas:
        for policy in POLICIES:
            urls = [replica.url for replica in replicas]
            with routing(router_python(), urls, folder, policy=policy, log_level="error") as router:
                router.until_healthy(*urls)
                _play(rows, policy, router, replicas, clients)


def _play(rows: Rows, policy: str, router: Router, replicas: list[Replica], count: int) -> None:
    def healthy() -> None:
        router.until_healthy(*(replica.url for replica in replicas))

    asking = Clients(router.url, _body, count, KEY)
    until(lambda: asking.count(Ending.WHOLE) >= count, "answers", START_SECONDS)

    def phase(name: str, act: Callable[[], None]) -> None:
        before, retries, began = (
            Counter(one.ending for one in asking.ended),
            _retries(router),
            time.monotonic(),
        )
        act()
        after = Counter(one.ending for one in asking.ended)
        seconds = time.monotonic() - began
        rows.add(
            {
                "what": "restart",
                "policy": policy,
                "done": name,
                "clients": count,
                "seconds": round(seconds, 1),
                **{ending.name.lower(): after[ending] - before[ending] for ending in Ending},
                "retries": _retries(router) - retries,
            }
        )

    def kill() -> None:
        kill_tree(replicas[0])
        replicas[0].start()
        replicas[0].program.until_ready(START_SECONDS)
        healthy()

    phase("one killed, back again", kill)
    phase("both restarted in turn", lambda: restart_each(replicas, lambda _: healthy(), START_SECONDS))

    def rest() -> None:
        asking.stop(START_SECONDS)

    phase("until all had their answer", rest)
    for line in asking.details()[:5]:
        print(f"  {line}", flush=True)


def _retries(router: Router) -> int:
    return int(router.metric("vllm_router_retries_total"))


def _body(number: int) -> dict[str, Any]:
    topic = _TOPICS[number % len(_TOPICS)]
    text = f"{f'This is all about {topic}. ' * 8} Tell me more, number {number}."
    return {
        "model": "fake",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 48,
        "ignore_eos": True,
        "temperature": 0.2,
    }
