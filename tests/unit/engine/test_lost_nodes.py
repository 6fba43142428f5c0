"""A node of several is lost, on a virtual clock: who notices, what is told, and how all come back."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.program import free_pair
from tests.support.virtual.engine_rig import Life
from tests.support.virtual.played_nodes import NO_MEMORY, OURS, Head, Node, settings, stranger, three_nodes
from tests.support.virtual.supervised import Case
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.engine_state import EngineState
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.watchdog.watchdog import Loss, LossKind
from vllm_engine.errors import Diagnosis


@pytest.mark.parametrize("has_served", [False, True])
@in_virtual_time
async def test_the_end_of_a_workers_vllm(has_served: bool) -> None:
    """The head is told with its cause; then all end, and the next start is another one for all."""
    async with three_nodes(Life(exits_after=60), Life()) as (head, one, two):
        if has_served:
            head.group.serving()
        loss = await head.group.lost()
        assert loss.kind is LossKind.NODE_LOST
        assert loss.told == Diagnosis(
            "out-of-memory",
            "node 1 (127.0.0.1): there is no memory",
            "use a smaller model",
            retryable=has_served,
        )
        assert (one.state, one.board.current.error) == (EngineState.BACKOFF, NO_MEMORY)
        assert two.runs == [True]
        head.group.over()
        await head.start()
        assert (one.runs, two.runs) == ([False, True], [False, True])


@in_virtual_time
async def test_a_worker_that_is_gone() -> None:
    """Its closed connection is noticed at once, and the others wait for it to come back."""
    async with three_nodes() as (head, one, two):
        lost = asyncio.create_task(head.group.lost())
        await one.close()
        loss = await lost
        assert loss.told == Diagnosis(
            "node-lost", "node 1 (127.0.0.1) was lost: its connection was closed",
            "see that node's log and the network to it; all start again once it is back", retryable=True,
        )  # fmt: skip
        head.group.over()
        waiting = asyncio.create_task(head.start())
        await asyncio.sleep(300)
        assert head.newest() == "node 1 (not connected)"
        assert two.runs == [False]
        again = Node(1, head.port)
        await waiting
        assert (again.runs, two.runs) == ([True], [False, True])
        await again.close()


@in_virtual_time
async def test_a_head_that_is_gone() -> None:
    """Workers end their vLLM, which would wait for ever, and go on trying; that costs no restart and no start."""
    port = free_pair()
    head = Head(port)
    async with head.group:
        one, two = Node(1, port), Node(2, port)
        await head.start()
        head.group.serving()
        await asyncio.sleep(1)
    await asyncio.sleep(3600)
    assert (one.runs, two.runs) == ([False], [False])
    assert one.state is EngineState.STARTING
    assert str(one.board.current.waits_for).startswith(f"the head 127.0.0.1:{port + 1} (")
    assert one.prepared == 2, "once for each start, however often the head is tried"
    again = Head(port)
    async with again.group:
        await again.start()
        assert (one.runs, two.runs) == ([False, True], [False, True])
        await one.close()
        await two.close()


@pytest.mark.parametrize(("hang", "seconds"), [("180", 20), ("8", 6), ("0", None)])
@in_virtual_time
async def test_silence(hang: str, seconds: float | None) -> None:
    """A link that is cut closes no connection: the silence counts, but never with HANG_TIMEOUT_SECONDS=0."""
    port = free_pair()
    head = Head(port, NODES="2", HANG_TIMEOUT_SECONDS=hang)
    loop = asyncio.get_running_loop()
    async with head.group:
        _, writer = await stranger(port, {"rank": 1, "settings": OURS}, {"waits": True})
        await head.start()
        hang_seen = Loss(LossKind.HUNG, "no token", silent_peers=("127.0.0.1", "10.0.0.9"))
        named = head.group.named(hang_seen).silent_peers
        assert named == ("node 1 (127.0.0.1)", "the node at 10.0.0.9")
        lost = asyncio.create_task(head.group.lost())
        began = loop.time()
        await asyncio.wait({lost}, timeout=7200)
        assert lost.done() == (seconds is not None)
        if seconds is not None:
            assert lost.result().seen == f"nothing came from it for {seconds:g} s"
            assert loop.time() - began <= float(hang)
        lost.cancel()
        writer.close()


@in_virtual_time
async def test_a_silent_head() -> None:
    """A worker ends its vLLM when its head is silent."""
    port = free_pair()
    links: list[asyncio.StreamWriter] = []

    def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links.append(writer)
        writer.write(b'{"start": "a"}\n')

    server = await asyncio.start_server(mute, "127.0.0.1", port + 1)
    one = Node(1, port)
    await asyncio.sleep(10)
    assert one.runs == [True]
    await asyncio.sleep(15)
    assert one.runs[0] is False
    await one.close()
    server.close()
    for link in links:
        link.close()


@in_virtual_time
async def test_a_worker_that_comes_again_before_its_end_was_noticed() -> None:
    """As after a cut link: the newer connection counts, and the start with the older is lost."""
    async with three_nodes() as (head, _, _two):
        port = head.port
        _, writer = await stranger(port, {"rank": 1, "settings": OURS})
        assert (await head.group.lost()).seen == "it has started anew"
        writer.close()


@in_virtual_time
async def test_the_cause_that_a_node_knows() -> None:
    """The head may notice at a request that a node is gone: if it does not know why, the node's word counts."""
    symptom, cause = (
        Diagnosis("worker-died", "a worker died", is_symptom=True),
        Diagnosis("gpu-lost", "a GPU"),
    )
    async with three_nodes(Life(exits_after=60)) as (head, one, _two):
        await asyncio.sleep(58.5)
        assert await head.group.explained(cause) is cause
        told = await head.group.explained(symptom)
        assert told.message == "node 1 (127.0.0.1): there is no memory"
        head.group.over()
        one.diagnosis = Diagnosis("head-lost", "the head was lost")
        await head.start()
        assert await head.group.explained(symptom) is symptom, "no node has said a word"
        one.rig.processes[-1].exit(1)
        assert await head.group.explained(symptom) is symptom, "that is the head's own loss"
    alone = HeadGroup(settings(0, 1, NODES="1"), OURS, lambda _: None)
    async with alone:
        await alone.gather()
        alone.begin()
        assert await alone.explained(symptom) is symptom


@in_virtual_time
async def test_the_supervisor_of_a_head(tmp_path: Path) -> None:
    """It starts its engine when all nodes are there, and again with them when one is lost, before or after it served."""
    port = free_pair()
    async with HeadGroup(settings(0, port, NODES="2"), OURS, lambda _: None) as group:
        case = Case(tmp_path, Life(up_after=30), Life(), group=group)
        running = asyncio.create_task(case.run(10_000))
        await asyncio.sleep(600)
        assert (case.path, case.rig.processes) == ("starting", [])
        one = Node(1, port, Life(exits_after=10), Life(exits_after=100), Life())
        one.diagnosis = Diagnosis("hub-unreachable", "no hub", retryable=True)
        await asyncio.sleep(60)
        assert [each.is_running for each in case.rig.processes] == [False, True]
        assert case.path == "starting backoff starting ready"
        await asyncio.sleep(100)
        assert case.path == "starting backoff starting ready unhealthy backoff starting ready"
        assert one.runs == [False, False, True]
        await one.close()
        await asyncio.sleep(1000)
        assert case.path.endswith("ready unhealthy backoff starting")
        assert len(case.rig.processes) == 3, "it waits without an engine"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@in_virtual_time
async def test_a_node_that_is_lost_is_no_failure_of_the_standby(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which has just become the engine: the start is counted, and the next may be from a standby."""
    caplog.set_level(logging.INFO)
    port = free_pair()
    async with HeadGroup(settings(0, port, NODES="2"), OURS, lambda _: None) as group:
        case = Case(tmp_path, Life(), Life(up_after=30), group=group, standby=True)
        running = asyncio.create_task(case.run(10_000))
        one = Node(1, port, Life(exits_after=100), Life(exits_after=5), Life())
        one.diagnosis = Diagnosis("hub-unreachable", "no hub", retryable=True)
        await asyncio.sleep(300)
        assert one.runs == [False, False, True]
        assert case.path.endswith("backoff starting backoff starting ready")
        assert "the standby failed" not in caplog.text
        assert sum("restart " in line for line in caplog.messages) == 2
        await one.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
