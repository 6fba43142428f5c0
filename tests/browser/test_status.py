"""The status view: how a start goes, why it failed, what runs, and the last fifteen minutes."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server, StartServer
from tests.support.program import until

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def test_progress_of_a_start(start: StartServer, visit: Visit) -> None:
    """While the model loads the page shows phase and time, and goes on to ready by itself; offline when the server goes."""
    server = start({"startup_seconds": 10})
    server.program.until_listening()
    page = visit.open(server.url)
    expect(page.locator("#pill")).to_contain_text("Loading")
    expect(page.locator("#state .big")).to_have_text("Loading the model")
    expect(page.locator(".steps [aria-current=step]")).to_have_text(re.compile("^(Import|Load|Profile)"))
    expect(page.locator("#state .times").first).to_contain_text("s so far")
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#notice")).to_contain_text("The model is still loading.")
    page.get_by_label("Message", exact=True).fill("Hi")
    expect(page.locator("#send")).to_be_disabled()
    expect(page.locator("#pill")).to_have_text("Ready")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#send")).to_be_enabled()
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#state .steps")).to_be_hidden()
    server.program.close()
    # As if its reader had come back to it: the page asks at once, and not within five seconds.
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#pill")).to_have_text("Offline")
    expect(page.locator("#state .big")).to_have_text("The server cannot be reached")
    visit.forgive("Failed to load resource")


def test_download_and_estimate(visit: Visit, server: Server) -> None:
    """A download shows files, bytes, rate and time left; a known start shows its share."""
    page = visit.page
    health = {
        "status": "unavailable", "state": "starting", "phase": "downloading", "phase_fraction": 0.25,
        "fraction": 0.1, "elapsed_seconds": 12, "estimate_seconds": 130, "remaining_seconds": 118,
        "model": MODEL, "error": {"message": "Loading model"},
        "download": {"files_done": 3, "files_total": 9, "bytes_done": 1_550_000_000, "bytes_total": 6_200_000_000,
                     "bytes_per_second": 52_000_000, "remaining_seconds": 89},
    }  # fmt: skip
    page.route("**/ui/state", lambda route: route.fulfill(json={"needs_key": False, "health": health}))
    visit.open(server.url)
    expect(page.locator("#pill")).to_have_text("Loading 10 %")
    expect(page.locator("#state .times").first).to_have_text("10 % · 12 s so far · about 118 s left")
    expect(page.locator("#state .times").last).to_have_text(
        "Download: 1.6 GB of 6.2 GB · 3 of 9 files · 52 MB/s · 89 s left"
    )
    expect(page.locator(".steps .done")).to_have_text("Prepare")
    expect(page.locator(".steps .current")).to_have_text("Download25 %")
    assert page.locator("progress").evaluate("(bar) => bar.value") == pytest.approx(0.1)


def test_failure_with_remedy(start: StartServer, visit: Visit) -> None:
    """A failed start says what happened and what to do, and the chat says that it cannot go on."""
    scenario = {"startup_log": "cpu-0.32-fail-max-model-len.log", "die_at_start": 1}
    server = start(scenario, ON_FATAL="hold", MAX_MODEL_LEN="8192")
    server.program.until_listening()
    page = visit.open(server.url)
    expect(page.locator("#pill")).to_have_text("Failed")
    expect(page.locator("#state .big")).to_have_text("The engine cannot run")
    error = (server.program.health() or {})["error"]
    expect(page.locator(".diagnosis")).to_contain_text(error["message"][1:])
    expect(page.locator(".remedy")).to_contain_text(error["remedy"][1:])
    expect(page.locator(".diagnosis code")).to_have_text(error["code"])
    expect(page.locator("#plots-part")).to_be_hidden()
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#notice")).to_contain_text("The engine cannot run.")


def test_what_runs(visit: Visit, server: Server) -> None:
    """Everything of /version is there, the context's length and the uptime."""
    page = visit.open(f"{server.url}/ui#status")
    version = server.program.client.get("/version").json()
    expect(page.locator("#facts")).to_contain_text("Up for")
    shown = page.locator("#facts").inner_text()
    for key in ("model", "dtype", "device", "frontend", "vllm", "version", "engine_python"):
        assert version[key] in shown, key
    assert "2,048 tokens" in shown
    assert MODEL in shown


def test_plots_survive_a_reload(visit: Visit, server: Server) -> None:
    """What the engine did before the page was opened is on its plots, in pictures with words."""
    server.engine(text="word " * 30)
    client = server.program.client

    def is_recorded() -> bool:
        # A rate is a difference: what came before the first reading is in none.
        client.post("/v1/chat/completions", json=CHAT).raise_for_status()
        return any(client.get("/ui/history").json()["generated_per_second"])

    until(is_recorded, "work in the history")
    page = visit.open(f"{server.url}/#status")
    for _ in range(2):
        tokens = page.get_by_role("img", name=re.compile(r"^Tokens per second: .* at most [\d,.]*[1-9]"))
        expect(tokens).to_be_visible()
        for name in ("Requests", "KV cache in use", "Time to first token", "Time between tokens"):
            expect(page.get_by_role("img", name=re.compile(f"^{name}: .* now, at most"))).to_be_visible()
        page.reload()
    plot = page.locator(".plot").first
    expect(plot.locator(".line-0")).to_have_attribute("d", re.compile("^M"))
    plot.hover()
    expect(plot.locator(".tip")).to_have_text(re.compile(r"^generated .*, prompts .* ago$"))


def test_key_is_asked_for(start: StartServer, visit: Visit) -> None:
    """With keys set the page asks for one, refuses a wrong one, keeps the right one in this tab, and forgets it."""
    server = start({"text": "Hello."}, API_KEYS="sk-the-right-one")
    server.program.until_ready()
    page = visit.open(f"{server.url}/#chat")
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    assert [url for url in visit.requests if "/version" in url or "/v1/" in url or "history" in url] == []
    page.get_by_label("Key", exact=True).fill("sk-a-wrong-one")
    page.get_by_role("button", name="Use key").click()
    expect(dialog.get_by_role("alert")).to_have_text("The server refused this key.")
    visit.forgive("status of 401")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#notice")).to_contain_text("This server asks for an API key.")
    # What the chat says leads to the dialog, and to no other view.
    assert page.locator("#notice a").count() == 0
    page.locator("#notice").get_by_role("button", name="Enter the key").click()
    expect(dialog).to_be_visible()
    assert page.url.endswith("#chat") and dialog.locator("a").count() == 0
    page.get_by_label("Key", exact=True).fill("sk-the-right-one")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(page.locator("#chat-model")).to_have_text(MODEL)
    page.reload()
    expect(page.locator("#chat-model")).to_have_text(MODEL)
    page.get_by_label("Message", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".assistant > .markdown")).to_have_text("Hello.")
    assert page.evaluate("sessionStorage['vllm-engine.key']") == "sk-the-right-one"
    elsewhere = page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
    assert "sk-the-right-one" not in elsewhere
    page.get_by_role("button", name="Copy as code").click()
    reads = {"curl": "$API_KEY", "Python": 'os.environ["API_KEY"]', "JavaScript": "process.env.API_KEY"}
    for name, read in reads.items():
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#code")).to_contain_text(read)
        assert "sk-the-right-one" not in page.locator("#code").inner_text()
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget it").click()
    assert "sk-the-right-one" not in page.evaluate("JSON.stringify(sessionStorage)")
    expect(page.locator("#notice")).to_contain_text("This server asks for an API key.")
