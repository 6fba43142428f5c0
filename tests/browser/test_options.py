"""The options: each is sent as vLLM takes it, none is set invisibly, and wrong ones are named and not sent."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server
from tests.browser.test_chat import bodies, ready, say, until_ready
from tests.browser.test_rendering import stream

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TYPED = {
    "System prompt": "Be brief.", "Temperature": "0.5", "Top p": "0.9", "Top k": "40", "Min p": "0.05",
    "Repetition penalty": "1.1", "Presence penalty": "-0.5", "Frequency penalty": "0.25", "Max tokens": "7",
    "Seed": "42", "Stop at": "END\nstop", "JSON schema": json.dumps(SCHEMA),
}  # fmt: skip
SENT: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": -0.5,
    "frequency_penalty": 0.25, "max_tokens": 7, "seed": 42, "stop": ["END", "stop"],
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
}  # fmt: skip
WRONG = {
    "Temperature": ("3", "Must be a number from 0 to 2, not “3”."),
    "Top p": ("0", "Must be a number above 0 and at most 1, not “0”."),
    "Top k": ("1.5", "Must be a whole number of at least -1, not “1.5”."),
    "Max tokens": ("many", "Must be a whole number of at least 1, not “many”."),
    "Repetition penalty": ("-1", "Must be a number above 0, not “-1”."),
    "Seed": ("9007199254740993", "Must be a whole number with at most 15 digits, not “9007199254740993”."),
    "JSON schema": ("{", "Not JSON: "),
}


def options(page: Page) -> None:
    """Open the options."""
    page.get_by_role("button", name=re.compile("^Options")).click()


def test_options_are_sent_and_seen(visit: Visit, server: Server) -> None:
    """Each option is in the request, is seen with the form closed, survives a reload, and can be reset alone."""
    server.engine(text="{}")
    page = ready(visit, server.url)
    chips = page.get_by_role("group", name="Options that are not at their defaults")
    expect(chips).to_be_hidden()
    options(page)
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.3 (default)")
    expect(page.get_by_label("Top p")).to_have_attribute("placeholder", "Default")
    for label, value in TYPED.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("JSON mode").check()
    page.get_by_role("button", name="Close options").click()
    page.reload()
    until_ready(page)
    expect(page.get_by_role("button", name="Options (13)")).to_be_visible()
    for text in ("System prompt", "Temperature 0.5", "Min p 0.05", "Stop at", "JSON mode", "JSON schema"):
        expect(chips.get_by_text(text, exact=True)).to_be_visible()
    seen = bodies(page)
    say(page, "Go")
    expect(page.locator(".stats")).to_have_count(1)
    system = {"role": "system", "content": "Be brief."}
    assert seen[0] == SENT | {
        "model": MODEL, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "messages": [system, {"role": "user", "content": "Go"}],
    }  # fmt: skip
    page.get_by_role("button", name="Reset Temperature 0.5").click()
    page.get_by_role("button", name="Reset JSON schema").click()
    say(page, "Go")
    expect(page.locator(".stats")).to_have_count(2)
    assert "temperature" not in seen[1] and seen[1]["response_format"] == {"type": "json_object"}
    page.get_by_role("button", name="Reset all").click()
    expect(chips).to_be_hidden()
    page.reload()
    until_ready(page)
    say(page, "Go")
    expect(page.locator(".stats")).to_have_count(3)
    assert seen[2].keys() == {"model", "messages", "stream", "stream_options"}


def test_wrong_options_are_named(visit: Visit, server: Server) -> None:
    """A value that vLLM would refuse is named at its field, and nothing is sent until it is mended."""
    server.engine(text="Yes.")
    page = ready(visit, server.url)
    options(page)
    seen = bodies(page)
    for label, (value, told) in WRONG.items():
        field = page.get_by_label(label, exact=True)
        field.fill(value)
        expect(field).to_have_accessible_description(re.compile(f"^{re.escape(told)}"))
        expect(field).to_have_attribute("aria-invalid", "true")
        page.get_by_role("button", name="Close options").click()
        say(page, "Hi")
        expect(field).to_be_focused()
        expect(page.get_by_label("Message", exact=True)).to_have_value("Hi")
        field.fill("")
        expect(field).not_to_have_attribute("aria-invalid", "true")
    page.get_by_label("Temperature").fill("1e-1")
    say(page, "Hi")
    expect(page.locator(".stats")).to_have_count(1)
    assert [body["temperature"] for body in seen] == [0.1]


def test_token_probabilities(visit: Visit, server: Server) -> None:
    """Asked for, each token's probability is told, with what else could have been there, to mouse and keyboard."""
    page = ready(visit, server.url)
    options(page)
    page.get_by_label("Token probabilities").check()
    other = {"token": " No", "logprob": math.log(0.25)}
    tokens = [
        {
            "token": "Yes",
            "logprob": math.log(0.5),
            "top_logprobs": [{"token": "Yes", "logprob": math.log(0.5)}, other],
        },
        {"token": "<b>", "logprob": math.log(0.04), "top_logprobs": []},
    ]
    chunks = [{"delta": {"content": one["token"]}, "logprobs": {"content": [one]}} for one in tokens]
    seen = stream(page, *chunks)
    say(page, "Is it?")
    page.locator(".probabilities summary").click()
    assert (seen[0]["logprobs"], seen[0]["top_logprobs"]) == (True, 5)
    expect(page.locator(".tokens span")).to_have_text(["Yes", "<b>"])
    told = page.locator(".probabilities [role=status]")
    page.locator(".tokens span").first.hover()
    expect(told).to_have_text('"Yes" 50 %; else " No" 25 %')
    page.get_by_role("group", name="Tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(told).to_have_text('"<b>" 4 %')
    assert visit.axe() == []
