"""The nodes of one model, on a virtual clock: who may join, how they start together, and how they stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

from tests.support.program import free_pair
from tests.support.virtual.played_nodes import OURS, Head, Node, settings, stranger, three_nodes
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.engine_state import EngineState
from vllm_engine.engine.nodes.agreement import agreement, difference
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.nodes.node_environment import reachable_at
from vllm_engine.engine.nodes.node_link import silent_beats
from vllm_engine.errors import Diagnosis, ModelError
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import Device
from vllm_engine.system.network import is_own


@in_virtual_time
async def test_all_start_together() -> None:
    """The head waits for every worker, and says for whom; workers serve when the head says so."""
    port = free_pair()
    head = Head(port)
    async with head.group:
        one = Node(1, port)
        waiting = asyncio.create_task(head.start())
        await asyncio.sleep(5)
        assert head.newest() == "node 2 (not connected)"
        assert one.board.current.waits_for == f"the head 127.0.0.1:{port + 1} to start"
        assert one.runs == []
        two = Node(2, port)
        await waiting
        assert head.newest() is None
        assert (one.runs, two.runs) == ([True], [True])
        assert (one.state, str(one.board.current.waits_for)) == (EngineState.STARTING, "None")
        head.group.serving()
        await asyncio.sleep(1)
        assert (one.state, two.state) == (EngineState.READY, EngineState.READY)
        await one.close()
        await two.close()
    assert (one.runs, one.state) == ([False], EngineState.STOPPED)


@in_virtual_time
async def test_who_may_join(caplog: pytest.LogCaptureFixture) -> None:
    """Nodes with the same settings and a rank of the group; others are told why not, and strangers dropped."""
    caplog.set_level(logging.INFO)
    port = free_pair()
    head = Head(port)
    async with head.group:
        other = Node(1, port, ours={**OURS, "MODEL_ID": "other"})
        waiting = asyncio.create_task(head.start())
        await asyncio.sleep(5)
        said = "MODEL_ID is other on node 1 and m on the head; every node needs the same"
        assert said in str(head.newest())
        assert said in str(other.board.current.waits_for)
        await asyncio.sleep(60)
        assert sum("waiting for" in line for line in caplog.messages) == 1, "once, however often it tries"
        for sent, answer in (
            ({"rank": 3, "settings": OURS}, b"expected a node of rank 1 to 2, got 3"),
            ({"rank": 0, "settings": OURS}, b"expected a node of rank 1 to 2, got 0"),
            ({"rank": "x" * 99, "settings": OURS}, b"expected a node of rank 1 to 2, got xxx"),
            ({}, b"expected a node of rank 1 to 2, got None"),
            (b"GET / HTTP/1.1\r\n", b""),
            (b"x" * 100_000, b""),
            (b"[" * 60_000 + b"\n", b""),
            (b"", b""),
        ):
            reader, writer = await stranger(port, sent)
            with contextlib.suppress(ConnectionError):
                assert answer in await reader.read()
            writer.close()
        waiting.cancel()
        await other.close()


@in_virtual_time
async def test_strangers(caplog: pytest.LogCaptureFixture) -> None:
    """However many connect and say nothing, nodes join; what one says is shown in part, and in one line."""
    caplog.set_level(logging.INFO)
    port = free_pair()
    head = Head(port)
    async with head.group:
        waiting = asyncio.create_task(head.start())
        silent = [await stranger(port) for _ in range(100)]
        one, two = Node(1, port), Node(2, port)
        await asyncio.sleep(2)
        assert waiting.done()
        for sent in ({"rank": True, "settings": OURS}, {"rank": 1, "settings": {"vLLM": "a\nb" + "x" * 999}}):
            reader, writer = await stranger(port, sent)
            assert b"refused" in await reader.readline()
            writer.close()
        (shown,) = (line for line in caplog.messages if "is refused" in line)
        assert "vLLM is 'a\\nbxxx" in shown
        assert len(shown) < 400
        assert (one.runs, two.runs) == ([True], [True])
        for _, writer in silent:
            writer.close()
        await one.close()
        await two.close()


@in_virtual_time
async def test_a_stopping_worker_goes_on_for_the_head() -> None:
    """It serves until the head needs it no more; then it starts nothing."""
    async with three_nodes() as (head, one, _two):
        head.group.serving()
        await asyncio.sleep(1)
        one.supervisor.begin_drain()
        released = asyncio.create_task(one.supervisor.released())
        await asyncio.sleep(60)
        assert (one.runs, released.done()) == ([True], False)
        head.group.over()
        await released
        assert one.runs == [False]
        await asyncio.sleep(60)
        assert one.runs == [False]
        waiting = asyncio.create_task(head.start())
        await asyncio.sleep(1)
        assert head.newest() == "node 1 (preparing)"
        waiting.cancel()


@in_virtual_time
async def test_a_model_that_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """A passing reason is waited out; another ends the worker as it would end the head."""
    port = free_pair()
    node = Node(1, port)
    node.prepare_error = ModelError(Diagnosis("hub-unreachable", "no hub", retryable=True))
    await asyncio.sleep(1)
    assert node.prepared > 1
    node.prepare_error = ModelError(Diagnosis("no-such-model", "there is none"))
    with pytest.raises(ModelError, match="there is none"):
        await node.running
    assert node.state is EngineState.FAILED


@in_virtual_time
async def test_a_model_that_cannot_be_had_again() -> None:
    """Between two starts, too, a passing reason is waited out."""
    async with three_nodes() as (head, one, _two):
        one.prepare_error = ModelError(Diagnosis("hub-unreachable", "no hub", retryable=True))
        head.group.over()
        await asyncio.sleep(1)
        assert (one.prepared > 2, one.running.done()) == (True, False)
        one.prepare_error = None
        await head.start()
        assert one.runs == [False, True]


def test_agreement() -> None:
    """Of the settings those count that shape vLLM's processes; of the flags all but --headless."""

    def of(*flags: str, **variables: str) -> dict[str, str]:
        environment = Environment(variables, {})
        installation = Installation(Path("p"), "3.11", "vllm", "0.33.0", "cuda", None)
        device = Device("cuda", "H100", True)
        return agreement(Preflight(load_settings(environment), environment, installation, device, flags))

    head = of("--max-num-seqs", "4", NODES="2", TENSOR_PARALLEL="2")
    assert (
        difference(head, of("--max-num-seqs", "4", "--headless", NODES="2", TENSOR_PARALLEL="2", PORT="1"), 1)
        is None
    )
    for flags, variables, said in (
        ((), {"TENSOR_PARALLEL": "4"}, "TENSOR_PARALLEL is 4 on node 1 and 2 on the head"),
        ((), {"MODEL_REVISION": "a"}, "MODEL_REVISION is a on node 1 and not set on the head"),
        (("--max-num-seqs", "8"), {}, "vLLM's flags are --max-num-seqs 8 on node 1 and --max-num-seqs 4"),
    ):
        given = {"NODES": "2", "TENSOR_PARALLEL": "2", **variables}
        theirs = of(*(flags or ("--max-num-seqs", "4")), **given)
        assert said in str(difference(head, theirs, 1))


def test_addresses() -> None:
    """vLLM's processes use the interface by which the nodes reach each other, unless the user has said which."""
    plain = EngineCommand(("vllm",), {})
    assert reachable_at(plain, "127.0.0.1").environ == {
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    assert reachable_at(plain, "192.0.2.1").environ == {"VLLM_HOST_IP": "192.0.2.1"}
    assert reachable_at(plain, None) is plain
    chosen = EngineCommand(("vllm",), {"VLLM_HOST_IP": "10.0.0.1", "GLOO_SOCKET_IFNAME": "eth1"})
    assert reachable_at(chosen, "127.0.0.1").environ == chosen.environ
    assert [silent_beats(seconds) for seconds in (180, 8, 1)] == [10, 3, 2]
    assert (is_own("127.0.0.1"), is_own("192.0.2.1"), is_own("2001:db8::1")) == (True, False, False)


@in_virtual_time
async def test_an_address_of_another() -> None:
    """As a Service's is: the head's processes cannot listen on it, and choose their own."""
    head, plain = (
        HeadGroup(settings(0, 1, HEAD_ADDRESS="192.0.2.1"), OURS, print),
        EngineCommand(("vllm",), {}),
    )
    assert await head.reachable(plain) is plain
