#!/usr/bin/env python3
"""Time a newcomer's first minutes: from a fresh clone to an answer in the page, with the real vLLM.

.venv/bin/python -m tools.newcomer [--runs 3]

Clones this repository's last commit into an empty folder, types `make run` there, opens the page in Chromium as soon as
the engine starts, and asks. Port 8000 has to be free; needs Chromium (tools/debian.sh chromium:chromium).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import expect

from tests.browser.chromium import Visit, chromium
from tests.support.program import until
from vllm_engine.client import FIRST_QUESTION

ROOT = Path(__file__).resolve().parents[1]
URL = "http://127.0.0.1:8000"
SECONDS = 1800.0


def main() -> None:
    """Print when what was there, and of several runs the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1, help="how often, each in a fresh clone; default 1")
    runs = [run(number) for number in range(1, parser.parse_args().runs + 1)]
    if len(runs) > 1:
        print(f"median of {len(runs)} runs:")
        for what in runs[0]:
            print(f"{median(times[what] for times in runs):6.0f} s  {what}")


def run(number: int) -> dict[str, float]:
    """Be a newcomer once; returns the seconds at each step."""
    print(f"run {number}:", flush=True)
    began = time.monotonic()
    times: dict[str, float] = {}

    def note(what: str, more: str = "") -> None:
        times[what] = time.monotonic() - began
        print(f"{times[what]:6.0f} s  {what}{more}", flush=True)

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        clone, log = Path(folder) / "vllm-engine", Path(folder) / "log"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        note("cloned; `make run`")
        with make_run(clone, log) as process:
            until(lambda: "now importing" in said(process, log), "a start of the engine", SECONDS)
            note("set up; the engine starts, and the page can be opened")
            visit = Visit(browser)
            page = visit.open(f"{URL}/#chat")
            expect(page.locator("#pill")).to_have_text("Ready", timeout=SECONDS * 1000)
            note("the page says Ready")
            page.get_by_label("Message", exact=True).fill(FIRST_QUESTION)
            page.keyboard.press("Enter")
            expect(page.locator(".assistant .stats")).to_contain_text("tokens/s", timeout=120_000)
            note("the page shows an answer", f": {page.locator('.assistant .markdown').last.inner_text()}")
            visit.close()
    return times


@contextmanager
def make_run(clone: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(["make", "run"], cwd=clone, stdout=out, stderr=out, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def said(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return what it has printed; fails where it has ended."""
    text = log.read_text(errors="replace")
    assert process.poll() is None, text[-2000:]
    return text


if __name__ == "__main__":
    main()
