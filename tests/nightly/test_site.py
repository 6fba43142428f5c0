"""The built documentation in Chromium: nothing comes from elsewhere, and at 1280 pixels nothing scrolls sideways."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.browser.chromium import Visit, chromium
from tests.support.doc_blocks import ROOT
from tests.unit.docs.test_docs import pages

_TOO_WIDE = """() => [document.documentElement, ...document.querySelectorAll(".md-typeset__scrollwrap")]
    .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent.trim().slice(0, 60))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The site, built as for publishing, on a port of its own."""
    done = subprocess.run(["make", "site"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(ROOT / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_page(site: str) -> None:
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    with chromium() as browser:
        visit = Visit(browser, viewport={"width": 1280, "height": 800})
        for name in listed:
            path = Path(name).with_suffix("")
            shown = visit.open(f"{site}/{'' if path.name == 'index' else f'{path}/'}")
            shown.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
            assert shown.evaluate(_TOO_WIDE) == [], name
            assert shown.locator(".md-source").first.get_attribute("href"), name
            assert shown.locator(".md-footer__link").count() >= 1, name
            assert shown.locator("form[data-md-component=palette] input").count() == 3, name
        assert [url for url in visit.requests if not url.startswith((site, "about:", "data:", "blob:"))] == []
        visit.close()
