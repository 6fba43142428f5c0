"""What runs beside the server: its failure is said, and ends the server where it is what the server is for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from vllm_engine.serve import _run_beside


@pytest.mark.parametrize(("fails", "is_essential"), [(True, True), (True, False), (False, True)])
async def test_companion(fails: bool, is_essential: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A failure is logged at once; only an essential one tells the server to stop, and is raised."""

    async def work() -> None:
        if fails:
            raise OSError(5, "Input/output error")

    told = asyncio.Event()
    with caplog.at_level(logging.ERROR):
        [error] = await asyncio.gather(_run_beside(work(), told, is_essential), return_exceptions=True)
    assert ("OSError: [Errno 5] Input/output error" in caplog.text) == fails
    assert told.is_set() == (error is not None) == (fails and is_essential)
