"""What vLLM answers is what our clients get: status, headers and bytes.

Where both of its frontends run, each answer is one of theirs to the byte, and means what the Python frontend's
means. One request of each class; TRANSPARENCY=all asks the whole matrix of perf/transparency_cases.py, and each
frontend alone besides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Served, ready
from tests.support.differential import ANSWER_SECONDS, Explained, ask, differences
from tests.support.engine_cases import ANSWERED, ASKED, CHAT, CHAT_BODY, OURS, REFUSED, USAGE, asks
from tests.support.frontends.answer_meaning import differences_in_meaning, meaning
from tests.support.frontends.frontend_cases import BY_PYTHON, BY_RUST
from tests.support.raw_http import post_json, wire

pytestmark = pytest.mark.e2e

OF_ALL = os.environ.get("TRANSPARENCY") == "all"
CASES = {case.name: case for case in (*ANSWERED, *ASKED, *REFUSED, *BY_RUST, *BY_PYTHON, *OURS)}
FOR_RUST = {case.name for case in BY_RUST} | {
    "chat",
    "chat with an unknown key",
    "chat stream with usage",
    "chat for gzip",
    "completion stream with usage each time",
    "completion of an emoji's first half",
}
"""What the Rust frontend answers where both run: no more and no less of those that every `make test` asks."""
if OF_ALL:
    from perf.transparency_cases import ALL

    CASES = ALL | CASES

_ROUTE = "the allow-list answers for what it does not pass on, as OpenAI does; vLLM says {'detail': ...}"
_METHOD = "the same, with the methods that there are"
EXPLAINED = {
    **dict.fromkeys(("get of a post", "put", "delete", "head", "options"), Explained(405, _METHOD)),
    "preflight": Explained(405, "which web pages may call is CORS_ALLOW_ORIGINS' business: none, unless set"),
    **dict.fromkeys(("unknown route", "one model", "a leading slash too many"), Explained(404, _ROUTE)),
    "a slash too many": Explained(404, "a redirect would name the engine's address; one spelling is enough"),
}
"""Every difference that is meant. What is not here must be the same to the byte."""


@dataclass(frozen=True)
class Rig:
    """The gateway, and the frontends behind it."""

    gateway: int
    engine: Path
    """The Python frontend's socket, or that of the only one."""
    rust: Path | None = None
    """The Rust frontend's, where both run."""


@pytest.fixture(scope="module")
def served_rig(served: Served) -> Rig:
    """The program that all end-to-end tests share: with both frontends, unless E2E_BASE_URL has another."""
    return warmed(Rig(served.program.port, served.socket, served.rust_socket))


@pytest.fixture(scope="module", params=["python", "rust"])
def rig_of_one(
    request: pytest.FixtureRequest, engine_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rig]:
    """Our program with one of vLLM's frontends."""
    if not OF_ALL:
        pytest.skip("NOT TESTED: each frontend alone; TRANSPARENCY=all starts two more real engines for them")
    frontend: str = request.param
    with ready(tmp_path_factory.mktemp(frontend), ENGINE_FRONTEND=frontend) as program:
        yield warmed(Rig(program.port, program.engine_socket()))


def warmed(rig: Rig) -> Rig:
    """Ask for logprobs once: on a CPU the first such request takes so long that a comment would be sent."""
    with wire(rig.engine, ANSWER_SECONDS) as connection:
        connection.ask(post_json(CHAT, CHAT_BODY | {"logprobs": True, "top_logprobs": 3}))
    return rig


def compare(rig: Rig, name: str) -> str:
    """Ask everyone: the gateway's answer is a frontend's, or its difference is explained; return whose."""
    case = CASES[name]
    if case.is_generation:
        ask(rig.engine, case)
    straight, ours = ask(rig.engine, case), ask(rig.gateway, case)
    found = differences(straight, ours, is_unordered=case.is_unordered)
    if name in EXPLAINED:
        assert found, "explained, but the same: take it off the list"
        assert ours.status == EXPLAINED[name].status
        assert ours.body == b"" or ours.json()["error"]["code"] == ours.status
        return "gateway"
    if not found or rig.rust is None:
        assert not found, "\n".join(map(str, found))
        return "python"
    of_rust = differences(ask(rig.rust, case), ours, is_unordered=case.is_unordered)
    assert not of_rust, "\n".join(map(str, ["neither frontend's:", *found, "nor:", *of_rust]))
    in_meaning = differences_in_meaning(straight, ours)
    assert not in_meaning, "\n".join(map(str, in_meaning))
    return "rust"


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_a_frontends(served_rig: Rig, name: str) -> None:
    """And where both run, of the one that is meant, and means what the Python frontend says.

    Of all cases some teach the gateway that others of their shape are refused.
    """
    by = compare(served_rig, name)
    if not OF_ALL and by != "gateway" and served_rig.rust is not None:
        assert by == ("rust" if name in FOR_RUST else "python")


def test_one_request_id_at_both_frontends_at_once(served: Served) -> None:
    """Streams of one X-Request-Id, some for each frontend, all come to their end."""
    tokens, of_each, before = 8, 4, answered(served)
    body = CHAT_BODY | USAGE | {"max_tokens": tokens, "ignore_eos": True}
    cases = [
        asks("a stream", CHAT, body, more) for more in ({}, {"response_format": {"type": "text"}}) * of_each
    ]
    with ThreadPoolExecutor(len(cases)) as pool:
        replies = list(pool.map(lambda case: ask(served.program.port, case), cases))
    for reply in replies:
        [whole, *rest] = meaning(reply)["body"]
        assert (whole["usage"]["completion_tokens"], rest) == (tokens, [["", "[DONE]"]])
    assert answered(served) == {frontend: number + of_each for frontend, number in before.items()}


def answered(served: Served) -> dict[str, int]:
    """Return how many requests each frontend has had."""
    text = served.program.client.get("/metrics").text
    found = re.findall(r'^gateway_frontend_requests_total\{frontend="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {frontend: int(float(number)) for frontend, number in found}


@pytest.mark.parametrize("name", CASES if OF_ALL else ["chat"])
def test_one_frontend(rig_of_one: Rig, name: str) -> None:
    compare(rig_of_one, name)


def test_both_frontends_are_there(served: Served) -> None:
    """The comparison of both is one of both: where the binary is missing, `make setup` brings it."""
    assert served.program.client.get("/version").json()["frontend"] == "both"


def test_everything_explained_is_asked() -> None:
    assert EXPLAINED.keys() <= CASES.keys()
