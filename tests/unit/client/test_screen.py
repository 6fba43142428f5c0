"""The screen of a start: the line that fits every width, and the commands to paste."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from vllm_engine.cli.screen import next_steps
from vllm_engine.cli.screen.live_line import start_line
from vllm_engine.cli.screen.word_wrap import WordWrap
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.engine_state import EngineStatus, Phase
from vllm_engine.models.download_progress import Download

NOW = 1000.0
URL = "https://127.0.0.1:8000"
PHASES = {Phase.IMPORTING: 20.0, Phase.LOADING_WEIGHTS: 10.0}
KNOWN = EngineStatus(phase=Phase.IMPORTING, started=NOW - 5, phase_entered=NOW - 5, expected=PHASES)
FETCHING = EngineStatus(
    phase=Phase.DOWNLOADING,
    started=NOW - 65,
    phase_entered=NOW - 60,
    download=Download(1, 5, 10**9, 6 * 10**9, 5e7),
)


def drawn(status: EngineStatus, width: int) -> str:
    """Return the line as it stands on a screen."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(start_line(status, NOW, width, Text("⠋")))
    return out.getvalue().removesuffix("\n")


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 200])
def test_the_line_fits(width: int) -> None:
    """It is one line in any window; a narrow one has no bar, a wide one says what there is to say."""
    for status, whole in (
        (KNOWN, ("importing vLLM  5 s", "about 25 s left", "━")),
        (FETCHING, ("downloading  65 s", "1.0 GB of 6.0 GB, 50 MB/s, 100 s left", "━")),
        (EngineStatus(started=NOW), ("preparing  0 s", "━")),
    ):
        line = drawn(status, width)
        assert len(line) <= width
        assert "\n" not in line
        if width >= 80:
            assert [part for part in whole if part not in line] == []


def test_curl_can_be_pasted() -> None:
    """Whatever the model is called; with the key in a variable and the server's own certificate, if there are any."""
    given = {
        "SERVED_MODEL_NAME": "it's-mine",
        "API_KEYS": "me:secret-of-mine",
        "TLS_CERT_FILE": "/a b/cert.pem",
    }
    command = next_steps.curl(load_settings(Environment(given, {})), URL)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:5] == ["curl", "-N", "--cacert", "/a b/cert.pem", f"{URL}/v1/chat/completions"]
    assert "Authorization: Bearer $API_KEY" in words
    assert json.loads(words[-1])["model"] == "it's-mine"
    assert "secret" not in command
    assert next_steps.key_hint(load_settings(Environment(given, {})))[0].startswith("First: export API_KEY=")
    assert next_steps.key_hint(load_settings(Environment({}, {}))) == []
    assert "Authorization" not in next_steps.curl(load_settings(Environment({}, {})), URL)
    assert max(map(len, next_steps.curl(load_settings(Environment({}, {})), URL).splitlines())) < 80
    page = next_steps.addresses(load_settings(Environment({"ENABLE_UI": "0"}, {})), URL)
    assert "Page" not in page
    plain, own = load_settings(Environment({}, {})), load_settings(Environment(given, {}))
    assert next_steps.chat(plain, str(Path("/a b/vllm-engine")), URL) == f"'/a b/vllm-engine' chat {URL}"
    assert next_steps.chat(own, "pytest", URL) == f"SSL_CERT_FILE='/a b/cert.pem' vllm-engine chat {URL}"


def test_an_answer_breaks_between_words() -> None:
    """However its pieces are cut; its own line ends stay, and what has no spaces comes at once."""
    text = "The sky is blue because air scatters blue light.\n\nSo " + "x" * 40 + " is long"
    for size in (1, 3, 7, 1000):
        wrap = WordWrap(20, 3)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        shown = "".join(map(wrap.feed, pieces)) + wrap.flush()
        assert shown.split() == text.split() or "x" * 24 in shown
        lines = f"A: {shown}".split("\n")
        assert [line for line in lines if len(line) > 20 and "x" not in line] == []
        assert lines[:3] == ["A: The sky is blue", "because air scatters", "blue light."]
    wrap = WordWrap(20, 0)
    assert wrap.feed("日本語の文" * 6) == "日本語の文" * 6
