"""The chat: what a person types is answered, can be stopped, asked again, changed, and taken along as code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server
from tests.support.program import until

CHAT = "**/v1/chat/completions"


def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def ready(visit: Visit, url: str) -> Page:
    """Open the page; returns once messages can be sent."""
    page = visit.open(f"{url}/#chat")
    until_ready(page)
    return page


def until_ready(page: Page) -> None:
    expect(page.locator("#pill")).to_have_text("Ready")
    expect(page.locator("#chat-model")).to_have_text(MODEL)


def bodies(page: Page) -> list[dict[str, Any]]:
    """Return what is posted to the API from now on."""
    seen: list[dict[str, Any]] = []

    def note(route: Route) -> None:
        seen.append(json.loads(route.request.post_data or ""))
        route.continue_()

    page.route(CHAT, note)
    return seen


def test_answer_with_markdown(visit: Visit, server: Server) -> None:
    """An answer streams in, is shown as markdown, and says its tokens, first token and rate."""
    text = (
        "# Title\n\nSome **bold**, *slanted*, ~~old~~ and `code`.\n\n"
        "```python\ndef f():\n    return 'x'  # why\n```\n\n"
        "1. one\n2. two\n   - inner\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n> said\n\n"
        "[link](https://example.com/a_(b)) and https://example.org/x.\n\nsnake_case_name 2 * 3 * 4"
    )
    server.engine(text=text, tokens_per_second=200)
    page = ready(visit, server.url)
    say(page, "Hello")
    answer = page.locator(".assistant")
    expect(answer.locator(".stats")).to_have_text(
        re.compile(r"^\d+ tokens · first after [\d.]+ m?s · [\d,.]+ tokens/s$")
    )
    expect(page.locator(".user .body")).to_have_text("Hello")
    expect(answer.locator("h3")).to_have_text("Title")
    for tag, content in (("strong", "bold"), ("em", "slanted"), ("del", "old"), ("p > code", "code")):
        expect(answer.locator(tag)).to_have_text(content)
    expect(answer.locator("pre code")).to_have_text("def f():\n    return 'x'  # why")
    assert answer.locator("pre .keyword").all_inner_texts() == ["def", "return"]
    expect(answer.locator("ol > li")).to_have_text(["one", "two\ninner"], use_inner_text=True)
    expect(answer.locator("td.right")).to_have_text("2")
    expect(answer.locator("blockquote")).to_have_text("said")
    links = answer.locator("a").evaluate_all("all => all.map((one) => one.href)")
    assert links == ["https://example.com/a_(b)", "https://example.org/x"]
    expect(answer.locator(".markdown > p").last).to_have_text("snake_case_name 2 * 3 * 4")


def test_stop_and_regenerate(visit: Visit, server: Server) -> None:
    """Stop ends the engine's work and keeps what is there; regenerate asks again with the same words."""
    server.engine(text="word " * 500, tokens_per_second=20)
    page = ready(visit, server.url)
    left = server.program.metric("gateway_disconnects_total")
    say(page, "Talk")
    expect(page.locator(".assistant .markdown").last).to_contain_text("word word")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".stats")).to_have_text(re.compile(r"^\d+ tokens .* stopped$"))
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    until(lambda: server.program.metric("gateway_disconnects_total") > left, "notice of its leaving")
    server.engine(text="Quite another answer.")
    seen = bodies(page)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".assistant .markdown").last).to_have_text("Quite another answer.")
    assert [message["content"] for message in seen[0]["messages"]] == ["Talk"]
    expect(page.locator(".messages > li")).to_have_count(2)
    # Escape stops an answer too, unless it closes, empties or leaves something else.
    server.engine(text="word " * 2000, tokens_per_second=20)
    say(page, "Talk")
    expect(page.locator(".assistant .markdown").last).to_contain_text("word")
    page.get_by_role("button", name="Options").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Close options")).to_be_hidden()
    page.get_by_label("Search conversations").fill("Talk")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit").last.click()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Edit your message")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.press("Escape")
    expect(page.locator(".stats").last).to_contain_text("stopped")


def test_edit(visit: Visit, server: Server) -> None:
    """An edited message replaces everything from it on; Escape leaves it as it was; a reload shows it, a new chat forgets."""
    server.engine(text="Yes.")
    page = ready(visit, server.url)
    for text in ("first", "second"):
        say(page, text)
        expect(page.locator(".stats")).to_have_count(1 if text == "first" else 2)
    page.get_by_role("button", name="Edit").first.click()
    page.keyboard.press("Escape")
    expect(page.locator(".user .body").first).to_have_text("first")
    seen = bodies(page)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit your message").fill("changed")
    page.keyboard.press("Enter")
    expect(page.locator(".messages > li")).to_have_count(2)
    expect(page.locator(".stats")).to_have_count(1)
    assert [message["content"] for message in seen[0]["messages"]] == ["changed"]
    page.reload()
    expect(page.locator(".user .body")).to_have_text("changed")
    expect(page.locator(".assistant .markdown").last).to_have_text("Yes.")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".messages > li")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()


def test_reasoning_is_folded(visit: Visit, server: Server) -> None:
    """Reasoning is there and closed; it is neither part of the answer nor sent back."""
    server.engine(text="Let me think. The answer is 4.", reasoning_tokens=3)
    page = ready(visit, server.url)
    say(page, "2 + 2?")
    expect(page.locator(".assistant > .markdown")).to_have_text("The answer is 4.")
    hidden = page.locator(".reasoning .markdown")
    expect(hidden).to_be_hidden()
    page.get_by_text("Reasoning", exact=True).click()
    expect(hidden).to_have_text("Let me think.")
    seen = bodies(page)
    say(page, "Sure?")
    expect(page.locator(".stats")).to_have_count(2)
    assert "Let me think" not in json.dumps(seen)


def test_old_name_of_reasoning(visit: Visit, server: Server) -> None:
    """Reasoning also comes as `reasoning_content`; comments, CRLF and split data lines are no obstacle."""
    chunks: list[dict[str, Any]] = [
        {"delta": {"reasoning_content": "hmm"}},
        {"delta": {"content": "é日😀"}, "finish_reason": "stop"},
    ]
    events = [json.dumps({"choices": [{"index": 0, **chunk}]}, ensure_ascii=False) for chunk in chunks]
    text = f": keep-alive\r\n\r\ndata: {events[0]}\r\n\r\n: again\n\ndata:{events[1]}\n\ndata: [DONE]\n\n"
    page = ready(visit, server.url)
    page.route(CHAT, lambda route: route.fulfill(content_type="text/event-stream", body=text))
    say(page, "Hi")
    expect(page.locator(".assistant > .markdown")).to_have_text("é日😀")
    expect(page.locator(".reasoning .markdown")).to_have_text("hmm")


def test_errors(visit: Visit, server: Server) -> None:
    """What has come stays, the error is told under it in words, with when to try again; trying again helps."""
    page = ready(visit, server.url)
    overload: dict[str, Any] = {"error_headers": {"Retry-After": "7"}}
    for scenario, kept, *told in (
        ({"error_after_n_chunks": 3}, "The quick", "The answer was interrupted", "Internal server error"),
        ({"cut_after_n_chunks": 3}, "The quick", "The", "engine"),
        (overload | {"error_status": 429}, "", "Too many requests just now", "Try again in 7 seconds."),
        (overload | {"error_status": 503}, "", "The engine cannot answer just now", "Try again in 7 seconds."),
    ):  # fmt: skip
        server.engine(**scenario)
        say(page, "Hi")
        for text in told:
            expect(page.locator(".failure")).to_contain_text(text)
        expect(page.locator(".assistant > .markdown")).to_contain_text(kept)
        server.engine(text="Better.")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".assistant > .markdown")).to_have_text("Better.")
        expect(page.locator(".failure")).to_have_count(0)
        page.get_by_role("button", name="New chat").click()
    say(page, "word " * 3000)
    expect(page.locator(".failure")).to_contain_text(
        "Start a new chat, or edit a message to make it shorter."
    )
    visit.forgive("status of 400")
    visit.forgive("status of 429")
    visit.forgive("status of 503")


def test_code_can_be_run(visit: Visit, server: Server, tmp_path: Path) -> None:
    """The request as curl, Python and JavaScript does what the page would do, whatever is in the text."""
    server.engine(text="Run.")
    page = ready(visit, server.url)
    page.get_by_role("button", name="Options").click()
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Top k").fill("40")
    page.get_by_label("JSON schema").fill('{"type": "object", "additionalProperties": false}')
    page.get_by_label("Message", exact=True).fill('it\'s "$HOME" `x` \\ ${y} 😀\nnext')
    page.get_by_role("button", name="Copy as code").click()
    codes = {}
    for name in ("curl", "Python", "JavaScript"):
        page.get_by_role("button", name=name, exact=True).click()
        page.locator("#code-copy").click()
        expect(page.locator("#code-copy")).to_have_text("Copied")
        codes[name] = page.evaluate("navigator.clipboard.readText()")
        expect(page.locator("#code-copy")).to_have_text("Copy")
    programs = {"curl": "bash", "Python": sys.executable, "JavaScript": shutil.which("node")}
    environ = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}
    for name, program in programs.items():
        (tmp_path / "ask.mjs").write_text(codes[name])
        if program:
            done = subprocess.run(
                [program, "ask.mjs"], cwd=tmp_path, env=environ, capture_output=True, timeout=60
            )
            assert (done.returncode, b"Run." in done.stdout) == (0, True), done.stderr


def test_empty_and_multiline(visit: Visit, server: Server) -> None:
    """Nothing is sent without text; Shift+Enter makes a line; a long wait is bridged by comments, which are not shown."""
    server.engine(text="At last.", first_token_seconds=1.0)
    page = ready(visit, server.url)
    seen = bodies(page)
    field = page.get_by_label("Message", exact=True)
    field.press("Enter")
    field.press_sequentially("one")
    field.press("Shift+Enter")
    field.press_sequentially("two")
    field.press("Enter")
    expect(page.locator(".stats")).to_have_count(1)
    expect(page.locator(".assistant > .markdown")).to_have_text("At last.")
    assert [body["messages"] for body in seen] == [[{"role": "user", "content": "one\ntwo"}]]
