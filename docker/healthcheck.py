"""Docker's health check: exit 0 if /healthz says 200 (ready, or idle), else 1; prints what it says."""

import glob
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


OTHERS = {
    "HOST": ("LLAMA_ARG_HOST",),
    "PORT": ("NIM_SERVER_PORT", "LLAMA_ARG_PORT"),
    "TLS_CERT_FILE": ("LLAMA_ARG_SSL_CERT_FILE",),
}
"""Other engines' names for these, which the program reads as well (SAME in migration.py)."""


def told_url() -> str:
    """Return the address of /healthz that the server has left, as its options may say where; else nothing."""
    roots = {os.environ.get("TMPDIR") or "/tmp", "/tmp"}
    found = [path for root in roots for path in glob.glob(f"{root}/vllm-engine-????????/health-url")]
    try:
        with open(max(found, key=os.path.getmtime)) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def url() -> str:
    """Return the address of /healthz: HEALTH_PORT where there is one, since that is never TLS."""
    host = value_of("HOST")
    host = ANYWHERE.get(host, f"[{host}]" if ":" in host else host)
    if port := value_of("HEALTH_PORT"):
        return f"http://{host}:{port}/healthz"
    scheme = "https" if value_of("TLS_CERT_FILE") else "http"
    return f"{scheme}://{host}:{value_of('PORT') or 8000}/healthz"


def value_of(name: str) -> str:
    """Return a setting's value; a port such as `HEALTH_PORT=tcp://...`, which Kubernetes makes, is none."""
    values = (os.environ.get(each, "").strip() for each in (name, *OTHERS.get(name, ())))
    return next((value for value in values if value.isdigit() or (value and "PORT" not in name)), "")


def main() -> int:
    """Ask, print a line for `docker inspect`, return the status."""
    # It asks itself, under a name that the certificate need not have.
    context = ssl._create_unverified_context()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    is_ready = False
    try:
        with opener.open(told_url() or url(), timeout=4) as answer:
            body = json.load(answer)
            is_ready = True
    except urllib.error.HTTPError as error:
        try:
            body = json.load(error)
        except ValueError:
            body = {"state": f"HTTP {error.code}"}
    except (OSError, ValueError) as error:
        print(f"no answer: {error}")
        return 1
    failure = body.get("error") or {}
    print(*filter(None, (body.get("state"), body.get("phase"), failure.get("message"))))
    return 0 if is_ready else 1


if __name__ == "__main__":
    sys.exit(main())
