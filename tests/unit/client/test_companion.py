"""What runs beside the server: its failure is said, and ends the server where it is what the server is for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from vllm_engine.serve import _Beside


@pytest.mark.parametrize("is_essential", [True, False])
async def test_a_failure(is_essential: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log at once, whatever it is; an essential one tells the server to stop, and is kept."""

    async def work() -> None:
        raise OSError(5, "Input/output error")

    told = asyncio.Event()
    beside = _Beside(work(), is_essential)
    with caplog.at_level(logging.ERROR):
        await beside.run(told)
    assert "OSError: [Errno 5] Input/output error" in caplog.text
    assert told.is_set() == (beside.error is not None) == is_essential


async def test_success() -> None:
    """It ends, and the server goes on."""

    async def work() -> None:
        return None

    told = asyncio.Event()
    beside = _Beside(work(), is_essential=True)
    await beside.run(told)
    assert not told.is_set() and beside.error is None
