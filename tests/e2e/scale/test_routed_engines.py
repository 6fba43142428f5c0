"""Two real engines behind the real vllm-router: a prefix stays on its engine, and a kill loses only what had begun there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.conftest import CACHE_DIR, MODEL, START_SECONDS
from tests.support.program import until
from tests.support.routed.replicas import Clients, Ended, Ending, ask_stream, kill_tree, replicas_of
from tests.support.routed.vllm_router import router_python, routing

KEY = "secret-of-ours"
CLIENTS = 4
# Longer than a block of the prefix cache, which has 128 tokens on CPU.
_BEGINNING = "You answer questions about whales, in one short sentence, and never about anything else. " * 24


def about_whales(number: int) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": _BEGINNING},
        {"role": "user", "content": f"Question {number}: how many whales are there?"},
    ]
    return {"model": "whales", "messages": messages, "max_tokens": 12, "ignore_eos": True}


def test_a_prefix_stays_and_a_kill_loses_only_what_had_begun(engine_python: Path, tmp_path: Path) -> None:
    def environ(_: int) -> dict[str, str]:
        return {
            "ENGINE_PYTHON": str(engine_python),
            "CACHE_DIR": str(CACHE_DIR),
            "MODEL_ID": MODEL,
            "SERVED_MODEL_NAME": "whales",
            "API_KEYS": f"me:{KEY}",
            "METRICS_PUBLIC": "1",
            "HANG_TIMEOUT_SECONDS": "0",  # two engines on two cores are slow
        }

    with replicas_of(2, tmp_path, environ, START_SECONDS) as replicas:
        urls = [replica.url for replica in replicas]
        with routing(router_python(), urls, tmp_path, policy="cache_aware") as router:
            router.until_healthy(*urls)
            for number in range(4):
                assert ask_stream(router.client, about_whales(number), KEY) == Ended(Ending.WHOLE)
            hits = [replica.program.metric("vllm:prefix_cache_hits_total") for replica in replicas]
            assert min(hits) == 0 < max(hits), hits

            clients = Clients(router.url, about_whales, CLIENTS, KEY)
            until(lambda: clients.count(Ending.WHOLE) >= CLIENTS, "answers", START_SECONDS)
            kill_tree(replicas[hits.index(max(hits))])
            whole = clients.count(Ending.WHOLE)
            until(
                lambda: clients.count(Ending.WHOLE) >= whole + CLIENTS, "answers of the other", START_SECONDS
            )
            ended = clients.stop(START_SECONDS)
            assert ended[Ending.REFUSED] == 0, clients.details()
            assert ended[Ending.TRUNCATED] <= CLIENTS, clients.details()
