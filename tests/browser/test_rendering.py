"""What models write is shown as they mean it: math, columns, tasks, raw reasoning, calls of tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import Server
from tests.browser.test_chat import CHAT, bodies, ready, say

_RENDER = """async (text) => {
    const { render } = await import(new URL("ui/chat/markdown.js", document.baseURI));
    const box = document.createElement("div");
    render(box, text);
    return { html: box.innerHTML, text: box.textContent,
        math: [...box.querySelectorAll(".math")].map((one) => [one.textContent, one.className.includes("block")]) } }"""
_PARTS = """async (content) => {
    const { parts } = await import(new URL("ui/chat/content.js", document.baseURI));
    const { reasoning, text } = parts({ content });
    return [reasoning, text] }"""

_CALLS = """async (json) => {
    const { callsText } = await import(new URL("ui/chat/content.js", document.baseURI));
    return callsText({ calls: [{ name: "a", arguments: json }] }).split("\\n")[2] }"""

MATH = {
    r"so \(x_1 * y_2\) and \[a\\b\] end": [(r"\(x_1 * y_2\)", False), (r"\[a\\b\]", True)],
    r"It is $$e^{i\pi} + 1 = 0$$.": [(r"$$e^{i\pi} + 1 = 0$$", True)],
    "\\[\nx =\n- y\n> 0 \\\\\n# 1\n\\]\n\n- item": [("\\[\nx =\n- y\n> 0 \\\\\n# 1\n\\]", True)],
    "$$\na\n$$ where *b*": [("$$\na\n$$", True)],
    "\\begin{align*}\na &= b \\\\\n\\end{align*}": [("\\begin{align*}\na &= b \\\\\n\\end{align*}", True)],
    "\\[ it goes on\n_a_": [("\\[ it goes on\n_a_", True)],
    "$x$, $2n+1$, $f(x)$, $(a, b)$, $x_i$ and $a < b$": [
        (math, False) for math in ("$x$", "$2n+1$", "$f(x)$", "$(a, b)$", "$x_i$", "$a < b$")
    ],
    "from $5 to $10, or $5 and then 3$, $HOME/$USER, $a `b_$`": [],
    r"`\(x\)` and \$x_1\$": [],
}
"""What a model writes, and which math is in it, on a line of its own or within one."""

THOUGHTS = {
    "<think>\nhm **x**\n</think>\n\nYes.": ("hm **x**", "Yes."),
    "<think>hm</th": ("hm", ""),
    "<thi": ("", ""),
    "hm\n\n```\na\n```\n</think>\n\nYes.": ("hm\n\n```\na\n```", "Yes."),
    "hm.</think>\nYes.": ("hm.", "Yes."),
    "The tag </think> ends it, as `</think>`\ndoes.": None,
    "See:\n```\n<think>\n</think>\n```\n": None,
    "See:\n```\n</think>\n```\n": None,
    "First <think> and </think>\nlast.": None,
    "a <think": None,
}
"""A content, and the reasoning and the text in it; None where all of it is text."""


def test_math_is_as_written(visit: Visit, server: Server) -> None:
    """Math keeps every backslash and what looks like Markdown in it; prices and variables are not math."""
    page = ready(visit, server.url)
    for text, math in MATH.items():
        shown = page.evaluate(_RENDER, text)
        assert [tuple(one) for one in shown["math"]] == math, text
    assert page.evaluate(_RENDER, r"\(a unclosed *b*")["text"] == r"\(a unclosed b"
    server.engine(text="So:\n\n\\[\n\\frac{1}{2}\n\\]")
    say(page, "Half?")
    expect(page.locator(".stats")).to_have_count(1)
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.math'))")
    assert page.evaluate("getSelection().toString()") == "\\[\n\\frac{1}{2}\n\\]"


def test_columns_and_tasks(visit: Visit, server: Server) -> None:
    """Columns are aligned as their marks say; tasks are boxes that say whether they are done."""
    server.engine(
        text="| a | b | c | d |\n|:-:|--:|:--|---|\n| 1 | 2 | 3 | x\\|y |\n\n- [x] done\n- [ ] to *do*\n  - [X] in\n- [z] not\n\nسلام"
    )
    page = ready(visit, server.url)
    say(page, "Show")
    expect(page.locator(".stats")).to_have_count(1)
    cells = page.locator("td")
    expect(cells).to_have_text(["1", "2", "3", "x|y"])
    aligned = cells.evaluate_all("all => all.map((one) => getComputedStyle(one).textAlign)")
    assert aligned == ["center", "right", "left", "left"]
    boxes = page.locator(".assistant").get_by_role("checkbox")
    assert boxes.evaluate_all("all => all.map((one) => [one.checked, one.disabled, one.ariaLabel])") == [
        [True, True, "Done"], [False, True, "To do"], [True, True, "Done"],
    ]  # fmt: skip
    expect(page.locator(".assistant li").last).to_have_text("[z] not")
    # A paragraph begins where its script does.
    assert page.locator(".assistant p").last.evaluate("""(one) => {
        const range = document.createRange();
        range.selectNodeContents(one);
        return Math.abs(range.getBoundingClientRect().right - one.getBoundingClientRect().right) < 2 }""")


def test_thoughts_in_the_content(visit: Visit, server: Server) -> None:
    """Tags of reasoning count where templates put them, and not in code or within a sentence."""
    page = ready(visit, server.url)
    for content, expected in THOUGHTS.items():
        assert tuple(page.evaluate(_PARTS, content)) == (expected or ("", content)), content


@pytest.mark.parametrize("opening", ["<think>\n", ""])
def test_raw_reasoning_is_folded(visit: Visit, server: Server, opening: str) -> None:
    """Without a reasoning parser, too, reasoning is folded, live, not copied and not sent back."""
    server.engine(text=f"{opening}Let me think.", stall_after_n_chunks=3 + bool(opening))
    page = ready(visit, server.url)
    say(page, "2 + 2?")
    answer = page.locator(".assistant > .markdown")
    if opening:
        page.get_by_text("Reasoning …").click()
        expect(page.locator(".reasoning .markdown")).to_have_text("Let me think.")
        expect(answer).to_be_empty()
    else:
        expect(answer).to_have_text("Let me think.")
    page.get_by_role("button", name="Stop", exact=True).click()
    server.engine(text=f"{opening}Let me think.\n</think>\n\nThe answer is 4.")
    page.get_by_role("button", name="Regenerate").click()
    expect(answer).to_have_text("The answer is 4.")
    expect(page.locator(".reasoning .markdown")).to_be_hidden()
    page.get_by_text("Reasoning", exact=True).click()
    expect(page.locator(".reasoning .markdown")).to_have_text("Let me think.")
    page.locator(".assistant").get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == "The answer is 4."
    seen = bodies(page)
    say(page, "Sure?")
    expect(page.locator(".stats")).to_have_count(2)
    assert [one["content"] for one in seen[0]["messages"]] == ["2 + 2?", "The answer is 4.", "Sure?"]


def test_tool_calls_are_shown(visit: Visit, server: Server) -> None:
    """A call of a tool shows its name and its arguments, whatever pieces it comes in."""
    page = ready(visit, server.url)
    arguments = '{"city": "Oslo ~~~", "days": 2}'
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    calls = [
        first,
        *({"index": 0, "function": {"arguments": letter}} for letter in arguments),
        {"index": 1, "function": {"name": "time`", "arguments": "{broken"}},
    ]
    stream(
        page,
        *({"delta": {"tool_calls": [call]}} for call in calls),
        finish="tool_calls",
    )
    say(page, "Weather?")
    expect(page.locator(".stats")).to_contain_text("ended to call a tool")
    expect(page.locator(".calls > p")).to_have_text(["Tool call weather", "Tool call time"])
    expect(page.locator(".calls pre")).to_have_text([json.dumps(json.loads(arguments), indent=2), "{broken"])
    # More runs than a call in JavaScript can have arguments.
    assert page.evaluate(_CALLS, "~ " * 300_000 + "~~~~") == "~~~~~json"


def stream(page: Page, *chunks: dict[str, Any], finish: str = "stop") -> list[dict[str, Any]]:
    """Have the next answers come in these pieces; returns what is posted from now on."""
    seen: list[dict[str, Any]] = []
    events = [
        {"choices": [{"index": 0, **chunk}]} for chunk in (*chunks, {"delta": {}, "finish_reason": finish})
    ]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"

    def answer(route: Route) -> None:
        seen.append(json.loads(route.request.post_data or ""))
        route.fulfill(content_type="text/event-stream", body=text)

    page.route(CHAT, answer)
    return seen
