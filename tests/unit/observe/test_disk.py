"""The disk of the cache, asked beside the event loop."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from vllm_engine.gateway.observe.disk_usage import Disk


async def test_no_thread_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no thread for it the space is not known, until there is one again."""

    def no_thread(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    disk = Disk(tmp_path)
    with monkeypatch.context() as short:
        short.setattr(Thread, "start", no_thread)
        assert await disk.space() is None
    space = await disk.space()
    assert space is not None and 0 <= space.free <= space.size
