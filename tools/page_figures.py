#!/usr/bin/env python3
"""Measure the page from loopback: first paint, bytes, requests; prints Markdown.

.venv/bin/python -m tools.page_figures [--runs N] [URL]

Without URL, our program with the tests' stand-in for vLLM is measured. Each run is a first visit: a browser context of
its own, nothing cached. Needs Chromium (tools/debian.sh chromium:chromium).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser.chromium import Visit, chromium
from tests.browser.conftest import serving

ROOT = Path(__file__).resolve().parents[1]
_MEASURE = """() => {
    const paint = Object.fromEntries(performance.getEntriesByType("paint").map((one) => [one.name, one.startTime]));
    const [page] = performance.getEntriesByType("navigation");
    const files = performance.getEntriesByType("resource").filter((one) => /[.](js|css|svg)$/.test(one.name));
    return {first: paint["first-paint"], contentful: paint["first-contentful-paint"], loaded: page.loadEventEnd,
        bytes: files.reduce((sum, one) => sum + one.transferSize, page.transferSize), requests: files.length + 1};
}"""


def measure(browser: Browser, url: str) -> dict[str, float]:
    """Visit the page once; times in milliseconds from the start of the navigation."""
    visit = Visit(browser, viewport={"width": 1280, "height": 800})
    page = visit.open(url)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    page.wait_for_function("performance.getEntriesByType('navigation')[0].loadEventEnd > 0")
    found: dict[str, float] = page.evaluate(_MEASURE)
    visit.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url
        if url is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            server = stack.enter_context(serving(Path(folder) / "server", {}))
            server.program.until_ready()
            url = server.url
        browser = stack.enter_context(chromium())
        runs = [measure(browser, url) for _ in range(arguments.runs)]
        version = browser.version
    print(
        f"{arguments.runs} first visits with Chromium {version}, {os.cpu_count()} cores, {platform.machine()}:\n"
    )
    print("| | median | slowest |\n| --- | --: | --: |")
    for name, key in (
        ("first paint", "first"),
        ("first contentful paint", "contentful"),
        ("all loaded", "loaded"),
    ):
        values = [run[key] for run in runs]
        print(f"| {name} | {statistics.median(values):.0f} ms | {max(values):.0f} ms |")
    print(f"\n{runs[0]['bytes'] / 1000:.0f} kB in {runs[0]['requests']:.0f} requests, uncompressed.")


if __name__ == "__main__":
    main()
