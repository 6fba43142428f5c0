"""The status view: how a start goes, why it failed, what runs, and the last fifteen minutes."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import psutil
import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server, StartServer
from tests.support.program import until

GPUS: list[dict[str, Any]] = [
    {"index": 0, "name": "NVIDIA H100 80GB HBM3", "memory_used_bytes": 60 << 30, "memory_total_bytes": 80 << 30,
     "utilization": 0.97, "temperature_celsius": 61, "power_watts": 512.4},
    {"index": 1, "name": "NVIDIA A100 MIG", "memory_used_bytes": None, "memory_total_bytes": None,
     "utilization": None, "temperature_celsius": None, "power_watts": None},
]  # fmt: skip
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
    page.keyboard.press("Enter")
    expect(page.locator(".stats")).to_have_count(1)
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#state .steps")).to_be_hidden()
    server.program.close()
    # As if its reader had come back to it: the page asks at once, and not within five seconds.
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#pill")).to_have_text("Offline")
    expect(page.locator("#state .big")).to_have_text("The server cannot be reached")
    # A button that cannot do its work says why.
    page.get_by_role("link", name="Chat").click()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#announcer")).to_contain_text("The server cannot be reached.")
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


def test_an_idle_engine(visit: Visit, server: Server) -> None:
    """The page says so and keeps what it knows, and a message can be sent: it is what starts the engine."""
    page = visit.page
    health = server.program.client.get("/healthz").json() | {"status": "idle", "state": "idle"}
    page.route("**/ui/state", lambda route: route.fulfill(json={"needs_key": False, "health": health}))
    visit.open(server.url)
    expect(page.locator("#pill")).to_have_text("Idle")
    expect(page.locator("#notice")).to_contain_text("A message starts it")
    page.get_by_label("Message", exact=True).fill("Hi")
    expect(page.locator("#send")).to_be_enabled()
    page.get_by_role("link", name="Status").click()
    expect(page.locator("#state .big")).to_have_text("Idle")
    expect(page.locator("#state .lead")).to_contain_text("The next request starts it again.")
    expect(page.locator("#state .steps")).to_be_hidden()


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


KEYS = {"alice": "sk-the-key-of-alice", "bob": "sk-the-key-of-bob"}


def test_what_operators_see(start: StartServer, visit: Visit) -> None:
    """Requests by status and by key, a failure and its remedy, the machine, settings and their source; no key, no sight."""
    server = start(API_KEYS=" ".join(f"{name}:{key}" for name, key in KEYS.items()), MAX_NUM_SEQS="7")
    bob = {"Authorization": f"Bearer {KEYS['bob']}"}
    server.program.until_ready()
    client = server.program.client
    for key, count in ((KEYS["alice"], 3), (KEYS["bob"], 1), ("sk-a-wrong-one", 2)):
        for _ in range(count):
            client.post("/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {key}"})
    psutil.Process(server.program.engine_pid()).kill()
    until(lambda: client.get("/ui/status", headers=bob).json()["failures"], "the failure")
    server.program.until_ready()
    assert client.get("/ui/status").status_code == 401
    visit.page.add_init_script(
        f"if (location.protocol === 'http:') sessionStorage.setItem('vllm-engine.key', '{KEYS['bob']}')"
    )
    page = visit.open(f"{server.url}/#status")
    rows = page.get_by_role("table", name="Requests by status").locator("tbody tr")
    expect(rows.filter(has_text="200")).to_contain_text("answered")
    expect(rows.filter(has_text="401").locator("td").last).to_have_text("3")
    keys = page.get_by_role("table", name="Work by API key").locator("tbody tr")
    expect(keys).to_have_count(2)
    assert keys.first.locator("td").all_inner_texts()[:3] == ["alice", "3", "0"]
    expect(page.locator("#tiles")).to_contain_text("Engine restarts")
    failure = page.locator("#failures article")
    error = next(
        iter(client.get("/ui/status", headers={"Authorization": f"Bearer {KEYS['bob']}"}).json()["failures"])
    )
    expect(failure).to_contain_text(error["message"][1:])
    expect(failure).to_contain_text(error["remedy"][1:])
    link = failure.get_by_role("link", name=error["code"])
    expect(link).to_have_attribute("href", re.compile(rf"/docs/operate/troubleshooting\.md#{error['code']}$"))
    for name, value, source in (("API_KEYS", "***", "environment"), ("MAX_NUM_SEQS", "7", "environment")):
        row = page.locator("#settings tr", has=page.get_by_text(name, exact=True))
        assert row.locator("td").all_inner_texts() == [name, value, source]
    expect(page.locator("#machine").get_by_role("meter")).to_have_count(2)
    defaults = page.locator("#settings details")
    defaults.locator("summary").click()
    with page.expect_response("**/ui/status"):
        pass
    expect(defaults.get_by_text("MAX_QUEUE", exact=True)).to_be_visible()
    text = client.get("/ui/status", headers=bob).text
    assert not [key for key in KEYS.values() if key in text + page.content()]


def test_gpus(visit: Visit, server: Server) -> None:
    """Memory and utilisation of each, as the driver tells them; what it does not tell is left open."""
    report = server.program.client.get("/ui/status").json()
    page = visit.page
    page.route("**/ui/status", lambda route: route.fulfill(json=report | {"gpus": GPUS}))
    visit.open(f"{server.url}/#status")
    devices = page.locator("#machine .device")
    expect(devices).to_have_count(4)
    memory = devices.first.get_by_role("meter", name="Memory")
    expect(memory).to_have_attribute("aria-valuenow", "75")
    expect(devices.first).to_contain_text("60.0 GiB of 80.0 GiB")
    expect(devices.first).to_contain_text("61 °C, 512 W")
    expect(devices.nth(1)).to_contain_text("GPU 1: NVIDIA A100 MIG")
    report |= {"gpus": []}
    page.unroute_all()
    page.route("**/ui/status", lambda route: route.fulfill(json=report))
    page.reload()
    expect(page.locator("#machine")).to_contain_text("The NVIDIA driver does not answer.")


def test_programs_to_paste(visit: Visit, server: Server) -> None:
    """The card has the base URL, and programs that run as they stand."""
    server.engine(text="Tokyo.")
    page = visit.open(f"{server.url}/#status")
    card = page.locator("#clients")
    expect(card).to_contain_text(f"{server.url}/v1")
    programs = {}
    for name in ("curl", "Python", "JavaScript", "LangChain", "LiteLLM", "Environment"):
        card.get_by_role("button", name=name, exact=True).click()
        card.get_by_role("button", name="Copy: Ready to paste").click()
        expect(card.get_by_role("button", name="Copy: Ready to paste")).to_have_text("Copied")
        programs[name] = page.evaluate("navigator.clipboard.readText()")
        assert MODEL in programs[name] and server.url in programs[name], name
    for command, name in (["bash", "-euc"], "curl"), ([sys.executable, "-c"], "Python"):
        done = subprocess.run(
            [*command, programs[name]], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, "Tokyo." in done.stdout) == (0, True), done.stderr
    for name in ("LangChain", "LiteLLM"):
        compile(programs[name], name, "exec")


def test_requests_cut_off_by_leaving(visit: Visit, server: Server) -> None:
    """A page that is being left does not take its own requests' end for that of the server."""
    page = visit.open(f"{server.url}/#status")
    expect(page.locator("#pill")).to_have_text("Ready")
    page.evaluate("""() => {
        const pill = document.querySelector("#pill");
        window.pills = [];
        new MutationObserver(() => pills.push(pill.textContent.trim())).observe(pill, { childList: true, characterData: true, subtree: true }) }""")
    page.route("**/ui/state", lambda route: None)
    with page.expect_request("**/ui/state"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("dispatchEvent(new Event('beforeunload')); stop()")
    page.unroute_all()
    with page.expect_response("**/ui/state"):
        pass
    expect(page.locator("#pill")).to_have_text("Ready")
    assert page.evaluate("pills") == []


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
