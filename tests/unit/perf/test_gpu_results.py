from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perf.bench.tables import read_rows
from perf.gpu.result_tables import DOCUMENT, KEPT, markdown
from perf.gpu.results import Results
from perf.gpu.servers import Failed, Rig, Server, keep, kept
from perf.gpu.starts import phases, until_standby


def a_leg(target: str, round_number: int, speed: float, **more: Any) -> dict[str, Any]:
    latencies = dict.fromkeys(("ttft_p50", "ttft_p99", "itl_p50", "itl_p99"), 1.5)
    leg = {"what": "leg", "target": target, "streams": 256, "round": round_number, "errors": 0, "cpu_us": {}}
    return {**leg, **latencies, "first_error": None, "tokens_per_second": speed, **more}


def a_server(log: Path, pid: int) -> Server:
    return Server("ours", "ours", pid, 1, str(log), 0.0)


def cells(results: Results, target: str) -> list[str]:
    (row,) = [line for line in results.table().splitlines() if line.startswith(f"| {target} |")]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_a_ratio_compares_legs_of_the_same_round(tmp_path: Path) -> None:
    """Each target with plain vLLM, and with what is behind it; a round in which that was not asked counts for neither."""
    results = Results(tmp_path / "results", tmp_path)
    for number, (plain, rust, ours) in enumerate(
        [(100.0, 160.0, 200.0), (1000.0, 3000.0, 1500.0), (10.0, 30.0, 30.0)]
    ):
        results.add(a_leg("vllm", number, plain))
        results.add(a_leg("rust", number, rust))
        results.add(a_leg("ours-rust", number, ours, cpu_us={"gateway": 7.25}))
    results.add(a_leg("ours-rust", 3, 200.0, cpu_us={"gateway": 7.25}))

    assert cells(results, "ours-rust") == [
        *("ours-rust", "4", "200", "2.00", "1.00", "1.5", "1.5", "1.5", "1.5"),
        *("7.2", "-", "-", "0"),
    ]
    assert cells(results, "vllm")[3:5] == ["1.00", "-"]


def test_failures_have_a_table_of_their_own(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", tmp_path)
    failure = {"what": "failure", "name": "oom", "program": "ours", "diagnosed": "x", "is_right": False}
    failure |= {"log": "ours-oom.log", "expected": "y", "ended_itself": True}
    results.add({**failure, "exit_status": 3, "seconds": 1.24, "gpu_peak_gib": None})

    assert cells(results, "oom") == ["oom", "ours", "`x`", "no", "3", "1.2", "0.0"]


def test_the_document_has_the_tables_of_the_rows_that_are_kept() -> None:
    assert f"<!-- gpu:begin -->\n{markdown(read_rows(KEPT))}\n<!-- gpu:end -->" in DOCUMENT.read_text()


def test_starts_are_compared_with_the_plain_warm_start(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", tmp_path)
    results.add({"what": "warm start", "server": "vllm", "seconds": 60.0})
    results.add({"what": "recovery", "server": "ours-cold", "seconds": 15.0})

    assert "| recovery | ours-cold | 15.0 | 0.25 |" in results.table()


def test_every_row_is_on_disk_as_soon_as_it_is_known(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", tmp_path)
    results.add({"what": "warm start", "server": "vllm", "seconds": 60.0})

    (row,) = map(json.loads, (tmp_path / "results/rows.jsonl").read_text().splitlines())

    assert row["seconds"] == 60.0


def test_phases_are_read_from_our_log(tmp_path: Path) -> None:
    log = tmp_path / "ours.log"
    entry = {"message": "importing took 9.4 s; now loading", "phase": "importing", "seconds": 9.38}
    log.write_text(f"not JSON\n{json.dumps({'message': 'x'})}\n{json.dumps(entry)}\n")

    assert list(phases(a_server(log, os.getpid()))) == [("importing", 9.38)]


def test_no_one_waits_for_a_server_that_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "ours.log"
    log.write_text("it failed\n")
    ended = a_server(log, 2**22 + 1)  # above the highest process id of Linux

    with pytest.raises(Failed, match="it failed"):
        ended.until_generates(60)
    with pytest.raises(Failed, match="no standby"):
        until_standby(ended, 60)


def test_a_later_call_finds_what_still_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    running, ended = a_server(log, os.getpid()), a_server(log, 2**22 + 1)
    keep([running, ended], tmp_path / "servers.json")

    assert kept(tmp_path / "servers.json") == [running]
    assert kept(tmp_path / "none.json") == []


def test_every_server_shares_one_folder_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/gateway")
    rig = Rig(Path("python"), "model", ["--eager"], [], tmp_path)

    environ = rig.environment()

    assert environ["VLLM_CACHE_ROOT"] == str(tmp_path / "cache/vllm")
    assert rig.settings(1)["CACHE_DIR"] == str(tmp_path / "cache")
    assert "PYTHONPATH" not in environ
