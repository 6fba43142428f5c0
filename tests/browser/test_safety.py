"""Nothing that a model says runs, loads or leads astray; nothing of the page is from elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

import vllm_engine.gateway.local
from tests.browser.chromium import Visit
from tests.browser.conftest import Server
from tests.browser.test_chat import CHAT, ready, say, until_ready

WEB = Path(vllm_engine.gateway.local.__file__).parent / "web"
CORPUS: list[str] = json.loads((Path(__file__).parent / "xss.json").read_text(encoding="utf-8"))
MAX_BYTES = 250_000
TAGS = {
    "A", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DEL", "DIV", "EM", "H3", "H4", "H5", "H6", "HR", "INPUT", "LI", "OL", "P",
    "PRE", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL",
}  # fmt: skip
ATTRIBUTES = {
    "class",
    "href",
    "target",
    "rel",
    "type",
    "tabindex",
    "role",
    "aria-label",
    "scope",
    "start",
    "disabled",
    "checked",
}
_AUDIT = """() => [...document.querySelectorAll(".markdown *")].map((one) => ({
    tag: one.tagName, names: one.getAttributeNames(), href: one.href ?? null, rel: one.rel ?? null,
    type: one.type ?? null, disabled: one.disabled ?? null}))"""


def around(payload: str) -> str:
    """Put an attack into every place that markdown has."""
    line = payload.replace("\n", " ")
    return "\n\n".join(
        (
            payload, f"# {line}", f"- {line}", f"> {line}", f"**{line}**", f"[{line}](https://example.com)",
            f"[text]({line})", f"![text]({line})", f"<{line}>", f"`{line}`", f"```{line}\n{payload}\n```",
            f"```html\n{payload}\n```", f"| {line} | b |\n|:-:|---|\n| {line} | {line} |", f"- [x] {line}",
            f"\\({line}\\) $${line}$$ $x_1{line}$", f"\\[\n{payload}\n\\]",
        )
    )  # fmt: skip


def audit(page: Page) -> None:
    """Look at every element that a model's text became."""
    elements = page.evaluate(_AUDIT)
    assert len(elements) > 100
    for element in elements:
        assert element["tag"] in TAGS, element
        assert set(element["names"]) <= ATTRIBUTES, element
        if element["tag"] == "A":
            assert element["href"].startswith(("http://", "https://")), element
            assert {"noopener", "noreferrer"} <= set(element["rel"].split()), element
        if element["tag"] == "INPUT":
            assert (element["type"], element["disabled"]) == ("checkbox", True), element
    assert page.evaluate("window.pwned") is None


def assert_home_only(visit: Visit, url: str) -> None:
    """Everything that was loaded came from the server itself."""
    assert {urlsplit(request).netloc for request in visit.requests} == {urlsplit(url).netloc}


def test_the_alarm_rings(visit: Visit) -> None:
    """There are many attacks, and in a page that takes markup one runs, and is seen."""
    assert len(set(CORPUS)) >= 50
    assert sum("pwned" in payload for payload in CORPUS) > len(CORPUS) / 2
    page = visit.page
    page.set_content("<div id=target></div>")
    page.evaluate("(text) => { document.querySelector('#target').innerHTML = text }", CORPUS[1])
    page.wait_for_function("window.pwned")
    visit.errors.clear()


@pytest.mark.parametrize("kind", ["answer", "reasoning"])
def test_nothing_executes(visit: Visit, server: Server, kind: str) -> None:
    """Every attack, in every place of markdown, streamed and reloaded, is only ever text."""
    server.engine()
    page = ready(visit, server.url)
    for at in range(0, len(CORPUS), 16):
        part = CORPUS[at : at + 16]
        text = "\n\n".join(map(around, part))
        # Reasoning comes in a field of its own, or within tags.
        is_tagged = kind == "reasoning" and at % 32 == 0
        text = f"<think>\n{text}\n</think>" if is_tagged else text
        in_field = len(text) if kind == "reasoning" and not is_tagged else 0
        server.engine(text=text, reasoning_tokens=in_field)
        say(page, f"{part[0]} <img src=x onerror=window.pwned=1>")
        expect(page.locator(".stats")).to_have_count(1)
        audit(page)
        page.reload()
        until_ready(page)
        audit(page)
        assert part[0] in (page.locator(".messages").text_content() or "")
        page.get_by_role("button", name="New chat").click()
    assert_home_only(visit, server.url)


def test_attack_in_an_error(visit: Visit, server: Server) -> None:
    """What the engine says of an error is text too, in the chat and in a diagnosis."""
    page = ready(visit, server.url)
    bad = "<img src=x onerror=window.pwned=1>"
    event = "data: " + json.dumps({"error": {"message": bad, "code": bad}}) + "\n\n"
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=event))
    say(page, "Hi")
    expect(page.locator(".failure")).to_contain_text(bad)
    error = dict.fromkeys(("message", "remedy", "code", "docs"), bad)
    health = {"state": "failed", "model": bad, "error": error}
    page.route("**/ui/state", lambda route: route.fulfill(json={"needs_key": False, "health": health}))
    page.goto(f"{server.url}/#status")
    page.reload()
    expect(page.locator(".remedy")).to_contain_text(bad)
    expect(page.locator("#facts")).to_contain_text(bad)
    assert page.locator("img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_policy_is_in_force(visit: Visit, server: Server) -> None:
    """The browser itself refuses markup from strings and inline scripts on this page."""
    page = ready(visit, server.url)
    refused = page.evaluate("""() => {
        try { document.body.innerHTML = "<b>x</b>"; return false } catch (error) { return error.name } }""")
    assert refused == "TypeError"
    # A picture from elsewhere is not asked for.
    page.evaluate("""() => new Promise((done) => {
        const image = new Image(); image.onerror = done; image.src = "https://example.com/x.png" })""")
    assert len(visit.errors) == 2
    visit.forgive("TrustedHTML")
    visit.forgive("Content Security Policy")


def test_no_file_takes_markup() -> None:
    """No script of the page has a way to make markup or code of text."""
    ways = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|"
        r"createContextualFragment|setHTML"
    )
    files = [*WEB.rglob("*.js")]
    assert files and not [one.name for one in files if re.search(ways, one.read_text(encoding="utf-8"))]


def test_size_and_origin(visit: Visit, server: Server) -> None:
    """The page is small, whole in itself, and has no file that it does not load at once."""
    page = ready(visit, server.url)
    assert_home_only(visit, server.url)
    sizes = {path.name: path.stat().st_size for path in WEB.rglob("*.*")}
    assert sum(sizes.values()) < MAX_BYTES
    loaded = {urlsplit(url).path.rpartition("/")[2] or "index.html" for url in visit.requests}
    assert set(sizes) - {"icon.svg"} <= loaded
    received = page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => /[.](js|css|svg)$/.test(one.name))"
        ".reduce((sum, one) => sum + one.transferSize, 0)"
    )
    assert 0 < received < MAX_BYTES


def test_behind_a_path_prefix(visit: Visit, server: Server) -> None:
    """Under a prefix that a proxy takes off, everything works and nothing is asked for elsewhere."""
    server.engine(text="From behind.")

    def take_off(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace("/some/prefix", "", 1)))

    visit.page.route(f"{server.url}/some/prefix/**", take_off)
    for answers, path in enumerate(("/", "/ui"), 1):
        page = visit.open(f"{server.url}/some/prefix{path}#chat")
        until_ready(page)
        say(page, "Hi")
        expect(page.locator(".assistant > .markdown")).to_have_text(["From behind."] * answers)
    assert all(urlsplit(url).path.startswith("/some/prefix/") for url in visit.requests), visit.requests
    visit.page.unroute_all(behavior="ignoreErrors")
