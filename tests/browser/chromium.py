"""A real Chromium, driven by Playwright; Debian's or whichever is on PATH."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

SECONDS = 60.0
"""What anything on the page may take on a busy machine."""

_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run", "--no-proxy-server",
]  # fmt: skip
# A rule's own name for each finding is enough to look it up; the nodes say where.
_AXE = """async () => (await axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa",
    "best-practice"]})).violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" | ")}`)"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run one; skips where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("NOT TESTED: no Chromium on PATH; install it with tools/debian.sh chromium:chromium")
    expect.set_options(timeout=SECONDS * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS, timeout=SECONDS * 1000)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One page in a context of its own, and everything that went wrong on it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(SECONDS * 1000)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._network_changes = 0
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", lambda dialog: self._dialog(dialog))

    def _said(self, kind: str, text: str) -> None:
        if "ERR_NETWORK_CHANGED" in text:
            self._network_changes += 1
        elif kind in ("error", "warning"):
            self.errors.append(f"{kind}: {text}")

    def _dialog(self, dialog: Any) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def forgive(self, text: str) -> None:
        """Take errors that hold this text as expected; there must be one."""
        kept = [error for error in self.errors if text not in error]
        assert len(kept) < len(self.errors), f"no error with {text!r}: {self.errors}"
        self.errors = kept

    def open(self, url: str) -> Page:
        """Load the page; again if somebody else's containers came or went, as Chromium then drops connections."""
        for _ in range(3):
            changes = self._network_changes
            try:
                self.page.goto("about:blank")
                self.page.goto(url)
            except Error as error:
                if "ERR_NETWORK_CHANGED" not in error.message:
                    raise
                continue
            if self._network_changes == changes:
                break
        return self.page

    def axe(self) -> list[str]:
        """Return what axe-core finds wrong with the page as it is now."""
        # Colours that are still on their way are not the page's colours.
        self.page.evaluate(
            "Promise.all(document.getAnimations().filter((one) => one.effect.getTiming().iterations !== Infinity)"
            ".map((one) => one.finished))"
        )
        self.page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
        found: list[str] = self.page.evaluate(_AXE)
        return found

    def close(self) -> None:
        """Close it, and fail if anything went wrong on it."""
        self.context.close()
        assert not self.errors, self.errors
