"""The load generator's pure parts: events, rows, percentiles, goodput, arrivals, requests."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perf.bench.cpu_usage import tree, usage
from vllm_engine.client.bench import bench_report
from vllm_engine.client.bench.bench_connection import EventReader
from vllm_engine.client.bench.bench_plan import Plan, arrival_seconds, prompt, request_bytes
from vllm_engine.client.bench.bench_report import Row, is_good, quantiles, render, summarise
from vllm_engine.client.bench.bench_run import parse_slos
from vllm_engine.errors import SettingsError

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}\n\n'
STREAM = TOKEN + b": keep-alive\n\n" + TOKEN + USAGE + b"data: [DONE]\n\n"
PLAN = Plan("http://host:8000/", "m", requests=4)


def rows(*ttfts: float) -> list[Row]:
    """Make one row of ten tokens for each TTFT."""
    more: Any = {"status": 200, "events": 10, "tokens": 10}
    return [Row(at, at, ttft_ms=ttft, e2el_ms=ttft + 90, **more) for at, ttft in enumerate(ttfts)]


def test_events() -> None:
    """A stream says the same however it is cut; text that looks like a mark of the protocol is a token."""
    for size, newline in itertools.product((1, 2, 3, 7, 50, 1000), (b"\n", b"\r\n")):
        stream, reader = STREAM.replace(b"\n", newline), EventReader()
        counted = sum(reader.feed(stream[at : at + size]) for at in range(0, len(stream), size))
        assert (counted, reader.tokens, reader.done, reader.error) == (2, 7, True, None), (size, newline)
    assert EventReader().feed(TOKEN * 5) == 5
    reader = EventReader()
    text = json.dumps({"choices": [{"delta": {"content": '[DONE] "error" "completion_tokens"'}}]})
    assert reader.feed(b"data: " + text.encode() + b"\n\n") == 1
    assert (reader.done, reader.error, reader.tokens) == (False, None, None)
    for event in ('{"error":{"message":"broke off"}}', "not JSON but [DONE]", '["error"]'):
        reader = EventReader()
        assert reader.feed(f"data: {event}\n\n".encode()) == 0
        assert event in (reader.error or "")


def test_quantiles() -> None:
    """They are numpy's linear interpolation, also of values that occur often."""
    cuts = statistics.quantiles([1.0, 2.0, 2.0, 2.0, 10.0, 20.0], n=100, method="inclusive")
    found = quantiles({1.0: 1, 2.0: 3, 10.0: 1, 20.0: 1})
    assert (found.mean, found.median, found.p95, found.p99) == pytest.approx(
        (37 / 6, 2.0, cuts[94], cuts[98])
    )
    assert quantiles({3.0: 1}).p99 == 3.0
    assert math.isnan(quantiles({}).median)


def test_rows(tmp_path: Path) -> None:
    """A row is one JSON object on a line, and equal gaps share an entry, so that it stays small."""
    path = tmp_path / "new" / "rows.jsonl"
    bench_report.write_rows(path, [Row(3, 0.5, itl_ms={"3.75": 2})], target="direct")
    bench_report.write_rows(path, [Row(4, 0.6, error="timeout")])
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["target"], first["number"], first["itl_ms"]) == ("direct", 3, {"3.75": 2})
    assert (second["number"], second["error"]) == (4, "timeout")
    assert bench_report.count_gaps([0.0, 0.0123449, 0.0123401, 1.5]) == {"0": 1, "12.3": 2, "1.5e+03": 1}


def test_summary() -> None:
    """Figures are those of the requests that succeeded; errors are counted by their message."""
    broken = Row(9, sent_s=8.0, e2el_ms=2000, events=4, tokens=4, error="timeout")
    found = summarise([*rows(10.0, 20.0, 30.0), broken], {"ttft": 25.0, "tpot": 50.0})
    assert (found.completed, found.failed, found.good, found.errors) == (3, 1, 2, {"timeout": 1})
    assert (found.events, found.total_output_tokens, found.latencies_ms["ttft"].median) == (34, 30, 20.0)
    rates = (found.duration_s, found.output_throughput, found.request_goodput)
    assert rates == pytest.approx((10.0, 3.0, 0.2))
    assert all(part in render(found) for part in ("P99 TTFT (ms):", "1 x timeout"))


def test_goodput_needs_every_slo() -> None:
    """They are read as vLLM takes them."""
    (row,) = rows(10.0)
    assert (row.tpot_ms, Row(0, 0.0, ttft_ms=1.0, e2el_ms=1.0, tokens=1).tpot_ms) == (10.0, None)
    assert is_good(row, {"ttft": 10.0, "e2el": 100.0, "itl": 1.0})
    assert not is_good(row, {"ttft": 9.9, "e2el": 100.0})
    assert not is_good(Row(0, 0.0, itl_ms={"5": 1, "7": 1}), {"itl": 5.9})
    assert not is_good(Row(0, 0.0, error="timeout"), {})
    assert parse_slos(["ttft:500", "tpot:50.5 e2el:9"]) == {"ttft": 500.0, "tpot": 50.5, "e2el": 9.0}
    for wrong in ("ttft", "ttft:fast", "speed:5"):
        with pytest.raises(SettingsError, match=wrong):
            parse_slos([wrong])


def test_arrivals() -> None:
    """Poisson arrivals have the given mean and are the same for the same seed; constant ones are even."""
    plan = Plan("http://host", "m", requests=4000, rate=50.0, seed=7)
    times = list(arrival_seconds(plan))
    assert times == list(arrival_seconds(plan))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.1)
    even = Plan("http://host", "m", requests=3, rate=4.0, arrivals="constant")
    assert list(arrival_seconds(even)) == [0.0, 0.25, 0.5]
    assert list(arrival_seconds(PLAN)) == []


def test_request() -> None:
    """A request is complete, below the path of the base URL, and its prompt is its own."""
    plan = Plan("http://host:1/api/", "m", requests=1, headers={"X-A": "b"})
    head, _, body = request_bytes(plan, 0).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: host:1\r\n")
    assert b"\r\nX-A: b" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    assert prompt(PLAN, 0) == prompt(PLAN, 0) != prompt(PLAN, 1)
    mixed = replace(PLAN, extra_bodies=({}, {"top_k": 3}))
    bodies = [json.loads(request_bytes(mixed, number).partition(b"\r\n\r\n")[2]) for number in range(4)]
    assert [body.get("top_k") for body in bodies] == [None, 3, None, 3]


def test_usage_of_a_tree() -> None:
    """Children are part of it, unless they are left out; processor time is never less than was used."""
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert list(tree(parent.pid)) == [parent.pid, child]
            assert usage(parent.pid, without=[child]).processes == 1
            assert usage(parent.pid).cpu_seconds > 0
        finally:
            os.kill(child, 9)
