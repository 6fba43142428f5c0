"""What vLLM answers is what our clients get: status, headers and bytes, for both of its frontends.

One request of each class; TRANSPARENCY=all asks the whole matrix of perf/transparency_cases.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Served, ready
from tests.support.differential import ANSWER_SECONDS, Explained, ask, differences
from tests.support.engine_cases import ANSWERED, ASKED, CHAT, CHAT_BODY, OURS, REFUSED
from tests.support.raw_http import post_json, wire

pytestmark = pytest.mark.e2e

CASES = {case.name: case for case in (*ANSWERED, *ASKED, *REFUSED, *OURS)}
OF_RUST = [case.name for case in (*ANSWERED, *REFUSED[:3])]
"""The Rust frontend parses and frames in its own way; what does not reach either is the same for both."""
if os.environ.get("TRANSPARENCY") == "all":
    from perf.transparency_cases import ALL

    CASES |= ALL
    OF_RUST = list(CASES)

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
class Two:
    """An engine and the gateway before it."""

    engine: Path
    gateway: int


@pytest.fixture(scope="module")
def rust(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """Our program with vLLM's Rust frontend, ready."""
    if not list(engine_python.parents[1].glob("lib/python3.*/site-packages/vllm/vllm-rs")):
        pytest.skip("NOT TESTED: vLLM's Rust frontend is not installed; run `make setup FRONTEND=rust`")
    with ready(tmp_path_factory.mktemp("rust"), ENGINE_FRONTEND="rust") as program:
        yield warmed(Two(program.engine_socket(), program.port))


@pytest.fixture(scope="module")
def python(served: Served) -> Two:
    """The program that all end-to-end tests share."""
    return warmed(Two(served.socket, served.program.port))


def warmed(two: Two) -> Two:
    """Ask for logprobs once: on a CPU the first such request takes so long that a comment would be sent."""
    with wire(two.engine, ANSWER_SECONDS) as connection:
        connection.ask(post_json(CHAT, CHAT_BODY | {"logprobs": True, "top_logprobs": 3}))
    return two


def compare(two: Two, name: str) -> None:
    """Ask both: the gateway's answer is the engine's, or its difference is explained."""
    case = CASES[name]
    if case.is_generation:
        ask(two.engine, case)
    straight, ours = ask(two.engine, case), ask(two.gateway, case)
    found = differences(straight, ours, is_unordered=case.is_unordered)
    if name in EXPLAINED:
        assert found, "explained, but the same: take it off the list"
        assert ours.status == EXPLAINED[name].status
        assert ours.body == b"" or ours.json()["error"]["code"] == ours.status
    else:
        assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("name", CASES)
def test_python_frontend(python: Two, name: str) -> None:
    compare(python, name)


@pytest.mark.parametrize("name", OF_RUST)
def test_rust_frontend(rust: Two, name: str) -> None:
    compare(rust, name)


def test_everything_explained_is_asked() -> None:
    assert EXPLAINED.keys() <= CASES.keys()
