#!/usr/bin/env python3
"""Take the documentation's pictures of the page with the real vLLM and the bundled model, and write docs/images/.

.venv/bin/python -m tools.screenshots [--minutes N] [--only NAME ...]

What is shown is what happens: a start that fails for want of memory, a start, answers of the model, and N minutes of load
(default 15) before the pictures of the plots. NAME is failed, loading, chat or status; `--only` may be repeated. Needs the
engine's environment (make setup) and Chromium (tools/debian.sh chromium:chromium).
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.browser.chromium import Visit, chromium
from tests.e2e.conftest import CACHE_DIR, ENGINE_PYTHON, MODEL, START_SECONDS
from tests.support.program import Program, plain_client, running, until

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
NAMES = ("failed", "loading", "chat", "status")
QUESTIONS = ("Why is the sky blue?", "Give me three tips for sleeping better.")
FURTHER = (*QUESTIONS, "Write a short email asking for a day off.")
TOO_LITTLE_CACHE = {"KV_CACHE_MEMORY_BYTES": "64000000", "ON_FATAL": "hold"}
"""Less than the 8,192 tokens of MAX_MODEL_LEN need: vLLM refuses it, and the page stays to say why."""
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 800}


@contextmanager
def server(**variables: str) -> Iterator[Program]:
    """Run our program with the real engine in a folder of its own."""
    environ = {"ENGINE_PYTHON": str(ENGINE_PYTHON), "MODEL_ID": MODEL, "CACHE_DIR": str(CACHE_DIR)}
    with (
        redirect_stdout(io.StringIO()),  # its log, which is for tests
        tempfile.TemporaryDirectory() as folder,
        running(environ | variables, folder=Path(folder)) as program,
    ):
        program.until_listening()
        yield program


@contextmanager
def page(browser: Browser, url: str, *, dark: bool = False, phone: bool = False) -> Iterator[Page]:
    """Open the page."""
    scheme = "dark" if dark else "light"
    visit = Visit(browser, viewport=PHONE if phone else DESKTOP, color_scheme=scheme, reduced_motion="reduce")
    yield visit.open(url)
    visit.close()


def shoot(one: Page, name: str) -> None:
    """Write a picture."""
    one.wait_for_timeout(400)
    one.screenshot(path=IMAGES / f"page-{name}.png")
    print(f"page-{name}.png: {(IMAGES / f'page-{name}.png').stat().st_size / 1000:.0f} kB", file=sys.stderr)


def talk(one: Page) -> None:
    """Have the questions answered, and show the conversation from its beginning."""
    one.locator("#pill[data-tone=good]").wait_for()
    one.wait_for_function("(name) => document.querySelector('#chat-model').textContent === name", arg=MODEL)
    for number, question in enumerate(QUESTIONS, 1):
        one.get_by_label("Message", exact=True).fill(question)
        one.keyboard.press("Enter")
        one.locator(".stats").nth(number - 1).wait_for(timeout=START_SECONDS * 1000)
    one.evaluate("document.querySelector('#scroll').scrollTop = 0")
    one.evaluate("document.activeElement.blur()")


def load(url: str, seconds: float) -> None:
    """Have more and fewer ask, in waves."""
    end, questions = time.monotonic() + seconds, itertools.cycle(FURTHER)

    def ask(question: str) -> None:
        with plain_client(url) as client:
            client.post(
                "/v1/chat/completions",
                json={
                    "model": MODEL,
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 120,
                },
                timeout=300.0,
            ).raise_for_status()

    began = time.monotonic()
    while time.monotonic() < end:
        passed = time.monotonic() - began
        wave = round(2.5 + 2 * math.sin(passed / 70) + math.sin(passed / 23))
        threads = [threading.Thread(target=ask, args=(next(questions),)) for _ in range(wave)]
        for thread in threads:
            thread.start()
        time.sleep(4)
        for thread in threads:
            thread.join()


def shoot_failed(browser: Browser) -> None:
    """A start that fails, and what the page says about it."""
    with server(**TOO_LITTLE_CACHE) as one, page(browser, f"{one.url}/#status") as shown:
        shown.locator("#pill[data-tone=bad]").wait_for(timeout=START_SECONDS * 1000)
        shoot(shown, "failed")


def shoot_loading(browser: Browser, one: Program) -> None:
    """A start on its way, once it has begun to load what it serves."""
    with page(browser, f"{one.url}/#status") as shown:
        until(lambda: (one.health() or {}).get("phase") not in ("preparing", None), "vLLM's start")
        shown.wait_for_timeout(8_000)
        shoot(shown, "loading")


def shoot_chat(browser: Browser, one: Program) -> None:
    """The same questions, light, dark and on a phone."""
    for name, dark, phone in (("chat", False, False), ("chat-dark", True, False), ("chat-phone", True, True)):
        with page(browser, f"{one.url}/#chat", dark=dark, phone=phone) as shown:
            talk(shown)
            shoot(shown, name)


def shoot_status(browser: Browser, one: Program, minutes: float) -> None:
    """What the plots show of a real load."""
    load(one.url, minutes * 60)
    for name, dark in (("status", False), ("status-dark", True)):
        with page(browser, f"{one.url}/#status", dark=dark) as shown:
            shown.locator("#plots-part").wait_for()
            shown.locator("#plots-part").evaluate(
                "(part) => { part.style.scrollMarginTop = '1.5rem'; part.scrollIntoView(); }"
            )
            shoot(shown, name)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=NAMES)
    parser.add_argument("--minutes", type=float, default=15)
    arguments = parser.parse_args()
    names = set(arguments.only or NAMES)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        if "failed" in names:
            shoot_failed(browser)
        if names == {"failed"}:
            return
        with server() as one:
            if "loading" in names:
                shoot_loading(browser, one)
            one.until_ready(START_SECONDS)
            if "chat" in names:
                shoot_chat(browser, one)
            if "status" in names:
                shoot_status(browser, one, arguments.minutes)


if __name__ == "__main__":
    main()
