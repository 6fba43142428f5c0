"""One text of both frontends' metrics: held to what a real engine with both said, idle and with streams on either.

tests/data/metrics has the recordings, cut down: vLLM 0.32 on a CPU, `X-python.txt` and `X-rust.txt` at the same moment.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.observe.engine_metrics.engine_text import EngineMetrics
from vllm_engine.gateway.observe.engine_metrics.metrics_merge import Merge
from vllm_engine.gateway.observe.engine_metrics.metrics_text import MetricsReader, written

RECORDED = Path(__file__).parents[2] / "data/metrics"
PYTHON, RUST = Frontend.PYTHON, Frontend.RUST
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
MODEL = frozenset({("engine", "0"), ("model_name", "m")})


def recorded(name: str) -> dict[Frontend, bytes]:
    return {one: (RECORDED / f"{name}-{one}.txt").read_bytes() for one in Frontend}


def samples(text: bytes) -> Samples:
    """Return a text's samples: each family is there once and has a type, each series is there once."""
    families = list(text_string_to_metric_families(text.decode()))
    assert len({one.name for one in families}) == len(families)
    assert not [one.name for one in families if one.type in ("unknown", "untyped")]
    every = [sample for one in families for sample in one.samples]
    values = {(one.name, frozenset(one.labels.items())): one.value for one in every}
    assert len(values) == len(every)
    return values


def test_gauges_are_those_of_the_frontend_that_the_scheduler_reports_to() -> None:
    """Whoever runs, was there first or has left; with nobody at the engine they are 0, whatever both still say.

    In the last one the request to the Python frontend was sent 2 ms before the other, and taken up after it: for minutes
    its gauges stood still.
    """
    merge = Merge()
    for name, at_engine, running in (
        ("idle", [], 0),
        ("python-first", [PYTHON, RUST], 2),
        ("python-left", [RUST], 1),
        ("idle-again", [], 0),
        ("rust-first", [RUST, PYTHON], 2),
        ("rust-left", [PYTHON], 1),
        ("race", [PYTHON, RUST], 2),
        ("race", [PYTHON, RUST], 2),
        ("idle-again", [], 0),
    ):
        found = samples(merge.text(recorded(name), at_engine))
        assert found["vllm:num_requests_running", MODEL] == running, name
        usage = found["vllm:kv_cache_usage_perc", MODEL]
        assert usage == pytest.approx(0.00275482 * running), name
        assert found["vllm:num_requests_waiting", MODEL] == 0


def test_counts_add_up() -> None:
    """Of each series, whoever has it; of a histogram's buckets those whose bounds both have, so that each is right."""
    both = recorded("rust-first")
    python, rust, found = (samples(text) for text in (*rewritten(both), Merge().text(both, [RUST])))
    for (name, labels), value in found.items():
        theirs = [one.get((name, labels)) for one in (python, rust)]
        if name.endswith(("_total", "_sum", "_count", "_bucket")):
            assert value == sum(filter(None, theirs)), name
        elif not name.startswith("vllm:num_requests"):
            assert value in theirs, name
    assert found["vllm:prefix_cache_queries_total", MODEL] == 176 + 246
    assert found["vllm:iteration_tokens_total_count", MODEL] == 15 + 28
    bounds = {
        one: {dict(labels)["le"] for name, labels in found if name == f"vllm:{one}_bucket"}
        for one in ("request_prompt_tokens", "time_to_first_token_seconds")
    }
    # The model takes 1024 tokens here, and the Rust frontend's buckets go up to 131072 for any model.
    assert max(map(float, bounds["request_prompt_tokens"] - {"+Inf"})) == 1000
    assert len(bounds["time_to_first_token_seconds"]) == 23
    chat = frozenset({("handler", "/v1/chat/completions"), ("method", "POST"), ("status", "2xx")})
    assert (
        found["http_requests_total", chat]
        == python["http_requests_total", chat] + rust["http_requests_total", chat]
    )


def test_what_only_one_has_is_kept() -> None:
    """The configuration, the process and the sleep state are the Python frontend's; families without series are left out."""
    found = samples(Merge().text(recorded("idle"), []))
    names = {name for name, _ in found}
    assert {"vllm:cache_config_info", "vllm:engine_sleep_state", "process_resident_memory_bytes"} <= names
    assert {"python_info", "vllm:generation_tokens_created", "vllm:corrupted_requests_total"} <= names
    awake = MODEL | {("sleep_state", "awake")}
    assert found["vllm:engine_sleep_state", awake] == 1
    assert "mooncake" not in Merge().text(recorded("idle"), []).decode()


def rewritten(texts: dict[Frontend, bytes]) -> list[bytes]:
    """Return each text as it is without the other."""
    return [Merge().text({one: text}, []) for one, text in texts.items()]


def test_one_frontend_alone() -> None:
    """The Python frontend's text comes out as it went in; the Rust one's with valid TYPE lines, and the same series."""
    python, rust = recorded("race")[PYTHON], recorded("race")[RUST]
    assert Merge().text({PYTHON: python}, [PYTHON]) == python
    found = samples(Merge().text({RUST: rust}, [RUST]))
    as_written = {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(rust.decode())
        for one in family.samples
    }
    assert found == as_written
    assert found["vllm:num_requests_running", MODEL] == 2


def test_reading() -> None:
    """Label values may hold anything; what follows a value is left out; what is no sample is an error that names it."""
    reader = MetricsReader()
    text = (
        '# HELP a \\n it\'s\n# TYPE a counter\na_total{b="}\\" # ",a="1"} 5 1700000000 # {t="x"} 0.5\n'
        'bare 1e3\n# TYPE h histogram\nh_bucket{le="8388608"} 1\nh_bucket{le="+Inf"} 2 # {id="z"} 9\n# EOF\n'
    )
    expected = (
        b'# HELP a_total \\n it\'s\n# TYPE a_total counter\na_total{a="1",b="}\\" # "} 5.0\n'
        b'# TYPE bare untyped\nbare 1000.0\n# TYPE h histogram\nh_bucket{le="8.388608e+06"} 1.0\nh_bucket{le="+Inf"} 2.0\n'
    )
    for _ in range(2):
        assert written(reader.read(text).values()) == expected
    assert written(()) == b""
    for broken in ("a{b=1} 2", "a{", "<html>", "a b", "a"):
        with pytest.raises(ValueError, match=r"text format|could not convert"):
            MetricsReader().read(broken)


def test_types_that_differ() -> None:
    """The Python frontend's counts: a sum of two kinds is nothing."""
    texts = {PYTHON: b"# TYPE vllm:x gauge\nvllm:x 1\n", RUST: b"# TYPE vllm:x histogram\nvllm:x_count 5\n"}
    assert Merge().text(texts, [RUST]) == b"# TYPE vllm:x gauge\nvllm:x 1.0\n"


async def test_what_the_gateway_reads() -> None:
    """The Python frontend's alone byte for byte; None while one does not answer, or answers what cannot be read."""
    activity = EngineActivity()
    check = object()
    activity.enter(check, RUST)
    answers: list[dict[Frontend, bytes] | None] = [
        {PYTHON: b"anything {"}, None, recorded("rust-first"), {RUST: b"anything {"}, recorded("idle"),
    ]  # fmt: skip

    async def read() -> dict[Frontend, bytes] | None:
        return answers.pop(0)

    metrics = EngineMetrics(read, activity)
    assert await metrics.text() == b"anything {"
    assert await metrics.text() is None
    assert samples(await metrics.text() or b"")["vllm:num_requests_running", MODEL] == 2
    assert await metrics.text() is None
    activity.leave(check)
    assert samples(await metrics.text() or b"")["vllm:num_requests_running", MODEL] == 0
