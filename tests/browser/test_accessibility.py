"""Everybody can use it: axe-core finds nothing, and the keyboard is enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server, visiting
from tests.browser.test_chat import ready, say, until_ready
from tests.browser.test_status import GPUS

TEXT = (
    "Why?\n\n# Title\n\nText with `code`, [a link](https://example.com).\n\n"
    "```python\n# comment\ndef f(x):\n    return 'text', 42\n```\n\n- one\n- two\n\n| a | b |\n|---|:-:|\n| 1 | 2 |\n\n> said\n\n"
    "- [x] done\n- [ ] to do\n\n\\(x_1\\) and\n\n\\[\n\\frac{1}{2}\n\\]"
)
FAILED = {
    "state": "failed", "model": MODEL, "fraction": None,
    "error": {"message": "it failed", "remedy": "set MAX_MODEL_LEN=8192", "code": "a-code", "docs": "docs"},
}  # fmt: skip
STARTING = {
    "state": "starting", "phase": "compiling", "phase_fraction": 0.5, "fraction": 0.4, "elapsed_seconds": 30,
    "estimate_seconds": 75, "remaining_seconds": 45, "download": None, "model": MODEL, "error": {"message": "x"},
}  # fmt: skip


@pytest.fixture(params=["light", "dark"])
def seen(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Visit]:
    """Give a page on a system that is light, or dark."""
    with visiting(browser, color_scheme=request.param, reduced_motion="reduce") as one:
        yield one


def test_axe_of_the_chat(seen: Visit, server: Server) -> None:
    """The chat empty, with an answer of every kind, its options, its dialogs, and on a phone."""
    server.engine(text=TEXT, reasoning_tokens=1)
    page = ready(seen, server.url)
    assert seen.axe() == []
    say(page, "Hello")
    expect(page.locator(".stats")).to_have_count(1)
    page.locator(".reasoning summary").click()
    page.get_by_role("button", name="Options").click()
    assert seen.axe() == []
    page.get_by_role("button", name="Copy as code").click()
    assert seen.axe() == []
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="Close options").click()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".versions")).to_have_text("‹2/2›")
    page.get_by_role("button", name="New chat").click()
    say(page, "Hello")
    expect(page.locator(".stats")).to_have_count(1)
    change_list(page)
    assert seen.axe() == []
    page.get_by_role("button", name="Edit").click()
    page.set_viewport_size({"width": 390, "height": 800})
    assert seen.axe() == []
    page.get_by_role("button", name="Conversations", exact=True).click()
    assert seen.axe() == []
    page.get_by_role("button", name="Close conversations").click()
    # Nothing is cut off or has to be scrolled to sideways (WCAG 2.2, 1.4.10).
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def change_list(page: Page) -> None:
    """Delete one conversation, so that it can be brought back, and begin to rename the other."""
    page.locator("#conversations-list li").last.hover()
    page.get_by_role("button", name="Delete: Hello").last.click()
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.locator("#conversations-list li").hover()
    page.get_by_role("button", name="Rename: Hello").click()


def test_axe_of_the_status(seen: Visit, server: Server) -> None:
    """The status ready with plots, while loading, and failed."""
    page = seen.open(f"{server.url}/#status")
    expect(page.locator("#plots-part")).to_be_visible()
    expect(page.locator("#facts")).to_contain_text("Up for")
    assert seen.axe() == []
    for health, title in ((STARTING, "Loading the model"), (FAILED, "The engine cannot run")):
        say_state(page, health)
        expect(page.locator("#state .big")).to_have_text(title)
        assert seen.axe() == []
    say_state(page, STARTING, needs_key=True)
    expect(page.get_by_role("dialog", name="API key")).to_be_visible()
    assert seen.axe() == []


def test_axe_of_the_operators_part(seen: Visit, server: Server) -> None:
    """GPUs, failures, settings; the API reference with an operation that is unfolded; all on a phone too."""
    past = {
        "time": "2026-11-26T20:31:07Z",
        "start": 2,
        "is_final": True,
        "code": "gpu-fault",
        "message": "it failed",
        "remedy": "ask",
    }
    report = server.program.client.get("/ui/status").json() | {"gpus": GPUS, "failures": [past]}
    seen.page.route("**/ui/status", lambda route: route.fulfill(json=report))
    page = seen.open(f"{server.url}/#status")
    page.locator("#settings summary").click()
    for width in (1280, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert seen.axe() == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="API", exact=True).click()
    for name in ("Create Chat Completion", "ChatCompletionRequest", "Fields"):
        page.locator("#api summary", has_text=name).first.click()
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert seen.axe() == []


def say_state(page: Page, health: dict[str, Any], *, needs_key: bool = False) -> None:
    """Have the server say this of its engine."""
    page.unroute_all()
    state = {"needs_key": needs_key, "health": health}
    page.route("**/ui/state", lambda route: route.fulfill(json=state))
    page.reload()


def focused(page: Page) -> str:
    """Return what has the focus, by its name."""
    name: str = page.evaluate(
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.labels?.[0]?.textContent"
        " ?? document.activeElement.textContent.trim()"
    )
    return name


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if focused(page) == name:
            return
    raise AssertionError(f"{name} cannot be reached with Tab")


def test_keyboard_alone(visit: Visit, server: Server) -> None:
    """Ask, copy, open and leave options and dialogs, and change the view, all without a mouse."""
    server.engine(text="Yes.")
    page = visit.open(server.url)
    until_ready(page)
    assert focused(page) == "Message"
    tab_to(page, "Skip to the content")
    page.keyboard.press("Enter")
    tab_to(page, "Options")
    page.keyboard.press("Enter")
    assert focused(page) == "System prompt"
    page.keyboard.press("Escape")
    assert focused(page) == "Options"
    tab_to(page, "Message")
    page.keyboard.type("Is it so?")
    page.keyboard.press("Enter")
    expect(page.locator(".stats")).to_have_count(1)
    expect(page.get_by_role("status")).to_have_text("The answer is there: 1 token")
    assert focused(page) == "Message"
    for name in ("Attach text files", "Regenerate"):
        page.keyboard.press("Shift+Tab")
        assert focused(page) == name
    page.reload()
    until_ready(page)
    tab_to(page, "Status")
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_be_visible()
    expect(page.get_by_role("link", name="Status", exact=True)).to_have_attribute("aria-current", "page")


def test_theme_is_kept(visit: Visit, server: Server) -> None:
    """The theme goes from the system's to light to dark, and a reload begins with it."""
    page = ready(visit, server.url)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    button = page.get_by_role("button", name="Theme")
    button.click()
    assert page.evaluate(colour) == light
    button.click()
    dark = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == dark
    expect(button).to_have_attribute("aria-label", "Theme: dark")
