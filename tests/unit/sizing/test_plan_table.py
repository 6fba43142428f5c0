"""What is computed for a start is within 5 % of what real vLLMs counted when they started."""

from __future__ import annotations

import pytest

from tools.plan_table import STARTS, Start, compare, main


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.log)
def test_every_figure_of_a_real_log_is_met(start: Start) -> None:
    figures = {name: figure for name, figure in compare(start).figures.items() if figure.logged is not None}
    assert {"weights, GiB"} < figures.keys()
    assert {name: figure for name, figure in figures.items() if abs(figure.off or 0) > 0.05} == {}


def test_the_page_is_current() -> None:
    assert main(["--check"]) == 0
