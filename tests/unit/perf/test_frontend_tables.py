"""The tables of the frontends say what the rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.bench.tables import read_rows
from perf.frontends.__main__ import parse
from perf.frontends.frontend_loads import MAX_TOKENS, MIXES, requests_for
from perf.frontends.frontend_servers import until_ready
from perf.frontends.frontend_tables import DOCUMENT, KEPT, NAME, markdown
from perf.gpu.servers import Failed, Server


def a_leg(target: str, round_number: int, speed: float, **more: Any) -> dict[str, Any]:
    leg = {
        "what": "leg",
        "mix": "chat",
        "pace": 200.0,
        "streams": 256,
        "target": target,
        "round": round_number,
    }
    leg |= {
        "tokens_per_second": speed,
        "events_per_second": speed,
        "ttft_p50": 1.0,
        "ttft_p99": 2.0,
        "errors": 0,
    }
    cpu = {"python": 80.0, "core": 2.0, "generator": 8.0}
    memory = {"python": {"pss": 2.0, "private": 1.0}, "core": {"pss": 9.0, "private": 9.0}}
    return {**leg, "cpu_us": cpu, "memory_mib": memory, **more}


def a_start(server: str, seconds: float, pss: float) -> dict[str, Any]:
    return {"what": "start", "server": server, "seconds": seconds, "memory_mib": {"python": {"pss": pss}}}


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_server_is_compared_with_those_of_its_kind_in_the_same_round() -> None:
    rows = [
        *(a_leg("python", number, speed) for number, speed in enumerate((100.0, 1000.0))),
        *(a_leg("ours-python", number, speed) for number, speed in enumerate((50.0, 100.0))),
        *(a_leg("ours-rust", number, speed) for number, speed in enumerate((200.0, 400.0, 9.0))),
        *(a_leg("ours-both", number, speed) for number, speed in enumerate((100.0, 200.0))),
    ]
    text = markdown(rows)
    assert "### 256 streams, 200 tokens/s each: chat completions" in text
    assert cells(text, "ours-both")[:5] == ["2", "150", "2.00", "0.50", "150"]
    assert cells(text, "ours-rust")[2:4] == ["4.00", "1.00"]
    assert cells(text, "python")[2:4] == ["1.00", "-"]


def test_cost_is_told_of_every_process_and_memory_without_the_core() -> None:
    cpu = {"gateway": 10.0, "python": 0.0, "rust": 20.0, "core": 2.0, "generator": 8.0}
    (*_, gateway, python, rust, core, client, both, share, memory, errors) = cells(
        markdown([a_leg("ours-both", 0, 20_000.0, cpu_us=cpu, errors=3)]), "ours-both"
    )
    assert (gateway, python, rust, core, client, both) == ("10.0", "0.0", "20.0", "2.0", "8.0", "40.0")
    assert (share, memory, errors) == ("0.20", "1", "3")


def test_each_load_has_a_table_of_its_own_and_failures_are_named() -> None:
    rows = [
        a_leg("python", 0, 1.0),
        a_leg("python", 0, 1.0, mix="mixed"),
        a_leg("python", 0, 1.0, streams=512),
    ]
    text = markdown([*rows, {"what": "failed", "server": "ours-both", "error": "it ended"}])
    assert text.count("###") == 3
    assert text.endswith("Not measured: ours-both: it ended")


def test_starts_and_memory_are_compared_with_python_alone() -> None:
    rows = [a_start("ours-both", 21.0, 1100.0), a_start("ours-python", 20.0, 1000.0)]
    assert cells(markdown(rows), "ours-both") == [
        "1",
        "21.00",
        "1.050",
        "0",
        "1,100",
        "0",
        "0",
        "1,100",
        "100",
    ]


def test_a_leg_takes_about_the_time_that_it_is_given() -> None:
    assert requests_for(256.0 * MAX_TOKENS, 256, 5.0) == 256 * 5
    assert requests_for(1.0, 256, 5.0) == 256 * 2


def test_one_request_in_ten_is_what_the_rust_frontend_refuses() -> None:
    assert [bool(each) for each in MIXES["mixed"]] == [False] * 9 + [True]
    assert not any(MIXES["chat"])


def test_results_of_two_runs_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(SystemExit):
        parse([str(tmp_path)])
    assert "expected a new folder" in capsys.readouterr().err


def test_the_document_has_the_tables_of_the_rows_that_are_kept() -> None:
    assert f"<!-- {NAME}:begin -->\n{markdown(read_rows(KEPT))}\n<!-- {NAME}:end -->" in DOCUMENT.read_text()


@pytest.mark.parametrize(("runs", "is_right"), [("both", True), ("python", False)])
def test_a_server_that_fell_back_is_not_measured(
    runs: str, is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "until_generates", lambda *_: 2.5)
    monkeypatch.setattr(Server, "get", lambda *_: json.dumps({"frontend": runs}))
    server = Server("ours-both", "ours", 1, 1, "", 0.0)
    if is_right:
        assert until_ready(server, 9) == 2.5
    else:
        with pytest.raises(Failed, match="ours-both runs python, expected both"):
            until_ready(server, 9)
