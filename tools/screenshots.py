#!/usr/bin/env python3
"""Take the documentation's pictures of the page, with the tests' stand-in for vLLM, and write docs/images/.

.venv/bin/python -m tools.screenshots [--minutes N]

N minutes of made-up load (default 15) come before the picture of the plots. Needs Chromium (tools/debian.sh
chromium:chromium).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page

from tests.browser.chromium import Visit, chromium
from tests.browser.conftest import Server, serving

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
MODEL = "Qwen/Qwen2.5-3B-Instruct"
QUESTION = "Write a Python function that reverses a linked list."
ANSWER = """\
Here is a function that reverses a linked list **in place**:

```python
def reverse(head):
    before = None
    while head is not None:  # one step at a time
        head.next, before, head = before, head, head.next
    return before
```

It takes `O(n)` time and no further memory:

| list | steps | result |
| --- | --: | --- |
| empty | 0 | `None` |
| one node | 1 | the same node |
| n nodes | n | the former last node |
"""
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 800}


@contextmanager
def server(scenario: dict[str, Any], **variables: str) -> Iterator[Server]:
    """Run our program with a stand-in engine in a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(
            Path(folder) / "server", scenario, MODEL_ID="./model", SERVED_MODEL_NAME=MODEL, **variables
        ) as one,
    ):
        one.program.until_listening()
        yield one


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
    print(f"page-{name}.png: {(IMAGES / f'page-{name}.png').stat().st_size / 1000:.0f} kB")


def talk(one: Page) -> None:
    """Have the question answered, and show the conversation from its beginning."""
    one.locator("#pill[data-tone=good]").wait_for()
    one.wait_for_function("(name) => document.querySelector('#chat-model').textContent === name", arg=MODEL)
    one.get_by_label("Message", exact=True).fill(QUESTION)
    one.keyboard.press("Enter")
    one.locator(".stats").wait_for()
    one.evaluate("document.querySelector('#scroll').scrollTop = 0")
    one.evaluate("document.activeElement.blur()")


def load(one: Server, seconds: float) -> None:
    """Have more and fewer ask, in waves."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me something. " * 20}]}

    def ask(until: float, number: int) -> None:
        with httpx2.Client(base_url=one.url, timeout=60.0) as client:
            while time.monotonic() < until:
                client.post("/v1/chat/completions", json=body)
                time.sleep(0.4 + 0.3 * number)

    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        wave = 3.2 + 2.4 * math.sin(passed / 70) + 1.4 * math.sin(passed / 23)
        one.engine(
            text="word " * 120,
            tokens_per_second=34 - 1.6 * wave,
            first_token_seconds=0.12 + 0.03 * wave,
            max_running=8,
        )
        threads = [
            threading.Thread(target=ask, args=(time.monotonic() + 6, number))
            for number in range(max(0, round(wave)))
        ]
        for thread in threads:
            thread.start()
        time.sleep(6)
        for thread in threads:
            thread.join()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    minutes = parser.parse_args().minutes
    IMAGES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        with (
            server({"startup_seconds": 40, "stall_at": "Loading safetensors"}) as one,
            page(browser, one.url) as shown,
        ):
            shown.wait_for_timeout(12_000)
            shoot(shown, "loading")
        with (
            server(
                {"startup_log": "cpu-0.32-fail-max-model-len.log", "die_at_start": 1}, ON_FATAL="hold"
            ) as one,
            page(browser, one.url) as shown,
        ):
            shown.locator("#pill[data-tone=bad]").wait_for()
            shoot(shown, "failed")
        with server({"text": ANSWER, "tokens_per_second": 60, "first_token_seconds": 0.14}) as one:
            one.program.until_ready()
            for name, dark, phone in (
                ("chat", False, False),
                ("chat-dark", True, False),
                ("chat-phone", True, True),
            ):
                with page(browser, one.url, dark=dark, phone=phone) as shown:
                    talk(shown)
                    shoot(shown, name)
            load(one, minutes * 60)
            for name, dark in (("status", False), ("status-dark", True)):
                with page(browser, f"{one.url}/#status", dark=dark) as shown:
                    shown.locator("#plots-part").wait_for()
                    shoot(shown, name)


if __name__ == "__main__":
    main()
