"""The page with the real engine: a chat, its options, and plots of what it really did."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.chromium import Visit, chromium
from tests.e2e.conftest import MODEL, Served

SECONDS = 120


def test_chat_and_plots(served: Served) -> None:
    """A person chats with the real model, stops it, and sees the work on the plots; nothing is wrong on the page."""
    with chromium() as browser:
        visit = Visit(browser, viewport={"width": 1280, "height": 800})
        page = visit.open(served.program.url)
        expect(page.locator("#pill")).to_have_text("Ready")
        expect(page.locator("#chat-model")).to_have_text(MODEL)
        page.get_by_role("button", name="Options").click()
        page.get_by_label("Temperature", exact=True).fill("0")
        page.get_by_label("Max tokens", exact=True).fill("24")
        page.get_by_label("Message", exact=True).fill("What is the capital of Japan?")
        page.keyboard.press("Enter")
        expect(page.locator(".stats")).to_contain_text("tokens/s", timeout=SECONDS * 1000)
        expect(page.locator(".assistant > .markdown")).to_contain_text("Tokyo")
        page.get_by_label("Max tokens", exact=True).fill("2000")
        page.get_by_label("Message", exact=True).fill("Tell me a very long story.")
        page.keyboard.press("Enter")
        expect(page.locator(".assistant > .markdown").last).to_contain_text(
            re.compile(r"\w+ \w+ \w"), timeout=SECONDS * 1000
        )
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(page.locator(".stats").last).to_contain_text("stopped")
        story = page.locator(".assistant > .markdown").last
        begun = story.inner_text()
        page.get_by_label("Max tokens", exact=True).fill("12")
        page.get_by_role("button", name="Continue").click()
        expect(page.locator(".stats").last).to_contain_text("token limit", timeout=SECONDS * 1000)
        assert story.inner_text().startswith(begun[:20]) and len(story.inner_text()) > len(begun)
        expect(page.locator("#context")).to_have_text(re.compile(r"^Context: \d+ of 8,192 tokens"))
        page.reload()
        expect(page.locator(".assistant > .markdown").first).to_contain_text("Tokyo")
        page.get_by_role("link", name="Status", exact=True).click()
        for name in ("Tokens per second", "Time to first token", "Time between tokens"):
            picture = page.get_by_role("img", name=re.compile(rf"^{name}: .*at most .*[1-9]"))
            expect(picture).to_be_visible(timeout=SECONDS * 1000)
        expect(page.locator("#facts")).to_contain_text("8,192 tokens")
        visit.close()
