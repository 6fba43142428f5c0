"""The tables of the router say what the rows say."""

from __future__ import annotations

from typing import Any

from perf.bench.tables import read_rows
from perf.replicas.__main__ import is_fault
from perf.replicas.router_cost import DIRECT, TARGETS
from perf.replicas.router_tables import DOCUMENT, KEPT, NAME, markdown


def a_leg(target: str, round_number: int, speed: float, **more: Any) -> dict[str, Any]:
    numbers = {"ttft_p50": 2.0, "ttft_p99": 3.0, "itl_p99": 4.0, "router_us_per_token": 5.0, "errors": 0}
    fixed = {"what": "cost", "load": "paced", "streams": 8, "gateways_us_per_token": 6.0}
    return {**fixed, **numbers, "target": target, "round": round_number, "tokens_per_second": speed, **more}


def a_phase(done: str, **more: Any) -> dict[str, Any]:
    fixed = {"what": "restart", "policy": "round_robin", "done": done, "clients": 4, "seconds": 1.5}
    return {**fixed, "whole": 9, "truncated": 0, "refused": 0, "retries": 3, **more}


def test_a_target_is_compared_with_the_direct_one_of_its_round() -> None:
    legs = [a_leg(DIRECT, number, speed) for number, speed in ((0, 100.0), (1, 200.0), (2, 300.0))]
    legs += [
        a_leg(TARGETS[1], number, speed, ttft_p50=4.0)
        for number, speed in ((0, 50.0), (1, 160.0), (2, 300.0))
    ]
    text = markdown(legs)
    assert f"| {TARGETS[1]} | 3 | 160 | 0.80 | 4.0 | 2.00 | 3.0 | 4.0 | 5.0 | 6.0 | 0 |" in text
    assert f"| {DIRECT} | 3 | 200 | 1.00 | 2.0 | 1.00 | 3.0 | 4.0 | - | 6.0 | 0 |" in text


def test_faults_are_what_a_kill_does_not_explain() -> None:
    phases = [a_phase("one killed, back again", truncated=2), a_phase("both restarted in turn")]
    assert not any(map(is_fault, phases))
    assert is_fault(a_phase("both restarted in turn", truncated=1))
    assert is_fault(a_phase("one killed, back again", refused=1)) and is_fault(
        a_leg(DIRECT, 0, 1.0, errors=1)
    )
    assert "| round_robin | both restarted in turn | 4 | 1.5 | 9 | 0 | 0 | 3 |" in markdown(phases)


def test_the_document_has_the_tables_of_the_rows_that_are_kept() -> None:
    rows = read_rows(KEPT) if KEPT.exists() else []
    begin, end = f"<!-- {NAME}:begin -->\n", f"\n<!-- {NAME}:end -->"
    assert f"{begin}{markdown(rows)}{end}" in DOCUMENT.read_text()
