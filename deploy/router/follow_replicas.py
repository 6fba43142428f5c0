"""Run vllm-router, and keep its workers those that a host name stands for.

    follow_replicas.py http://engine:8000 [options of vllm-router]

The router takes a fixed list of workers, or Kubernetes'. Elsewhere a name with one address for each
replica, as Docker gives to a service, is all there is to find them by. Every two seconds new addresses
whose `/health` is 200 are added by the router's own API, and those that the name has lost are removed.
The streams of a removed worker go on.
Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

SECONDS = 2.0
TIMEOUT_SECONDS = 5.0
# The environment's proxy leads outside; workers and the router are inside.
_opener = build_opener(ProxyHandler({}))


def main(argv: list[str]) -> int:
    """Run until the router ends; returns its exit status."""
    if not argv or not argv[0].startswith("http://"):
        print(__doc__, file=sys.stderr)
        return 2
    replicas, options = argv[0], argv[1:]
    program = Path(sys.executable).with_name("vllm-router")
    router = subprocess.Popen([str(program), *options])

    def pass_on(number: int, _: FrameType | None) -> None:
        router.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    api = own_api(options)
    while True:
        try:
            status = router.wait(SECONDS)
        except subprocess.TimeoutExpired:
            follow(api, replicas)
        else:
            # As a shell says it: 128 and the signal's number.
            return status if status >= 0 else 128 - status


def own_api(options: list[str]) -> str:
    """Return where the router answers with these options; 30000 is its own default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", default="30000")
    return f"http://127.0.0.1:{parser.parse_known_args(options)[0].port}"


def follow(api: str, replicas: str) -> None:
    """Add and remove workers once. What cannot be asked now is asked the next time."""
    try:
        found = addresses(replicas)
        known = set(json.loads(ask("GET", f"{api}/list_workers"))["urls"])
    except (OSError, ValueError, KeyError):
        # A name server that is away says nothing about the workers: they stay, and their health is checked.
        return
    for url in sorted(found - known):
        if is_healthy(url):
            change(api, "add_worker", url)
    for url in sorted(known - found):
        change(api, "remove_worker", url)


def addresses(replicas: str) -> set[str]:
    """Return a URL for each address of the name.

    Raises:
        OSError: the name has none, or nobody can be asked.
    """
    host, port = urlsplit(replicas).hostname or "", urlsplit(replicas).port or 80
    found = {str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    return {f"http://[{one}]:{port}" if ":" in one else f"http://{one}:{port}" for one in found}


def is_healthy(url: str) -> bool:
    """Say whether a worker takes requests; the router would wait for one that does not."""
    try:
        ask("GET", f"{url}/health")
    except OSError:
        return False
    return True


def change(api: str, action: str, url: str) -> None:
    """Have the router add or remove a worker, and say so."""
    try:
        said = ask("POST", f"{api}/{action}?url={quote(url, safe='')}")
    except OSError as error:
        said = f"{action} {url}: {error}"
    print(f"follow_replicas: {said}", flush=True)


def ask(method: str, url: str) -> str:
    """Return the answer's text.

    Raises:
        OSError: there is none, or its status is an error's.
    """
    with _opener.open(Request(url, method=method), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - http alone
        text: str = answer.read().decode(errors="replace")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
