"""What is told of an engine that was lost by the end of one of vLLM's processes."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.diagnosis.test_diagnosis import DEAD, DISK, FACTS, recorded
from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit

CORE = "VLLM::EngineCore (process 870) was killed by SIGKILL"


def test_the_end_of_one_of_vllms_processes() -> None:
    """The signal by which it ended is certain, as no line of vLLM's is; a cause in the lines explains more."""
    for status, lines, code in (
        (-9, (), "engine-killed"),
        (-9, (DEAD,), "engine-killed"),
        (-9, (DISK,), "disk-full"),
        (-11, (DEAD,), "engine-crashed"),
        (-4, (DEAD,), "cpu-not-supported"),
        (-15, (), "engine-stopped"),
        (1, (DEAD,), "engine-core-died"),
        (1, ("KeyError: 'x'",), "unknown"),
        (None, (DEAD,), "engine-core-died"),
    ):
        told = diagnose(EngineExit(None, lines, was_ready=True, seen=CORE, child_status=status), FACTS)
        assert told.code == code, (status, lines)
        assert told.message.startswith(f"the engine was lost while it was serving ({CORE}): ")
    for name, killed in (
        ("killed-core-named", "before it was ready: EngineCore was killed from outside by SIGKILL"),
        ("killed-api-server", "while it was serving: ApiServer_1 was killed from outside by SIGKILL"),
        (
            "killed-from-outside",
            "was killed by SIGKILL before it was ready: it was killed from outside by SIGKILL",
        ),
    ):
        assert killed in diagnose(recorded(name).ending, FACTS).message


def test_a_core_that_ended_in_silence() -> None:
    """How it ended is told where it is known: an exit is no lack of memory."""
    for status, part in (
        (1, "(it exited with status 1)"),
        (0, "(it exited with status 0)"),
        (None, "(how is not known)"),
    ):
        end = EngineExit(None, (), True, seen="a process ended", child_status=status)
        told = diagnose(end, FACTS)
        assert (told.code, part in told.message) == ("engine-core-died", True), told


def test_the_node_that_is_lost_is_named() -> None:
    """By what it does not acknowledge, or by the connection that ended; else it is a hang or an end like any other."""
    seen = "idle, vLLM did not generate a token within 45 s"
    silent = EngineExit(
        None, (), was_ready=True, seen=seen, is_hang=True, silent_peers=("node 1 (10.0.0.9)",)
    )
    line = (
        "RuntimeError: [pair.cc:537] Read error [10.0.0.9]:18112: Connection reset by peer. This is typically"
    )
    closed = EngineExit(0, (line,), was_ready=True)
    head, worker = (
        Facts(nodes=3, head_address="10.0.0.1"),
        Facts(nodes=3, node_rank=1, head_address="10.0.0.9"),
    )
    for ending, facts, code, part in (
        (silent, head, "node-lost", "node 1 (10.0.0.9) was lost: what is sent there is not acknowledged"),
        (silent, Facts(), "engine-hung", "it hung"),
        (replace(silent, silent_peers=()), head, "engine-hung", "it hung"),
        (closed, head, "node-lost", "the node at 10.0.0.9 was lost: connection reset by peer"),
        (closed, worker, "head-lost", "the head at 10.0.0.9 was lost: connection reset by peer"),
        (closed, replace(worker, head_address="10.0.0.1"), "node-lost", "the node at 10.0.0.9 was lost"),
        (closed, Facts(nodes=2, node_rank=1, head_address="head"), "head-lost", "the head at 10.0.0.9"),
        (closed, Facts(), "unknown", "no known cause"),
    ):
        told = diagnose(ending, facts)
        assert (told.code, told.retryable) == (code, True)
        assert part in told.message
