"""A small hostile campaign; the whole one is scripts/hostile.py."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perf.campaign.rig import Rig, rig

SEED = 1
INPUTS = {"client": 400, "engine": 200}
GROWTH_BYTES = 32 << 20


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One program for both sides."""
    with rig(tmp_path_factory.mktemp("campaign")) as program:
        yield program


@pytest.mark.parametrize("side", INPUTS)
def test_campaign(one: Rig, side: str) -> None:
    """Nothing hangs or is answered wrongly, others are served, memory is flat, and nobody blames the engine."""
    files, memory = one.files(), one.rss()
    report = asyncio.run(one.campaign(side, SEED, range(INPUTS[side])))
    assert not report.faults + one.faults(files)
    assert report.controls
    assert one.rss() - memory < GROWTH_BYTES
