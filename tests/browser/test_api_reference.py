"""The API reference at /docs: what is really served, to read, to search, to take along and to paste."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.chromium import Visit
from tests.browser.conftest import MODEL, Server
from tests.browser.test_safety import assert_home_only

CHAT = "POST /v1/chat/completions"


def operations(visit: Visit) -> list[str]:
    """Return method and path of each operation that is shown."""
    shown = visit.page.locator(".operation:visible > summary")
    return [
        f"{one.locator('.method').inner_text()} {one.locator('code').inner_text()}" for one in shown.all()
    ]


def test_what_is_served(visit: Visit, server: Server) -> None:
    """The model's routes that can be reached, and ours; fields are unfolded one by one, and nothing is from elsewhere."""
    server.engine(text="Tokyo.")
    page = visit.open(f"{server.url}/docs")
    expect(page.get_by_role("link", name="API", exact=True)).to_have_attribute("aria-current", "page")
    expect(page.locator(".operation").first).to_be_visible()
    shown = operations(visit)
    assert shown[0] == CHAT
    assert {
        "GET /v1/models",
        "GET /livez",
        "GET /metrics",
        "GET /ui/status",
        "GET /v1/responses/{response_id}",
    } <= {*shown}
    assert not [one for one in shown if "scale" in one or "/load" in one]
    operation = page.locator(".operation").first
    operation.locator("summary").first.click()
    operation.locator("summary", has_text="ChatCompletionRequest").click()
    fields = operation.locator(".fields").first
    expect(fields.locator("> li").first).to_contain_text(
        "messagesarray of UserMessage or ToolMessagerequired"
    )
    expect(fields).to_contain_text('default "right"')
    # A filter is made of filters: it unfolds as far as one likes.
    page.locator("li", has=page.get_by_text("filter", exact=True)).locator("summary").first.click()
    inner = page.locator(".fields .fields li").filter(has_text="of").last
    inner.locator("summary").first.click()
    expect(page.locator(".fields .fields .fields")).to_have_count(1)
    command = operation.locator("pre").inner_text()
    assert MODEL in command
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Tokyo." in done.stdout, done.stderr
    assert_home_only(visit, server.url)
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_search_and_download(visit: Visit, server: Server, tmp_path: Path) -> None:
    """Words narrow the list; the document itself is a file that tools can read."""
    page = visit.open(f"{server.url}/#api")
    page.get_by_label("Find").fill("get LIVE")
    expect(page.locator("#api [role=status]")).to_have_text("1 operation")
    assert operations(visit) == ["GET /livez"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download openapi.json").click()
    download.value.save_as(tmp_path / "openapi.json")
    document = json.loads((tmp_path / "openapi.json").read_text())
    assert document == server.program.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1") and "/v1/chat/completions" in document["paths"]


def test_not_yet_described(visit: Visit, server: Server) -> None:
    """What is missing is said, and asked for again; whatever a description holds is text."""
    bad = "<img src=x onerror=window.pwned=1>"
    operation = {
        "summary": bad,
        "description": bad,
        "responses": {"200": {"description": bad}},
        "tags": ["model"],
    }
    document = {
        "openapi": "3.1.0",
        "info": {"title": bad, "x-note": f"By name alone. {bad}"},
        "paths": {f"/{bad}": {"get": operation}},
    }
    page = visit.page
    page.route("**/openapi.json", lambda route: route.fulfill(json=document))
    visit.open(f"{server.url}/#api")
    expect(page.locator(".note")).to_contain_text("By name alone.")
    page.locator(".operation summary").first.click()
    expect(page.locator(".inside")).to_contain_text(bad)
    assert (page.locator("img").count(), page.evaluate("window.pwned")) == (0, None)
    page.unroute_all()
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".note")).to_have_count(0)
    assert CHAT in operations(visit)
