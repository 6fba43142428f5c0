"""Conversations: a list that is kept, found, named, deleted and moved, in all tabs alike."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import Server, visiting
from tests.browser.test_chat import CHAT, bodies, ready, say, until_ready

_NO_STORAGE = """for (const name of ["indexedDB", "localStorage", "sessionStorage"])
    Object.defineProperty(window, name, { get() { throw new DOMException("blocked", "SecurityError") } })"""
_OLD: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "an old question"},
        {"role": "assistant", "content": "an old answer", "reasoning": "", "ended": "stop"},
    ],
    "options": {"system": "Be old."},
}
_FULL_STORAGE = f"""IDBObjectStore.prototype.put = () => {{ throw new DOMException("full", "QuotaExceededError") }};
    if (location.protocol !== "about:") localStorage.setItem("vllm-engine.chat /", {json.dumps(json.dumps(_OLD))})"""


def titles(page: Page) -> Locator:
    """Return what the list shows."""
    return page.locator("#conversations-list .conversation > span:first-child")


def answer(page: Page) -> Locator:
    """Return the text of the last answer."""
    return page.locator(".assistant > .markdown").last


def ask(page: Page, text: str, reply: str) -> None:
    """Send a message and wait for the whole answer."""
    say(page, text)
    expect(page.locator(".messages > li").last.locator(".stats")).to_be_visible()
    expect(answer(page)).to_have_text(reply)


def act(page: Page, does: str, title: str) -> None:
    """Press a button of the list."""
    page.get_by_role("button", name=f"{does}: {title}").focus()
    page.keyboard.press("Enter")


def test_list(visit: Visit, server: Server) -> None:
    """A new chat keeps the old one; they are found by their text, opened, renamed, deleted and brought back."""
    server.engine(text="About trees.")
    page = ready(visit, server.url)
    ask(page, "What is an oak?", "About trees.")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".messages > li")).to_have_count(0)
    server.engine(text="About the sea.")
    ask(page, "What is a wave?", "About the sea.")
    expect(titles(page)).to_have_text(["What is a wave?", "What is an oak?"])
    search = page.get_by_label("Search conversations")
    search.fill("TREES")
    expect(titles(page)).to_have_text(["What is an oak?"])
    titles(page).click()
    expect(page.locator(".user .body")).to_have_text("What is an oak?")
    search.fill("nowhere")
    expect(page.get_by_text("None has this text.")).to_be_visible()
    search.fill("")
    act(page, "Rename", "What is an oak?")
    page.keyboard.type("Oaks")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["What is a wave?", "Oaks"])
    page.reload()
    until_ready(page)
    expect(titles(page)).to_have_text(["What is a wave?", "Oaks"])
    expect(page.locator(".user .body")).to_have_text("What is an oak?")
    act(page, "Delete", "Oaks")
    expect(titles(page)).to_have_text(["What is a wave?"])
    expect(page.locator(".messages > li")).to_have_count(0)
    expect(page.get_by_role("button", name="Undo")).to_be_focused()
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["What is a wave?", "Oaks"])
    expect(answer(page)).to_have_text("About trees.")


def test_reload_in_mid_answer(visit: Visit, server: Server) -> None:
    """An answer that a reload has cut short is kept as far as it came, says so, and can be continued."""
    server.engine(text="word " * 500, tokens_per_second=20)
    page = ready(visit, server.url)
    say(page, "Talk")
    expect(answer(page)).to_contain_text("word word")
    expect(page.locator("#rate")).to_have_text(re.compile(r"^[\d.]+ tokens/s$"))
    expect(page.locator("#context")).to_have_text(re.compile(r"^Context: \d+ of 2,048 tokens \(\d"))
    shown = answer(page).inner_text()
    page.get_by_label("Message", exact=True).fill("a draft")
    page.reload()
    until_ready(page)
    expect(page.locator(".stats")).to_contain_text("interrupted")
    expect(page.locator(".failure")).to_have_count(0)
    expect(answer(page)).to_contain_text(shown)
    expect(page.get_by_label("Message", exact=True)).to_have_value("a draft")
    server.engine(text="and the end.")
    seen = bodies(page)
    page.get_by_role("button", name="Continue").click()
    expect(answer(page)).to_have_text(re.compile(r"^word word .*and the end\.$"))
    assert seen[0]["continue_final_message"] is True and seen[0]["add_generation_prompt"] is False
    assert [message["role"] for message in seen[0]["messages"]] == ["user", "assistant"]
    expect(page.locator(".messages > li")).to_have_count(2)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def test_drafts_belong_to_their_conversation(visit: Visit, server: Server) -> None:
    """What is typed is there again after a reload and after another conversation, and is gone once it is sent."""
    server.engine(text="Yes.")
    page = ready(visit, server.url)
    field = page.get_by_label("Message", exact=True)
    expect(field).to_be_focused()
    # All of its first line is in sight.
    assert field.evaluate("(field) => field.clientHeight") > 24
    field.fill("begun")
    page.reload()
    until_ready(page)
    expect(field).to_have_value("begun")
    page.keyboard.press("Enter")
    expect(page.locator(".stats")).to_have_count(1)
    expect(field).to_be_focused()
    field.fill("second")
    page.get_by_role("button", name="New chat").click()
    expect(field).to_have_value("")
    field.fill("other")
    titles(page).first.click()
    expect(field).to_have_value("second")
    say(page, "third")
    expect(page.locator(".stats")).to_have_count(2)
    page.reload()
    until_ready(page)
    expect(field).to_have_value("")


def test_versions(visit: Visit, server: Server) -> None:
    """Editing and regenerating make versions; arrows lead from one to the other, and a reload shows the last one shown."""
    page = ready(visit, server.url)
    server.engine(text="one")
    ask(page, "first", "one")
    server.engine(text="two")
    page.get_by_role("button", name="Regenerate").click()
    expect(answer(page)).to_have_text("two")
    expect(page.locator(".assistant .versions")).to_have_text("‹2/2›")
    ask(page, "after two", "two")
    page.get_by_role("button", name="Previous version").click()
    expect(answer(page)).to_have_text("one")
    expect(page.locator(".messages > li")).to_have_count(2)
    page.get_by_role("button", name="Next version").click()
    expect(page.locator(".user .body")).to_have_text(["first", "after two"])
    server.engine(text="three")
    seen = bodies(page)
    page.get_by_role("button", name="Edit").first.click()
    page.get_by_label("Edit your message").fill("changed")
    page.keyboard.press("Enter")
    expect(answer(page)).to_have_text("three")
    assert [message["content"] for message in seen[0]["messages"]] == ["changed"]
    expect(page.locator(".user .versions")).to_have_text("‹2/2›")
    expect(page.get_by_role("button", name="Next version")).to_be_disabled()
    page.reload()
    until_ready(page)
    expect(page.locator(".user .body")).to_have_text("changed")
    page.get_by_role("button", name="Previous version").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".user .body")).to_have_text(["first", "after two"])
    assert "versions" in page.evaluate("document.activeElement.parentElement.className")


def test_failed_turns_are_left_out(visit: Visit, server: Server) -> None:
    """A question that got no answer is not sent again with the next one; however much its error says, it is exported."""
    page = ready(visit, server.url)
    server.engine(text="Good.")
    ask(page, "fine", "Good.")
    server.engine(error_status=503)
    for text in ("failed", "failed again"):
        say(page, text)
        last = page.locator(".messages > li").last
        expect(last.locator(".failure")).to_contain_text("The engine cannot answer")
        expect(last.locator(".stats")).to_have_count(0)
        expect(last).to_contain_text("left out of later requests")
    server.engine(text="Better.")
    seen = bodies(page)
    ask(page, "and now", "Better.")
    contents = [(message["role"], message["content"]) for message in seen[0]["messages"]]
    assert contents == [("user", "fine"), ("assistant", "Good."), ("user", "and now")]
    page.route(CHAT, lambda route: route.fulfill(status=400, json={"error": {"message": "x" * 20_000}}))
    say(page, "refused")
    expect(page.locator(".messages > li").last.locator(".failure")).to_contain_text("xxx")
    with page.expect_download():
        page.get_by_role("button", name="Export").click()
    visit.forgive("status of 503")
    visit.forgive("status of 400")


def test_tabs_in_step(visit: Visit, server: Server) -> None:
    """Two tabs show the same list; one shows that the other waits for an answer, and what came of it."""
    server.engine(text="One.")
    one = ready(visit, server.url)
    ask(one, "from one", "One.")
    two = visit.context.new_page()
    two.goto(f"{server.url}/#chat")
    until_ready(two)
    expect(titles(two)).to_have_text(["from one"])
    # A conversation of its own: neither overwrites the other's.
    ask(two, "from two", "One.")
    expect(titles(one)).to_have_text(["from two", "from one"])
    titles(two).last.click()
    expect(two.locator(".user .body")).to_have_text("from one")
    server.engine(text="word " * 500, tokens_per_second=20)
    say(one, "long")
    note = two.get_by_text("Another tab is waiting for an answer in this conversation.")
    expect(note).to_be_visible()
    expect(two.get_by_text("Answering in another tab")).to_be_visible()
    two.get_by_label("Message", exact=True).fill("not now")
    expect(two.locator("#send")).to_be_disabled()
    expect(answer(two)).to_contain_text("word")
    one.get_by_role("button", name="Stop", exact=True).click()
    expect(note).to_be_hidden()
    expect(two.locator(".stats").last).to_contain_text("stopped")
    say(one, "longer")
    expect(two.get_by_text("Answering in another tab")).to_be_visible()
    act(two, "Delete", "from one")
    expect(titles(one)).to_have_text(["from two"])
    expect(one.locator(".messages > li")).to_have_count(0)
    two.reload()
    expect(titles(two)).to_have_text(["from two"])


def test_tab_that_died(visit: Visit, server: Server) -> None:
    """A conversation is free again some time after a tab that waited for an answer in it has died without a word."""
    visit.page.clock.install()
    server.engine(text="One.")
    page = ready(visit, server.url)
    ask(page, "a question", "One.")
    page.evaluate("""() => {
        const { id } = document.querySelector("#conversations-list li").dataset;
        new BroadcastChannel("vllm-engine.chat /").postMessage({ kind: "answering", id }) }""")
    note = page.get_by_text("Another tab is waiting for an answer in this conversation.")
    expect(note).to_be_visible()
    page.clock.fast_forward(95_000)
    expect(note).to_be_hidden()
    ask(page, "another question", "One.")


def test_export_and_import(visit: Visit, browser: Browser, server: Server, tmp_path: Path) -> None:
    """What one browser exports another imports, once; what is no such file is refused, and says why."""
    server.engine(text="One.")
    page = ready(visit, server.url)
    ask(page, "to keep", "One.")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".assistant .versions")).to_have_text("‹2/2›")
    expect(page.locator(".stats")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    download.value.save_as(file)
    exported: dict[str, Any] = json.loads(file.read_text())
    assert (exported["format"], exported["version"]) == ("vllm-engine.conversations", 1)
    with visiting(browser) as other:
        there = ready(other, server.url)
        note = there.locator("#conversations-note")
        field = there.locator("#import-file")
        bad = tmp_path / "bad.json"
        [conversation] = exported["conversations"]
        loop = [conversation["messages"][0] | {"parent": 0}]
        for content, told in (
            ("{", "the file is not JSON"),
            (json.dumps([1]), "format is missing, but has to be vllm-engine.conversations"),
            (json.dumps(exported | {"version": 2}), "version is 2, but has to be 1"),
            (
                json.dumps(exported | {"conversations": [conversation | {"messages": loop, "head": 0}]}),
                "conversations[0].messages[0].parent is 0, but has to be null",
            ),
            (
                json.dumps(exported | {"conversations": [conversation, conversation | {"head": 99}]}),
                "conversations[1].head is 99",
            ),
            (
                json.dumps(exported | {"conversations": [conversation | {"head": None}]}),
                "conversations[0].head is null, but has to be the index of a message",
            ),
        ):
            bad.write_text(content)
            field.set_input_files(bad)
            expect(note).to_contain_text(told)
        expect(titles(there)).to_have_count(0)
        for told in ("1 conversation imported.", "0 conversations imported, 1 already there."):
            field.set_input_files(file)
            expect(note).to_have_text(told)
        titles(there).click()
        expect(there.locator(".assistant .versions")).to_have_text("‹2/2›")
        expect(answer(there)).to_have_text("One.")


def test_old_conversation_is_taken_over(visit: Visit, server: Server) -> None:
    """The one conversation that older pages had in local storage is in the list, and the options stay."""
    page = ready(visit, server.url)
    page.evaluate("(old) => localStorage.setItem('vllm-engine.chat /', JSON.stringify(old))", _OLD)
    page.reload()
    until_ready(page)
    titles(page).click()
    expect(answer(page)).to_have_text("an old answer")
    assert json.loads(page.evaluate("localStorage['vllm-engine.chat /']")) == {"options": _OLD["options"]}
    page.reload()
    expect(titles(page)).to_have_text(["an old question"])


@pytest.mark.parametrize("script", [_NO_STORAGE, _FULL_STORAGE], ids=["blocked", "full"])
def test_without_storage(visit: Visit, server: Server, script: str) -> None:
    """Where the browser stores nothing it works all the same, and says what that means."""
    visit.page.add_init_script(script)
    server.engine(text="Yes.")
    page = ready(visit, server.url)
    ask(page, "first", "Yes.")
    expect(page.get_by_text("This browser does not store them")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    ask(page, "second", "Yes.")
    titles(page).last.click()
    expect(page.locator(".user .body")).to_have_text("first")


def test_jump_to_the_end(visit: Visit, server: Server) -> None:
    """Who has scrolled up stays there while the answer goes on, and gets to its end with one press."""
    server.engine(text="line\n\n" * 400, tokens_per_second=100)
    page = ready(visit, server.url)
    say(page, "Talk")
    expect(page.locator(".assistant .markdown > p").nth(40)).to_be_visible()
    jump = page.get_by_role("button", name="Jump to the end")
    expect(jump).to_be_hidden()
    page.locator("#scroll").evaluate("(box) => box.scrollTo(0, 0)")
    expect(jump).to_be_visible()
    expect(page.locator(".assistant .markdown > p").nth(60)).to_be_attached()
    assert page.locator("#scroll").evaluate("(box) => box.scrollTop") == 0
    jump.click()
    expect(jump).to_be_hidden()
    assert (
        page.locator("#scroll").evaluate("(box) => box.scrollHeight - box.scrollTop - box.clientHeight") < 80
    )
