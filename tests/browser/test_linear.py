"""A model's answer costs a browser what its length is worth, whatever it says and in how many pieces it comes."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.chromium import Visit
from tests.browser.conftest import Server
from tests.browser.test_chat import ready

Text = tuple[str, str, str]
"""What comes before, what is repeated, and what comes after."""

FOLDER = Path(__file__).parent
MEASURE = (FOLDER / "linear.js").read_text(encoding="utf-8").partition("\n\n")[2]
STREAM = (FOLDER / "stream.js").read_text(encoding="utf-8").partition("\n\n")[2]
CORPUS: list[str] = json.loads((FOLDER / "xss.json").read_text(encoding="utf-8"))
ALPHABET = "*_~`#>|-+=[]()<!\\:.1a\"'/$ \n\t\r\u2028é"
WORDS = [
    *("**", "__", "~~", "](", "![", "```", "~~~", "```js\n", "```python\n", "    ", "\n\n", "\n- ", "\n1. "),
    *("\n> ", "| ", "|-", "https://", "http://a", "<https://", "javascript:", '\\"', "'''", "/*", "//", "😀"),
    *(
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "$$",
        "$x",
        "\n$$\n",
        "\n\\[\n",
        "\\begin{a}\n",
        "\\end{a}",
        "\n- [x] ",
        "\\|",
    ),
]
KNOWN: list[Text] = [
    ("https://a", "!", "b"), ("```", " ", "`"), ("~~~", "~", "`"), ("# ", " ", "\u2028"), ("- a", "\n", "b"),
    ("- a", "\n ", "b"), ("```js\n", '"\\"', "\n```"), ('```js\n"', '\\"', "\n```"), ("", "[", "]("), ("", "<", ""),
    ("", "<https:", ">"), ("", "ahttps://", ""), ("", "https://[", ""), ("", "[](", ""), ("", "[a](javascript:", ")"),
    ("", "*", ""), ("", "a\n\n", ""), ("https://", "ü", ""),
    ("", "\\(", "\\]"), ("", "$a ", ""), ("$", "a", "$"), ("", "$$ $", "$"), ("\\[", "\n\\[", ""), ("", "\\begin{a}\n", "\n\n"),
    ("", "\n$$ a\n- b", ""), ("", "- [ ] ", ""), ("a|b\n-|-\n", "\\|", "|"), ("$", "a b ", "$"),
]  # fmt: skip


def texts(count: int) -> list[Text]:
    """Return every character and every pair, and as many mixtures."""
    pairs = ["".join(pair) for pair in itertools.product(ALPHABET, repeat=2)]
    source = random.Random(1)
    tokens = [*ALPHABET, *WORDS]

    def some(least: int, most: int) -> str:
        return "".join(source.choices(tokens, k=source.randint(least, most)))

    mixtures = [(some(0, 3), some(1, 4), some(0, 3)) for _ in range(count)]
    return [*(("", unit, "") for unit in (*tokens, *pairs)), *mixtures]


def slow(page: Page, some: list[Text], length: int) -> list[object]:
    """Have them shown at this length and at four times it; returns those whose time grew by more."""
    found: list[object] = page.evaluate(MEASURE, {"texts": some, "length": length})
    return found


def test_time_is_linear(visit: Visit, server: Server) -> None:
    """What once took seconds, and some pairs and mixtures of Markdown's characters, repeated."""
    page = ready(visit, server.url)
    assert slow(page, KNOWN, 25_000) == []
    assert slow(page, random.Random(0).sample(texts(300), 150), 10_000) == []


def test_no_more_cells_than_letters(visit: Visit, server: Server) -> None:
    """A wide head over many short rows is not a table of all their cells."""
    page = ready(visit, server.url)
    text = "|" + "a|" * 500 + "\n|" + "-|" * 500 + "\n" + "|b\n" * 500
    assert page.evaluate(STREAM, {"text": text, "sizes": [len(text)]})["atOnce"] < len(text)


def test_stream_is_linear(visit: Visit, server: Server) -> None:
    """Shown in thousands of pieces, a long text makes some times as many elements as shown at once, and no more."""
    page = ready(visit, server.url)
    code = "```js\n" + 'let a = "b";\n' * 4000
    for text in ("**a** " * 10_000, code, "- *a*\n" * 8000, "*a* b\n\n" * 8000):
        seen = page.evaluate(STREAM, {"text": text, "sizes": [10]})
        assert seen["same"] and seen["inPieces"] < 50 * seen["atOnce"], text[:20]


def test_streams_end_alike(visit: Visit, server: Server) -> None:
    """However it is cut, a text that comes in pieces looks in the end as if it had come at once."""
    page = ready(visit, server.url)
    source = random.Random(2)
    tokens = [*ALPHABET, *WORDS, "\n", "\n", "word ", "\r\n", "\n- ", "\n|a|b|\n|-|-|\n|c|d|\n"]
    mixtures = ["".join(source.choices(tokens, k=60)) for _ in range(400)]
    for text in [*CORPUS, *mixtures]:
        sizes = source.choices([1, 1, 2, 3, 7, 20], k=9)
        assert page.evaluate(STREAM, {"text": text, "sizes": sizes})["same"], text


_EVENTS = """async ({ text, size }) => {
    const { EventReader } = await import(new URL("ui/lib/sse.js", document.baseURI));
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < text.length; at += size) events.push(...reader.push(text.slice(at, at + size)));
    return events }"""


def test_events_however_cut(visit: Visit, server: Server) -> None:
    """Events have any of the three line ends, and are cut anywhere."""
    page = ready(visit, server.url)
    text = "data: a\n\ndata: b\r\n\r\n: comment\r\rdata:c\rdata: d\r\nid: 1\n\r\ndata: not whole"
    for size in (1, 2, 3, 5, 1000):
        assert page.evaluate(_EVENTS, {"text": text, "size": size}) == ["a", "b", "c\nd"]
