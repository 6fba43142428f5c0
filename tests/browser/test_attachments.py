"""What is attached: text files as context, and images where the model takes them, in a bounded size."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from typing import Any

from playwright.sync_api import FilePayload, Page, Route, expect

from tests.browser.chromium import Visit
from tests.browser.conftest import Server
from tests.browser.test_chat import bodies, ready, say, until_ready

NOTES = FilePayload(name="notes.md", mimeType="text/markdown", buffer=b"one\n```\ntwo\n```\n")
IN_REQUEST = "notes.md:\n\n````\none\n```\ntwo\n```\n````\n\nWhat is it?"
_PUT = """({ kind, name, type, data }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const held = new DataTransfer();
    held.items.add(new File([bytes], name, { type }));
    const target = document.querySelector("#prompt");
    const options = { bubbles: true, cancelable: true };
    target.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", { ...options, clipboardData: held })
        : new DragEvent("drop", { ...options, dataTransfer: held })) }"""
_SIZE = """async (url) => {
    const image = await createImageBitmap(await (await fetch(url)).blob());
    return [image.width, image.height] }"""
_CHECK = """async (values) => {
    const { isAttachment, withAttachments } = await import(new URL("ui/attachments/attachment.js", document.baseURI));
    return values.map((value) => [isAttachment(value), withAttachments("x", [value])]) }"""

HOSTILE: list[Any] = [
    {"kind": "image", "name": "x", "url": "https://evil.invalid/pwned.png"},
    {"kind": "image", "name": "x", "url": "data:image/svg+xml;base64,PHN2Zy8+"},
    {"kind": "image", "name": "x", "url": "data:text/html;base64,PHN2Zy8+"},
    {"kind": "image", "name": "x", "url": "javascript:window.pwned=1"},
    {"kind": "image", "name": "x", "url": 'data:image/png;base64,AAAA" onerror="window.pwned=1'},
    {"kind": "image", "name": {"toString": "x"}, "url": "data:image/png;base64,AAAA"},
    {"kind": "text", "name": "x", "text": "a" * 200_001},
    {"kind": "other", "name": "x", "text": "a", "url": "data:image/png;base64,AAAA"},
    None,
]


def png(width: int, height: int) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\x30\x60\xc0" * width) * height
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


def takes_images(page: Page) -> None:
    """Have the server say that its model takes images."""

    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | {"input_modalities": ["text", "image"]})

    page.route("**/version", answer)


def test_text_files_are_context(visit: Visit, server: Server) -> None:
    """A text file goes with its message and its edits, in a fence that it cannot close; what is no text does not."""
    server.engine(text="Notes.")
    page = ready(visit, server.url)
    files = page.locator("#attach-files")
    for name, content, told in (
        ("big.txt", b"a" * 200_001, "big.txt has 200 kB; text files may have 200 kB."),
        ("a.bin", b"\xff\xfe\0", "a.bin is not text in UTF-8."),
        ("zero.txt", b"a\0b", "zero.txt is not text in UTF-8."),
    ):
        files.set_input_files(FilePayload(name=name, mimeType="", buffer=content))
        expect(page.locator("#attach-problem")).to_have_text(told)
    files.set_input_files(FilePayload(name="x.png", mimeType="image/png", buffer=png(1, 1)))
    expect(page.locator("#attach-problem")).to_have_text("x.png: this model takes no images.")
    files.set_input_files([NOTES, FilePayload(name="other.txt", mimeType="", buffer=b"x")])
    expect(page.locator("#attach-problem")).to_be_hidden()
    page.get_by_role("button", name="Remove other.txt").click()
    expect(page.locator("#attached")).to_contain_text("notes.md")
    seen = bodies(page)
    say(page, "What is it?")
    expect(page.locator(".stats")).to_have_count(1)
    expect(page.locator("#attached")).to_be_hidden()
    page.reload()
    until_ready(page)
    expect(page.locator(".user .attached")).to_contain_text("notes.md")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("Again?")
    page.keyboard.press("Enter")
    expect(page.locator(".stats")).to_have_count(1)
    contents = [body["messages"][-1]["content"] for body in seen]
    assert contents == [IN_REQUEST, IN_REQUEST.replace("What is it?", "Again?")]


def test_images(visit: Visit, server: Server) -> None:
    """Chosen, pasted and dropped images are made smaller, shown, sent as data URLs, and shortened in code."""
    server.engine(text="![x](data:image/png;base64,AAAA) ![y](https://evil.invalid/pwned.png)")
    takes_images(visit.page)
    page = ready(visit, server.url)
    expect(page.get_by_role("button", name="Attach images or text files")).to_be_visible()
    page.locator("#attach-files").set_input_files(
        FilePayload(name="wide.png", mimeType="image/png", buffer=png(3000, 1000))
    )
    small = base64.b64encode(png(20, 10)).decode()
    for kind in ("paste", "drop"):
        page.evaluate(_PUT, {"kind": kind, "name": f"{kind}.png", "type": "image/png", "data": small})
        expect(page.locator("#attached")).to_contain_text(f"{kind}.png")
    page.locator("#attach-files").set_input_files(
        FilePayload(name="broken.png", mimeType="image/png", buffer=b"no")
    )
    expect(page.locator("#attach-problem")).to_have_text("broken.png cannot be read as an image.")
    assert visit.axe() == []
    page.get_by_label("Message", exact=True).fill("What is it?")
    page.get_by_role("button", name="Copy as code").click()
    expect(page.locator("#code")).to_contain_text('"url": "data:image/jpeg;base64,…"')
    expect(page.locator("#code")).to_contain_text("# Put the image's data, in Base64, in place of the …")
    page.keyboard.press("Escape")
    seen = bodies(page)
    say(page, "What is it?")
    expect(page.locator(".stats")).to_have_count(1)
    *images, text = seen[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert all(
        re.match("data:image/jpeg;base64,[A-Za-z0-9+/]+=*$", one["image_url"]["url"]) for one in images
    )
    urls = [one["image_url"]["url"] for one in images]
    visit.page.goto("about:blank")
    assert [page.evaluate(_SIZE, url) for url in urls] == [[1536, 512], [20, 10], [20, 10]]
    page = ready(visit, server.url)
    pictures = page.locator(".user img")
    expect(pictures).to_have_count(3)
    assert pictures.evaluate_all("all => all.map((one) => one.naturalWidth)") == [1536, 20, 20]
    assert page.locator(".assistant img").count() == 0


def test_hostile_attachments(visit: Visit, server: Server) -> None:
    """What an imported file calls an attachment is neither shown nor sent unless it is one."""
    page = ready(visit, server.url)
    assert page.evaluate(_CHECK, HOSTILE) == [[False, "x"]] * len(HOSTILE)
